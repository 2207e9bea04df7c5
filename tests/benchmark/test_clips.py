"""The clips that are made where no videos are given."""

import av
import numpy as np

from tests.benchmark.clips import make_clips
from tests.benchmark.decode import TOLERANCE
from tests.data.clips_on_disk import decode_all


def test_clips(tmp_path):
  (path,) = make_clips(tmp_path, gop=12, count=1, frames=26)
  with av.open(path) as container:
    packets = [p for p in container.demux(video=0) if p.size]
    assert container.streams.video[0].codec_context.has_b_frames
  assert [p.is_keyframe for p in sorted(packets, key=lambda p: p.pts)].count(True) == 3
  frames = np.stack(decode_all(path)).astype(np.int16)
  assert frames.shape == (26, 256, 340, 3)
  # Else a neighbour would pass for the wanted frame.
  assert np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)).min() > 2 * TOLERANCE


def test_clips_differ(tmp_path):
  a, b = (decode_all(path)[0] for path in make_clips(tmp_path, gop=5, count=2, frames=1))
  assert (a != b).any()
