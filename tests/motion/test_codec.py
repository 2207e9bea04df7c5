"""The codec's motion in videos with known motion, which are encoded here."""

import io
from concurrent.futures import ThreadPoolExecutor

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tests.data.clips_on_disk import write_video
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.frame_folder import FrameFolder
from vmae_jax.data.frames import encode as encode_clip
from vmae_jax.data.lists import Entry
from vmae_jax.data.sources import FileSource, open_source
from vmae_jax.data.video import Video
from vmae_jax.motion.codec import Blocks, codec_flow, cut_motion, filled, known
from vmae_jax.motion.inverse_search import inverse_search

PAN = 3, -2  # Pixels a frame, to the right and upwards.
PYRAMID = {'x264-params': 'b-pyramid=normal:bframes=3:b-adapt=0:ref=4:keyint=12'}
PLAIN = {'x264-params': 'b-pyramid=none:bframes=3:b-adapt=0'}


def pan(frames=24, height=96, width=128):
  """Soft noise that moves by PAN."""
  field = gaussian_filter(np.random.default_rng(0).normal(size=(340, 340)), 3)
  field = np.uint8(255 * (field - field.min()) / np.ptp(field))
  rows, columns = (np.arange(n) for n in (height, width))
  return [
    field[100 - PAN[1] * t + rows[:, None], 150 - PAN[0] * t + columns, None].repeat(3, 2)
    for t in range(frames)
  ]


def encode(path, codec='libx264', options=None, *, rotation=0, mirror=(False, False), **size):
  frames = pan(**size)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25, options=options or {})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = 'yuv420p'
    if rotation or any(mirror):
      stream.set_display_rotation(rotation, *mirror)
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode(None))
  return str(path)


def vectors_of(path, indices):
  with Video(path, vectors=True) as video:
    video.read(indices)
    return {i: blocks.values for i, blocks in video.vectors.items()}


@pytest.mark.parametrize(
  'name, codec, options, without',
  [
    ('v.mp4', 'libx264', PLAIN, 1),
    ('v.mp4', 'libx264', PYRAMID, 2),
    ('v.ts', 'libx264', PYRAMID, 2),  # Start codes in place of lengths.
    ('v.mkv', 'libx264', {'bf': '0'}, 1),
    ('v.ts', 'mpeg2video', {'bf': '2'}, 3),
    ('v.avi', 'mpeg4', {}, 2),
    ('v.mp4', 'mpeg4', {'bf': '2'}, 18),  # libav does not say how blocks in direct mode move.
  ],
)
def test_vectors_are_the_motion_per_frame(tmp_path, name, codec, options, without):
  """Whichever reference a block has: earlier or later, the next frame or one four frames away."""
  found = vectors_of(encode(tmp_path / name, codec, options), range(24))
  assert sorted(found) == list(range(24))
  has = [i for i, values in found.items() if np.isfinite(values).any()]
  assert 0 not in has and len(has) == 24 - without
  for i in has:
    middle = np.nanmedian(found[i], axis=(0, 1))
    np.testing.assert_allclose(middle, PAN, atol=0.3, err_msg=f'frame {i}')


def test_skipped_frames_change_no_vectors(tmp_path):
  """Some frames are not decoded, and decoding starts at several keyframes."""
  path = encode(tmp_path / 'v.mp4', options=PYRAMID, frames=40)
  whole = vectors_of(path, range(40))
  rng = np.random.default_rng(0)
  for count in (1, 2, 3, 5, 9):
    some = rng.choice(40, count, replace=False).tolist()
    found = vectors_of(path, some)
    assert sorted(found) == sorted(some)
    for i in some:
      np.testing.assert_array_equal(found[i], whole[i])


