"""Sets grow, and those of version 1, ArrayRecord files with an index in CSV, are rewritten."""

import csv
import functools
import json
import os
import shutil
import struct

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once, contents, main, make
from vmae_jax.data.shards import ShardSource
from vmae_jax.errors import UserError
from vmae_jax.prepare import prepare_shards
from vmae_jax.prepare.encoding import Encoding
from vmae_jax.prepare.layouts import Listed
from vmae_jax.prepare.shard_sets import append_shards


@pytest.fixture
def new(tmp_path, monkeypatch):
  """A set of this version, of five videos, one of which is broken, in three shards."""
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  paths = [write_video(tmp_path / f'{i}.mp4', frames=3 + i) for i in range(4)] + ['none.mp4']
  make(tmp_path / 'new', [Listed(f'v é{i}', p, i % 2) for i, p in enumerate(paths)], shard_videos=2)
  return tmp_path / 'new'


@pytest.fixture
def old(new, tmp_path):
  """What version 1 wrote of the same videos."""
  source, folder, columns = ShardSource(str(new)), tmp_path / 'old', None
  folder.mkdir()
  manifest, numbers = json.loads((new / 'manifest.json').read_text()), iter(range(len(source)))
  with open(folder / 'index.csv', 'w', newline='') as file:
    for k, shard in enumerate(manifest['shards']):
      shard['name'] = f'shard-{k:05d}-of-00003.array_record'
      writer = ArrayRecordWriter(str(folder / shard['name']), 'group_size:1,uncompressed')
      for _ in range(shard['records']):
        header, data = source.read(next(numbers))
        text = json.dumps(vars(header)).encode()
        writer.write(struct.pack('<I', len(text)) + text + data)
        columns = columns or csv.writer(file).writerow(vars(header))
        csv.writer(file).writerow(vars(header).values())
      writer.close()
      shard['size'] = (folder / shard['name']).stat().st_size
  for name in ('index', 'largest'):
    del manifest[name]
  (folder / 'manifest.json').write_text(json.dumps(manifest | {'version': 1, 'hash': 64 * '7'}))
  return folder


def test_upgrade(new, old, tmp_path, memory, capsys):
  with pytest.raises(UserError, match=f'is of version 1.*prepare upgrade {old}') as e:
    ShardSource(str(old))
  assert '\n' not in str(e.value)
  memory.put(str(old), '/old', recursive=True)
  shutil.copytree(old, tmp_path / 'damaged')
  for folder in (str(old), 'memory://old'):
    main('upgrade', folder)
  assert 'upgraded memory://old' in capsys.readouterr().out
  # The same files but for the manifest, which keeps the hash by which a run knows its data.
  files = contents(old)
  assert json.loads(files.pop('manifest.json'))['hash'] == 64 * '7'
  wanted = contents(new)
  wanted.pop('manifest.json')
  assert files == wanted
  there = ShardSource('memory://old')
  assert [there.read(i) for i in range(4)] == [ShardSource(str(new)).read(i) for i in range(4)]
  assert there.about() == 12 * '7' and there.manifest['failures'][0]['id'] == 'v é4'
  main('upgrade', old)
  assert 'kept' in capsys.readouterr().out and contents(old).keys() == contents(new).keys()
  path = tmp_path / 'damaged/shard-00001-of-00003.array_record'
  path.write_bytes(path.read_bytes().replace(b'"label"', b'"lable"'))
  for folder in (tmp_path / 'damaged', tmp_path):
    with pytest.raises(UserError, match='damaged|has no manifest.json') as e:
      main('upgrade', folder)
    assert '\n' not in str(e.value)


class Killed(BaseException):
  """Stands in for a kill."""


def test_append(tmp_path, monkeypatch):
  """Killed at any moment, too: what is there stays where it is, and none comes twice."""
  monkeypatch.setattr(prepare_shards, 'run_all', at_once)
  paths = [write_video(tmp_path / f'{i}.mp4', frames=3 + i) for i in range(5)]
  labels = zip([*paths, 'none.mp4'], (0, 1, 1, 0, 2, 2), strict=True)
  videos = [Listed(f'v{i}', path, label) for i, (path, label) in enumerate(labels)]
  given = dict(about={}, encoding=None, shard_videos=2, workers=1, seconds=60.0)
  write = functools.partial(append_shards, prepare_shards.write_shards)
  first = [*videos[2:4], videos[5]]
  old = write(first, str(tmp_path / 'old'), classes=['a', 'b'], **given)
  assert (
    old['records'] == 2 and write(first, str(tmp_path / 'old'), classes=['a', 'b'], **given) == old
  )
  before = [ShardSource(str(tmp_path / 'old')).read(i) for i in range(2)]
  stop = count = 0

  def slowly(function):
    def call(*arguments):
      nonlocal count
      if not str(arguments[0]).endswith('.lock'):
        count += 1
        if count == stop:
          raise Killed
      function(*arguments)

    return call

  for name in ('replace', 'remove'):
    monkeypatch.setattr(os, name, slowly(getattr(os, name)))
  for stop in range(1, 100):
    out, count = tmp_path / f'out{stop}', 0
    shutil.copytree(tmp_path / 'old', out)
    try:
      manifest = write(videos, str(out), classes=['a', 'b', 'c'], **given)
    except Killed:
      assert len(ShardSource(str(out))) in (2, 5)
      stop_at, stop = stop, 0
      manifest = write(videos, str(out), classes=['a', 'b', 'c'], **given)
      stop = stop_at
    source = ShardSource(str(out))
    assert [source.headers[i].id for i in range(5)] == ['v2', 'v3', 'v0', 'v1', 'v4']
    assert [source.read(i) for i in range(2)] == before
    assert source.read(4)[1] == (tmp_path / '4.mp4').read_bytes()
    assert source.class_names == ('a', 'b', 'c') and manifest['records_of_class'] == [2, 2, 1]
    assert [shard['name'] for shard in manifest['shards']] == [
      f'shard-0000{i}.tar' for i in range(3)
    ]
    assert [x['id'] for x in manifest['failures']] == ['v5'] and manifest['videos'] == 6
    assert sorted(p.name for p in out.iterdir() if p.name != '.append') == sorted(
      ['manifest.json', manifest['index']['name']] + [x['name'] for x in manifest['shards']]
    )
    if count < stop:
      break
  assert stop > 10 and not (out / '.append').exists()
  stop = 0
  write_video(tmp_path / 'none.mp4', frames=9)
  videos[5] = Listed('v5', str(tmp_path / 'none.mp4'), 2)
  again = write(videos, str(out), classes=['a', 'b', 'c'], retry=True, **given)
  assert again['records'] == 6 and again['failures'] == []
  more = [*videos, Listed('w', paths[0], 0)]
  for wrong in ({'classes': ['b', 'a']}, {'classes': ['a', 'b', 'c'], 'encoding': Encoding()}):
    with pytest.raises(UserError, match='other classes|another encoding, None'):
      write(more, str(out), **given | wrong)
  assert len(ShardSource(str(out))) == 6 and not (out / '.append').exists()
