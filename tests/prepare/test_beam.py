"""Shards written by Apache Beam: the same folder, to the byte, and the mistakes of users."""

import json
import sys

import pytest

from tests.data.clips_on_disk import write_video
from tests.prepare.test_prepare import contents, main
from vmae_jax.data.shards import PARTS, ShardSource
from vmae_jax.errors import UserError

VIDEOS, SHARD = 20, 5


@pytest.fixture
def source(tmp_path):
  """Videos of two classes, of which one is broken."""
  for i in range(VIDEOS):
    path = tmp_path / f'source/{"ab"[i % 2]}/{i}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames=4 + i % 5, height=32 + 2 * (i % 3), width=48)
  (tmp_path / 'source/a/4.mp4').write_bytes(b'x')
  return tmp_path / 'source'


def prepare(source, out, *options):
  main('folder', source, f'--out={out}', '--shards', f'--shard-videos={SHARD}', *options)


@pytest.mark.full
@pytest.mark.parametrize('encoding', [(), ('--copy',)])
def test_the_same_bytes(source, tmp_path, capfd, encoding):
  prepare(source, tmp_path / 'here', '--workers=2', *encoding)
  capfd.readouterr()
  prepare(source, tmp_path / 'beam', '--beam', *encoding)
  output = capfd.readouterr().out
  assert f'{-(-VIDEOS // SHARD)} shards to write with DirectRunner' in output
  assert f'{VIDEOS - 1} videos in' in output and '1 failed, such as a/4.mp4' in output
  want = contents(tmp_path / 'here')
  assert contents(tmp_path / 'beam') == want and 'train/index.csv' in want
  assert not (tmp_path / 'beam/train' / PARTS).exists()
  assert len(ShardSource(str(tmp_path / 'beam/train'))) == VIDEOS - 1
  prepare(source, tmp_path / 'beam', '--beam', *encoding)  # Nothing is left to do.
  assert 'to write' not in capfd.readouterr().out
  with pytest.raises(UserError, match='holds other shards'):
    prepare(source, tmp_path / 'beam', '--beam', '--gop=30')


@pytest.mark.slow
def test_a_pipeline_that_fails_goes_on(source, tmp_path, monkeypatch, capfd):
  """Some shards are written, then the disk is full; what is there stays, by either engine."""
  from vmae_jax.prepare import beam_shards

  prepare(source, tmp_path / 'whole', '--workers=2')
  want = contents(tmp_path / 'whole')
  finish = beam_shards._finish

  def full(shard, folder, name):
    if name.startswith(('shard-00001', 'shard-00003')):
      raise OSError(28, 'No space left on device')
    finish(shard, folder, name)

  # One shard after the other, so that some are there when it stops.
  options = ('--beam', '--beam-options=--direct_num_workers=1,--direct_running_mode=in_memory')
  for engine in (['--beam'], ['--workers=2']):
    out = tmp_path / engine[0]
    with monkeypatch.context() as patch:
      patch.setattr(beam_shards, '_finish', full)
      with pytest.raises(UserError, match='No space left on device.*goes on from here') as e:
        prepare(source, out, *options)
      assert '\n' not in str(e.value)
    assert not (out / 'train/manifest.json').exists()
    there = {path: path.stat().st_mtime_ns for path in (out / 'train').glob('shard-*')}
    prepare(source, out, *engine)
    assert contents(out) == want
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())


@pytest.mark.full
def test_done_twice(source, tmp_path):
  """Runners may do an element again, also when its shard is complete."""
  from vmae_jax.prepare import beam_shards

  out = tmp_path / 'out'
  (out / PARTS).mkdir(parents=True)
  video = {'id': 'a/0', 'path': str(source / 'a/0.mp4'), 'label': 0}
  todo = {'out': str(out), 'name': 'shard', 'seconds': 60.0, 'encoding': None, 'videos': [video]}
  (out / PARTS / 'todo').write_text(json.dumps(todo))
  beam_shards._write_shard(f'{out}/{PARTS}/todo')
  once = contents(out)
  assert sorted(once) == [f'{PARTS}/shard.json', f'{PARTS}/todo', 'shard']
  beam_shards._write_shard(f'{out}/{PARTS}/todo')
  assert contents(out) == once


@pytest.mark.full
@pytest.mark.parametrize(
  'flags, message',
  [
    ('--runner=DirctRunner', 'Unexpected pipeline runner: DirctRunner'),
    ('--runer=DirectRunner', 'Beam has no flag --runer. Did you mean --runner'),
    ('runner=DirectRunner', "'runner=DirectRunner' is no flag"),
    ('--direct_num_workers=x', 'Beam refuses a value'),
  ],
)
def test_mistaken_flags(source, tmp_path, flags, message):
  with pytest.raises(UserError, match=message) as e:
    prepare(source, tmp_path / 'out', '--beam', f'--beam-options={flags}')
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'out').exists()


@pytest.mark.full
def test_flags_of_clusters():
  from vmae_jax.prepare.beam_shards import pipeline_options

  options = pipeline_options(
    '--runner=FlinkRunner,--flink_master=host:8081,--environment_type=LOOPBACK,--label=a=b,c=d'
  ).get_all_options()
  assert (options['runner'], options['flink_master']) == ('FlinkRunner', 'host:8081')
  assert options['labels'] == ['a=b,c=d']
  options = pipeline_options('').get_all_options()
  assert options['direct_running_mode'] == 'multi_threading'


@pytest.mark.parametrize(
  'options, message',
  [
    (['--shards', '--beam-options=--runner=X'], 'give --beam as well'),
    (['--beam'], '--beam is for shards'),
    (['--shards', '--beam', '--workers=2'], 'its runner decides'),
    (['--shards', '--beam'], r"needs Apache Beam: pip install 'vmae_jax\[beam\]'"),
  ],
)
def test_mistakes(tmp_path, monkeypatch, options, message):
  for name in ('apache_beam', 'apache_beam.options.pipeline_options'):
    monkeypatch.setitem(sys.modules, name, None)
  write_video(tmp_path / 'v.mp4', frames=2)
  with pytest.raises(UserError, match=message) as e:
    main('folder', tmp_path, f'--out={tmp_path}/out', *options)
  assert '\n' not in str(e.value) and not (tmp_path / 'out').exists()