def test_frames_that_are_counted(tmp_path):
  """If frames are reordered and their order of display is unknown, there are no vectors."""
  assert vectors_of(encode(tmp_path / 'v.avi', options=PLAIN), [4, 9]) == {}
  refresh = {'x264-params': 'intra-refresh=1:bframes=0:keyint=8'}
  found = vectors_of(encode(tmp_path / 'v.mp4', options=refresh), [12, 20])
  for values in found.values():
    np.testing.assert_allclose(np.nanmedian(values, axis=(0, 1)), PAN, atol=0.3)
  assert len(found) == 2


@pytest.mark.parametrize(
  'rotation, mirror',
  [(0, (False, False)), (90, (False, False)), (-90, (True, False)), (180, (False, False))],
)
def test_clips_and_their_motion_are_cropped_alike(tmp_path, rotation, mirror):
  """Cropped, resized, mirrored and rotated: an estimator finds this motion in the clip's pixels."""
  path = encode(
    tmp_path / 'v.mp4',
    options=PLAIN,
    frames=40,
    height=144,
    width=176,
    rotation=rotation,
    mirror=mirror,
  )
  sampler = ClipSampler(
    frames=4, size=112, stride=2, crop='resized', flip=True, repeats=4, vectors=14
  )
  source = FileSource((Entry(path),))
  flips = set()
  for epoch in range(2):
    drawn = sampler(source, epoch, 0)
    assert (np.diff(drawn['times']) == 2).all()
    pairs = ((0, 1), (1, 2), (2, 3))
    seen = jax.jit(inverse_search, static_argnames='pairs')(drawn['video'] / 255, pairs=pairs)
    vectors, times = jnp.asarray(drawn['vectors']), jnp.asarray(drawn['times'])
    moved = 112 / 14 * codec_flow(None, pairs=pairs, vectors=vectors, times=times)
    for r in range(4):
      wanted, got = (np.median(x[r], axis=(0, 1, 2)) for x in (seen, moved))
      np.testing.assert_allclose(got, wanted, atol=0.5)
      flips.add(bool(drawn['box'][r, 4]))
  assert flips == {False, True}


def test_blocks_become_cells_by_their_share():
  """Cells of 6 pixels over blocks of 8, by hand: the second has 2 pixels of the first block."""
  values = np.full((2, 2, 2), np.nan, np.float32)
  values[0, 0], values[0, 1] = (1, 2), (5, -2)
  box = (0, 0, 12, 12)
  (cells,) = cut_motion([Blocks(values)], box, flip=False, cells=2).astype(float)
  assert cells[0, 0].tolist() == pytest.approx([1 / 6, 2 / 6], rel=1e-3)
  across = np.array([(2 * 1 + 4 * 5) / 6, (2 * 2 - 4 * 2) / 6]) / 6
  np.testing.assert_allclose(cells[0, 1], across, rtol=1e-3)
  np.testing.assert_allclose(cells[1], cells[0], rtol=1e-3)  # The rest of it has no vectors.
  (turned,) = cut_motion([Blocks(values)], box, flip=True, cells=2).astype(float)
  np.testing.assert_allclose(turned, cells[:, ::-1] * [-1, 1])
  nothing = cut_motion([None, Blocks(values)], (0, 8, 4, 4), flip=False, cells=1)
  assert np.isnan(nothing).all() and nothing.shape == (2, 1, 1, 2)


def test_flow_is_the_later_frames_velocity_times_the_frames_in_between():
  vectors = np.arange(4)[:, None, None, None] * np.full((1, 4, 2, 2, 2), [0.5, -1], np.float32)
  times = jnp.array([[3, 7, 11, 11]])  # The video's last frame, twice.
  pairs = ((0, 1), (2, 1), (0, 2), (2, 3))
  flow = codec_flow(None, pairs=pairs, vectors=jnp.asarray(vectors), times=times)
  assert flow[0, :, 0, 0].tolist() == [[2, -4], [-4, 8], [6, -12], [0, 0]]


