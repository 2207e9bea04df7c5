"""Features of lists of videos, shard by shard."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.evaluation.test_windows import Shown, make
from vmae_jax.errors import UserError
from vmae_jax.evaluation.extraction import extract_all

LENGTHS = [40, 7, 90, 12, 33, 1, 60]


@jax.jit
def encode(params, video):
  """What video it is, how many frames, and the parameter."""
  x = video.astype(jnp.float32).mean((1, 2, 3, 4))
  return jnp.stack([x, jnp.full_like(x, video.shape[1]), x * 0 + params], -1)


def extract(source, out, **changes):
  out.mkdir(exist_ok=True)
  options = dict(
    windows=make(),
    batch_size=4,
    shard_videos=3,
    threads=3,
    form='safetensors',
    metadata={'pool': 'mean'},
  )
  return extract_all(source, encode, jnp.float32(5), out, **options | changes)


def index(out):
  with (out / 'index.csv').open() as f:
    return list(csv.DictReader(f))


def gathered(out, load=load_file):
  """(path, start, feature) of every row of the index."""
  return [
    (row['path'], int(row['start']), load(out / row['file'])['features'][int(row['row'])].tolist())
    for row in index(out)
  ]


def expected(source, *, without=()):
  return [
    (source.name(i), int(x[0]), [i, 4, 5])
    for i, length in enumerate(source.lengths)
    for x in make().indices(length)
    if i not in without
  ]


@pytest.mark.parametrize('batch_size', [1, 4, 7, 1000])
@pytest.mark.parametrize('shard_videos', [1, 3, 100])
def test_every_clip_once(batch_size, shard_videos, tmp_path):
  source = Shown(LENGTHS)
  sizes = dict(batch_size=batch_size, shard_videos=shard_videos)
  assert extract(source, tmp_path, **sizes) == (len(expected(source)), 0)
  assert gathered(tmp_path) == expected(source)
  assert len(list(tmp_path.glob('features-*'))) == -(-7 // shard_videos)


@pytest.mark.parametrize('shard_videos', [1, 3])
def test_broken_videos_have_no_row(shard_videos, tmp_path):
  source = Shown(LENGTHS, breaks=(0, 4))
  clips, broken = extract(source, tmp_path, shard_videos=shard_videos)
  assert gathered(tmp_path) == expected(source, without=(0, 4))
  assert clips == len(index(tmp_path)) and broken == 2
  assert (tmp_path / 'broken.csv').read_text() == (
    'path,reason\n0,a frame is damaged\n4,a frame is damaged\n'
  )
  assert len(list(tmp_path.glob('features-*'))) == {1: 5, 3: 3}[shard_videos]


def test_it_continues_where_it_stopped(tmp_path):
  source = Shown(LENGTHS)
  with pytest.raises(KeyboardInterrupt):
    source.open, real = lambda i: interrupt() if i == 4 else real(i), source.open
    extract(source, tmp_path)
  source.open = real
  assert not (tmp_path / 'index.csv').exists()
  first = tmp_path / 'features-00000-of-00003.safetensors'
  before = first.stat().st_mtime_ns
  source.read_clips.clear()
  extract(source, tmp_path)
  assert gathered(tmp_path) == expected(source)
  assert min(source.read_clips) == 3 and first.stat().st_mtime_ns == before


def interrupt():
  raise KeyboardInterrupt


def test_a_shard_that_was_not_finished_is_made_again(tmp_path):
  """Killed between the features and the note that they are whole."""
  source = Shown(LENGTHS)
  extract(source, tmp_path)
  (tmp_path / '.shards' / '00001.json').unlink()
  (tmp_path / 'features-00001-of-00003.safetensors').write_bytes(b'half')
  extract(source, tmp_path)
  assert gathered(tmp_path) == expected(source)
  assert [p.name for p in tmp_path.iterdir() if p.name.endswith('.part')] == []


def test_what_a_file_says(tmp_path):
  source = Shown(LENGTHS)
  extract(source, tmp_path, form='npz')
  assert gathered(tmp_path, np.load) == expected(source)
  file = np.load(tmp_path / 'features-00001-of-00003.npz')
  rows = [row for row in index(tmp_path) if row['file'].startswith('features-00001')]
  assert file['video'].tolist() == [int(row['video']) for row in rows]
  assert file['start'].tolist() == [int(row['start']) for row in rows]
  assert file['pool'] == 'mean' and file['features'].dtype == np.float32


def test_shards_of_several_processes(tmp_path, monkeypatch):
  source = Shown(LENGTHS)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr('jax.experimental.multihost_utils.sync_global_devices', lambda _: None)
  for process in (1, 0):  # The first one writes the index, when all have finished.
    monkeypatch.setattr(jax, 'process_index', lambda p=process: p)
    if process:
      with pytest.raises(FileNotFoundError):
        extract(source, tmp_path)
      assert [p.stem for p in (tmp_path / '.shards').iterdir()] == ['00001']
    else:
      source.read_clips.clear()
      extract(source, tmp_path)
  assert not {3, 4, 5} & set(source.read_clips)
  assert gathered(tmp_path) == expected(source)


def test_no_video_can_be_read(tmp_path):
  source = Shown([30, 30], breaks=(0, 1))
  with pytest.raises(UserError, match='none of the 2 videos can be read, such as 0 .a frame'):
    extract(source, tmp_path)
  assert (tmp_path / 'broken.csv').read_text().count('damaged') == 2


def test_features_that_are_not_finite(tmp_path):
  with pytest.raises(UserError, match='NaN'):
    extract_all(
      Shown([20]),
      encode,
      jnp.float32(np.nan),
      tmp_path,
      windows=make(),
      batch_size=2,
      shard_videos=1,
      threads=1,
      form='npz',
      metadata={},
    )
  assert list((tmp_path / '.shards').iterdir()) == []
