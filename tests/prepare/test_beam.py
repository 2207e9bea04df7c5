"""Shards written by Apache Beam: the same folder, to the byte, and the mistakes of users."""

import hashlib
import sys

import pytest

from tests.data.clips_on_disk import write_video
from tests.data.shards_on_disk import at_once, contents, main
from vmae_jax import storage
from vmae_jax.data.shards import PARTS, ShardSource
from vmae_jax.errors import Unavailable, UserError
from vmae_jax.prepare import beam_shards, prepare_shards, staging
from vmae_jax.prepare.layouts import Listed

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
  assert contents(tmp_path / 'beam') == want and 'train/manifest.json' in want
  assert not (tmp_path / 'beam/train' / PARTS).exists()
  assert len(ShardSource(str(tmp_path / 'beam/train'))) == VIDEOS - 1
  prepare(source, tmp_path / 'beam', '--beam', *encoding)  # Nothing is left to do.
  assert 'to write' not in capfd.readouterr().out
  with pytest.raises(UserError, match='holds other shards'):
    prepare(source, tmp_path / 'beam', '--beam', '--gop=30')


@pytest.mark.slow
def test_a_pipeline_that_failed_continues(source, tmp_path, monkeypatch, capfd):
  """Some shards are written, then the disk is full; what is there stays, by either engine."""
  prepare(source, tmp_path / 'whole', '--workers=2')
  want = contents(tmp_path / 'whole')
  pack = staging.pack

  def full(folder, videos, out, name):
    if name.startswith(('shard-00001', 'shard-00003')):
      raise OSError(28, 'No space left on device')
    return pack(folder, videos, out, name)

  # One shard after the other, so that some are there when it stops.
  options = ('--beam', '--beam-options=--direct_num_workers=1,--direct_running_mode=in_memory')
  for engine in (['--beam'], ['--workers=2']):
    out = tmp_path / engine[0]
    with monkeypatch.context() as patch:
      patch.setattr(staging, 'pack', full)
      with pytest.raises(Unavailable, match='No space left on device.*continues from here') as e:
        prepare(source, out, *options)
      assert '\n' not in str(e.value)
    assert not (out / 'train/manifest.json').exists()
    # Until all shards are there, their names end with 16 digits of their hash.
    parts = (out / 'train' / PARTS).glob(f'shard-*.tar.{"?" * 16}')
    times = {path.stat().st_mtime_ns for path in parts}
    assert 0 < len(times) < VIDEOS // SHARD
    prepare(source, out, *engine)
    assert contents(out) == want
    assert times <= {path.stat().st_mtime_ns for path in (out / 'train').glob('shard-*')}


@pytest.mark.parametrize('moment', range(5))
def test_a_shard_that_two_workers_write_at_the_same_time(source, tmp_path, monkeypatch, moment):
  """Runners may do an element again, also while the first one is at it, and one video fails once.

  What is said of the shard is true of its bytes, whichever comes last.
  """
  monkeypatch.setattr(beam_shards, 'run_all', at_once)
  encode, put, moves = staging.encode_video, storage.put, 0
  videos = [Listed(f'a/{i}', str(source / f'a/{i}.mp4'), 0) for i in (0, 2)]

  def fails(path, encoding):
    if path == videos[1].path:
      raise OSError(5, 'Input/output error')
    return encode(path, encoding)

  def second_time(task):
    with monkeypatch.context() as patch:
      patch.setattr(staging, 'encode_video', fails)
      patch.setattr(storage, 'put', put)
      beam_shards._write_shard(task)

  def write(shards):
    options = {'encoding': None, 'cut': 0.0, 'seconds': 60.0}

    def put_slowly(*arguments):
      nonlocal moves
      moves += 1
      if moves == moment:
        second_time(task)
      put(*arguments)

    monkeypatch.setattr(storage, 'put', put_slowly)
    [task] = beam_shards._write_lists(shards, f'{out}/{PARTS}', **options)
    beam_shards._write_shard(task)
    if moment == 3:
      second_time(task)
    if moment == 4:
      beam_shards._write_shard(task)

  out = tmp_path / 'out'
  options = {'about': {}, 'classes': ['a'], 'encoding': None, 'workers': 1, 'seconds': 60.0}
  manifest = prepare_shards.write_shards(videos, out, write=write, **options)
  shards = ShardSource(str(out))
  assert len(shards) + len(manifest['failures']) == 2
  assert [shards.read(i)[0].id for i in range(len(shards))] == [h.id for h in shards.headers]
  assert len(shards) == (1 if moment == 3 else 2)
  assert sorted(contents(out)) == [
    *(manifest['index']['name'], 'manifest.json'),
    *prepare_shards.shard_names(2, 64),
  ]
  [shard] = manifest['shards']
  assert hashlib.sha256((out / shard['name']).read_bytes()).hexdigest() == shard['sha256']


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
    (['--shards', '--beam', '--workers=2'], 'give it to the runner'),
    (['--shards', '--beam'], 'needs Apache Beam: pip install apache-beam'),
  ],
)
def test_mistakes(tmp_path, monkeypatch, options, message):
  for name in ('apache_beam', 'apache_beam.options.pipeline_options'):
    monkeypatch.setitem(sys.modules, name, None)
  write_video(tmp_path / 'v.mp4', frames=2)
  with pytest.raises(UserError, match=message) as e:
    main('folder', tmp_path, f'--out={tmp_path}/out', *options)
  assert '\n' not in str(e.value) and not (tmp_path / 'out').exists()