def test_missing_vectors():
  """They are filled from neighbours, then from the nearest frame, then with 0."""
  vectors = np.full((1, 5, 4, 4, 2), np.nan, np.float32)
  vectors[0, 1, 0, 0], vectors[0, 1, 0, 1] = (1, 2), (3, 4)
  vectors[0, 4] = 7
  found = filled(jnp.asarray(vectors))[0]
  assert found[1, 0, 0].tolist() == [1, 2] and found[1, 1, 0].tolist() == [2, 3]
  assert found[1, 0, 2].tolist() == [3, 4]
  assert found[0, 1, 0].tolist() == [2, 3]  # The frame after it.
  assert found[2, 0, 0].tolist() == [1, 2] and found[3, 0, 0].tolist() == [7, 7]
  assert found[1, 3, 3].tolist() == [7, 7] and float(found[0, 3, 3, 0]) == 7
  assert not filled(jnp.full((1, 2, 3, 3, 2), jnp.nan)).any()
  assert int(known(jnp.asarray(vectors)).sum()) == 2 + 16


@pytest.mark.parametrize('codec', ['libx265', 'libvpx-vp9', 'libsvtav1', 'vp8'])
def test_codecs_without_vectors_have_none(tmp_path, codec):
  path = write_video(tmp_path / 'v.mkv', frames=10, height=64, codec=codec)
  drawn = ClipSampler(frames=4, size=16, stride=2, vectors=4)(FileSource((Entry(path),)), 0, 0)
  assert np.isnan(drawn['vectors']).all() and drawn['vectors'].shape == (1, 4, 4, 4, 2)


def test_pictures_have_no_vectors(tmp_path):
  from PIL import Image

  Image.fromarray(pan(1)[0]).save(tmp_path / '1.png')
  source = open_source(f'pictures:{tmp_path}')
  assert isinstance(source.open(0, vectors=True), FrameFolder)
  drawn = ClipSampler(frames=4, size=16, stride=2, vectors=4)(source, 0, 0)
  assert np.isnan(drawn['vectors']).all()


def test_a_window_of_a_video_has_its_own_vectors(tmp_path):
  path = encode(tmp_path / 'v.mp4', options=PLAIN)
  with FileSource((Entry(path, start=10, count=8),)).open(0, vectors=True) as video:
    video.read([0, 5])
    found = video.vectors
  whole = vectors_of(path, [10, 15])
  np.testing.assert_array_equal(found[0].values, whole[10])
  np.testing.assert_array_equal(found[5].values, whole[15])


def test_the_synthetic_set_has_a_codecs_motion():
  source = open_source('synthetic:train,size=48,frames=8')
  drawn = ClipSampler(frames=8, size=48, stride=1, crop='centre', vectors=12)(source, 0, 0)
  there = np.isfinite(drawn['vectors'][0]).any(axis=(1, 2, 3))
  assert not there[0] and there[1:].all()
  plain = ClipSampler(frames=8, size=48, stride=1, crop='centre')(source, 0, 0)['video']
  error = np.abs(plain.astype(int) - drawn['video']).mean()
  assert 0 < error < 6  # As a codec keeps it.


def test_encoding_gives_the_same_bytes_each_time():
  """With x264's mbtree it gives other bytes once in a hundred times."""
  clip = open_source('synthetic:train,size=48,frames=8').open(0).read(range(8))
  with ThreadPoolExecutor(4) as pool:
    found = pool.map(lambda _: bytes(encode_clip(clip, rate=8).getbuffer()), range(200))
    assert len(set(found)) == 1


def test_bytes_without_vectors_decode_alike(tmp_path):
  path = encode(tmp_path / 'v.mp4', options=PYRAMID)
  with open(path, 'rb') as file:
    data = file.read()
  with Video(io.BytesIO(data)) as plain, Video(io.BytesIO(data), vectors=True) as other:
    np.testing.assert_array_equal(plain.read([3, 17]), other.read([3, 17]))
    assert plain.vectors == {}
