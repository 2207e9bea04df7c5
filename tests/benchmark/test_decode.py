"""Speed is not asserted, but that wrong frames are found is."""

import numpy as np
import pytest

from tests.benchmark import decode
from tests.data.clips_on_disk import decode_all, write_video
from vmae_jax.errors import UserError


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp('videos')
  return [write_video(folder / f'{n}.mp4', frames=n) for n in (70, 20)]  # The latter is short.


def test_run(paths):
  result = decode.benchmark_decode(paths, what='tiny', rounds=2, decoders=['vmae_jax'])
  assert (result['what'], result['videos'], result['rounds']) == ('tiny', 2, 2)
  row = result['decoders']['vmae_jax']
  assert (row['frames'], row['wrong_frames']) == (2 * 2 * 16, 0)
  assert row['largest_difference'] < 1
  assert 0 < row['slowest'] <= row['clips_per_cpu_second'] <= row['fastest']


def test_rotation(tmp_path):
  path = write_video(tmp_path / 'turned.mp4', rotation=90)
  result = decode.benchmark_decode([path], what='', rounds=1, decoders=['vmae_jax'])
  assert result['decoders']['vmae_jax']['wrong_frames'] == 0


def _next(path, indices):
  frames = decode_all(path)
  return [frames[(i + 1) % len(frames)] for i in indices]


def _too_few(path, indices):
  return [*(decode_all(path)[i] for i in indices[:-3]), None, None, None]


def _small(path, indices):
  return [decode_all(path)[i][::2] for i in indices]


@pytest.mark.parametrize(('function', 'wrong'), [(_next, 32), (_too_few, 6), (_small, 32)])
def test_wrong_frames_are_counted(paths, monkeypatch, function, wrong):
  monkeypatch.setitem(decode.DECODERS, 'other', ('av', function))
  result = decode.benchmark_decode(paths[:1], what='', rounds=2, decoders=['vmae_jax', 'other'])
  assert result['decoders']['other']['wrong_frames'] == wrong
  assert result['decoders']['vmae_jax']['wrong_frames'] == 0


def test_decoders_take_turns_with_the_same_clips(paths, monkeypatch):
  calls = []

  def spy(name):
    def function(path, indices):
      calls.append((name, indices.tolist()))
      return decode._vmae_jax(path, indices)

    return 'av', function

  for name in 'ab':
    monkeypatch.setitem(decode.DECODERS, name, spy(name))
  decode.benchmark_decode(paths[:1], what='', rounds=3, decoders=['a', 'b'])
  names, clips = zip(*calls[2:], strict=True)  # The first two are for warming up.
  assert ''.join(names) == 'abbaab'
  assert clips[0] == clips[1] != clips[2] == clips[3]


def test_difference():
  right = np.full((2, 2, 3), 250, np.uint8)
  assert decode.difference(right, right) == 0
  assert decode.difference(np.full((2, 2, 3), 4, np.uint8), right) == 246  # Nothing wraps.
  assert decode.difference(right[:1], right) == decode.difference(None, right) == 255


def test_unreadable(tmp_path):
  path = tmp_path / 'x.mp4'
  path.write_bytes(b'no video')
  with pytest.raises(UserError, match=r'x\.mp4 cannot be read \(Invalid data.*\): leave'):
    decode.benchmark_decode([str(path)], what='', rounds=1, decoders=['vmae_jax'])


def test_available(monkeypatch):
  monkeypatch.setitem(decode.DECODERS, 'other', ('no_such_module', None))
  there, missing = decode.available()
  assert 'vmae_jax' in there and 'other' not in there
  assert missing['other'] == "No module named 'no_such_module'"


@pytest.mark.full
def test_opencv(paths):
  result = decode.benchmark_decode(paths, what='', rounds=2, decoders=['vmae_jax', 'opencv'])
  assert result['decoders']['opencv']['wrong_frames'] == 0


def test_table():
  rows = {
    'vmae_jax': dict(clips_per_cpu_second=30.0, slowest=29.0, fastest=31.5),
    'opencv': dict(clips_per_cpu_second=12.0, slowest=11.0, fastest=13.0),
  }
  for name, wrong in (('vmae_jax', 0), ('opencv', 7)):
    rows[name] |= dict(frames=80, wrong_frames=wrong, largest_difference=wrong * 1.5)
  text = decode.table({'what': 'cats', 'videos': 4, 'rounds': 5, 'decoders': rows})
  assert text.startswith('cats: 4 videos') and 'differs from a sequential decode by 3' in text
  assert '| vmae_jax | 30.0 | 29.0 to 31.5 | 1.00 | 0 of 80 | 0.00 |' in text
  assert '| opencv | 12.0 | 11.0 to 13.0 | 2.50 | 7 of 80 | 10.50 |' in text
