"""Shards of version 1, ArrayRecord files with an index in CSV, are rewritten."""

import csv
import json
import shutil
import struct

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once, make
from tests.prepare.test_prepare import contents, main
from vmae_jax.data.shards import ShardSource
from vmae_jax.errors import UserError
from vmae_jax.prepare import prepare_shards
from vmae_jax.prepare.layouts import Listed


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
  # All but what tells it from others, by which a run finds its own data again.
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
