"""The rows of `benchmark loader`; speed is not asserted."""

import numpy as np
import pytest

from configs import videomae
from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.video import Video
from vmae_jax.planning import feeding


def test_rows(monkeypatch):
  monkeypatch.setattr(feeding, 'WARM_UP', 1)
  monkeypatch.setattr(feeding, 'ROUNDS', 1)
  config = videomae.get_config('smoke')
  config.batch_size, config.data.train = 4, 'synthetic:train'
  rows = feeding.feed(config, batches=2, decode=True)
  assert list(rows) == ['copying', 'hand-over', 'loader']
  assert all(row['clips_per_second'] > 0 and row['cpu_ms'] >= 0 for row in rows.values())
  made = {
    name: {'clips_per_second': rate, 'cpu_ms': 2.0} for name, rate in (('copying', 8.0), ('a', 6.0))
  }
  line = feeding.feed_table(made).splitlines()[-1]
  assert line.split() == ['a', '6.0', '2.000', '0.75']
  assert list(feeding.feed(config, batches=1, decode=False)) == ['copying', 'hand-over']


@pytest.mark.full
def test_other_libraries_read_the_same_frames(tmp_path, monkeypatch, capsys):
  path = write_video(tmp_path / 'v.mp4', frames=30)

  def own(path):
    video = Video(path)
    return video.num_frames, video.read

  def none(path):
    raise ImportError('not installed\nat all')

  sampler = ClipSampler(frames=4, stride=2)
  rng = np.random.default_rng([0, 2, 0, 0])
  wanted = np.stack(decode_all(path))[rng.integers(30 - 4 * 2 + 1) + 2 * np.arange(4)]
  np.testing.assert_array_equal(feeding.Rival(own, [path], sampler, 5)[2], wanted)
  monkeypatch.setattr(feeding, 'WARM_UP', 1)
  monkeypatch.setattr(feeding, 'ROUNDS', 1)
  monkeypatch.setattr(feeding, 'RIVALS', {'own': own, 'none': none})
  config = videomae.get_config('smoke')
  config.batch_size, config.data.train = 4, path
  assert list(feeding.feed(config, batches=1, decode=True))[3:] == ['own']
  assert capsys.readouterr().out == 'none is left out: not installed\n'
