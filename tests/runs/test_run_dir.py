"""A folder belongs to one run, and records its config and environment."""

import json
import subprocess
from pathlib import Path

import jax
import ml_collections
import pytest

from tests import started
from vmae_jax import config as config_lib
from vmae_jax.errors import UserError
from vmae_jax.runs import run_dir
from vmae_jax.runs.run_dir import go_on_as_before, prepare_run_dir, write_summary


def config(**changes):
  c = ml_collections.ConfigDict(
    dict(model=dict(size='b', patch=(2, 16, 16)), log=dict(every=10), batch=8, heads=dict())
  )
  c.rate = c.get_ref('batch') * 2
  c.update_from_flattened_dict(changes)
  return c


def test_new_folder_gets_config_and_environment(tmp_path):
  prepare_run_dir(workdir := tmp_path / 'a b' / 'run', config())
  assert sorted(p.name for p in workdir.iterdir()) == ['config.json', 'environment.json']
  text = (workdir / 'config.json').read_text()
  assert json.loads(text) == {
    'batch': 8,
    'heads': {},
    'log': {'every': 10},
    'model': {'patch': [2, 16, 16], 'size': 'b'},
    'rate': 16,
  }
  assert text.index('"batch"') < text.index('"heads"') < text.index('"model"')
  (start,) = json.loads((workdir / 'environment.json').read_text())
  assert start['packages']['jax'] == jax.__version__
  assert start['devices'] == jax.device_count()


def test_same_config_goes_on_and_adds_a_start(tmp_path):
  prepare_run_dir(tmp_path, config())
  (tmp_path / 'metrics.jsonl').touch()
  before = (tmp_path / 'config.json').stat().st_mtime_ns
  prepare_run_dir(tmp_path, config())
  assert (tmp_path / 'config.json').stat().st_mtime_ns == before
  assert len(json.loads((tmp_path / 'environment.json').read_text())) == 2


def test_other_config_is_refused_and_named(tmp_path):
  prepare_run_dir(tmp_path, config())
  text = (tmp_path / 'config.json').read_text()
  other = config(**{'model.size': 'l', 'log.every': 5})
  other.extra = None
  with pytest.raises(UserError) as e:
    prepare_run_dir(tmp_path, other, ignore=['log'])
  message = str(e.value)
  assert 'extra was absent, is null; model.size was "b", is "l". Choose another' in message
  assert 'log.every' not in message and '\n' not in message
  assert (tmp_path / 'config.json').read_text() == text


def older(workdir, *keys):
  """A run with the default config, from before these keys existed."""
  prepare_run_dir(workdir, config_lib.default())
  started.forget(workdir, *keys)


def test_a_run_that_is_older_than_a_key_goes_on(tmp_path):
  older(tmp_path, 'augment', 'data.seconds', 'data.mean', 'regressor.depth')
  text = (tmp_path / 'config.json').read_text()
  prepare_run_dir(tmp_path, config_lib.default(), implied=config_lib.implied())
  assert (tmp_path / 'config.json').read_text() == text
  with pytest.raises(UserError, match='augment.blur was absent, is 0.0'):
    prepare_run_dir(tmp_path, config_lib.default())


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('augment.jitter', 0.8, 'augment.jitter was 0.0, is 0.8. Choose'),
    ('data.stride', 2, 'data.stride was 4, is 2. Choose'),  # A key that the run has.
  ],
)
def test_what_differs_is_refused_in_an_older_run_too(tmp_path, key, value, message):
  older(tmp_path, 'augment')
  other = config_lib.default()
  other.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=message):
    prepare_run_dir(tmp_path, other, implied=config_lib.implied())


def test_an_older_run_keeps_its_behaviour(tmp_path):
  older(tmp_path, 'data.order', 'data.released_end')
  config = config_lib.default()
  with pytest.raises(UserError) as e:
    prepare_run_dir(tmp_path, config, implied=config_lib.implied())
  assert 'data.order was "added", is "hashed"; data.released_end was true, is false' in str(e.value)
  go_on_as_before(tmp_path, config, config_lib.EARLIER)
  assert (config.data.order, config.data.released_end) == ('added', True)
  prepare_run_dir(tmp_path, config, implied=config_lib.implied())


def test_a_new_run_has_the_new_behaviour(tmp_path):
  config = config_lib.default()
  go_on_as_before(tmp_path / 'new', config, config_lib.EARLIER)
  prepare_run_dir(tmp_path, config)
  go_on_as_before(tmp_path, config, config_lib.EARLIER)
  assert (config.data.order, config.data.released_end) == ('hashed', False)


def test_a_key_that_is_gone_is_refused(tmp_path):
  prepare_run_dir(tmp_path, config_lib.default().unlock())
  other = config_lib.default().unlock()
  del other.augment.blur
  with pytest.raises(UserError, match='augment.blur was 0.0, is absent'):
    prepare_run_dir(tmp_path, other, implied=config_lib.implied())


def test_a_missing_head_is_a_difference(tmp_path):
  other = config_lib.default().unlock()
  other.heads.hog = other.heads.pixels
  del other.heads.pixels
  prepare_run_dir(tmp_path, other)
  with_pixels = config_lib.default().unlock()
  with_pixels.heads.hog = other.heads.hog
  with pytest.raises(UserError, match='heads.pixels.decoder was absent, is "decoder"'):
    prepare_run_dir(tmp_path, with_pixels, implied=config_lib.implied())


def test_ignored_keys_are_whole_words(tmp_path):
  prepare_run_dir(tmp_path, config())
  with pytest.raises(UserError, match='log.every was 10, is 5'):
    prepare_run_dir(tmp_path, config(**{'log.every': 5}), ignore=['lo', 'log.ever'])
  prepare_run_dir(tmp_path, config(**{'log.every': 5}), ignore=['log.every'])


def test_many_differences_are_counted(tmp_path):
  prepare_run_dir(tmp_path, ml_collections.ConfigDict({f'k{i}': 0 for i in range(10)}))
  with pytest.raises(UserError, match='; and 4 more. Choose'):
    prepare_run_dir(tmp_path, ml_collections.ConfigDict({f'k{i}': 1 for i in range(10)}))


def test_foreign_files_are_refused(tmp_path):
  (tmp_path / '.hidden').touch()
  prepare_run_dir(tmp_path, config())
  other = tmp_path / 'thesis'
  other.mkdir()
  (other / 'chapter1.tex').touch()
  with pytest.raises(UserError, match='chapter1.tex'):
    prepare_run_dir(other, config())
  assert [p.name for p in other.iterdir()] == ['chapter1.tex']


@pytest.mark.parametrize('name', ['file', 'file/below'])
def test_folder_that_cannot_be_made(tmp_path, name):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='choose a folder'):
    prepare_run_dir(tmp_path / name, config())


def test_a_bucket_that_orbax_cannot_write_to_is_refused():
  with pytest.raises(UserError, match='mount'):
    prepare_run_dir('s3://bucket/run', config())


def test_a_run_in_a_bucket(memory, monkeypatch):
  monkeypatch.setattr(run_dir, 'BUCKETS', ('memory://',))
  workdir = 'memory://bucket/run'
  for _ in range(2):
    prepare_run_dir(workdir, config())
    for name in ('5/state/x', '6/state/x', '6/commit_success.txt'):
      memory.pipe(f'/bucket/run/checkpoints/{name}', b'')
  assert len(json.loads(memory.cat('/bucket/run/environment.json'))) == 2
  with pytest.raises(UserError, match=f'^{workdir}/config.json: .* batch was 8, is 4'):
    prepare_run_dir(workdir, config(batch=4))
  go_on_as_before(workdir, new := config(), {'late': 1})
  assert new.late == 1
  run_dir.remove_unfinished(workdir)
  assert memory.ls('/bucket/run/checkpoints', detail=False) == ['/bucket/run/checkpoints/6']
  memory.pipe('/bucket/other/thesis.tex', b'')
  with pytest.raises(UserError, match='thesis.tex'):
    prepare_run_dir('memory://bucket/other', config())


def test_broken_config_is_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"a": ')
  with pytest.raises(UserError, match='is not JSON'):
    prepare_run_dir(tmp_path, config())


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  prepare_run_dir(tmp_path, config())
  assert list(tmp_path.iterdir()) == []


def test_summary_replaces_the_earlier_one(tmp_path):
  write_summary(tmp_path, {'loss': 2.0, 'longer': 'x' * 100})
  write_summary(tmp_path, {'loss': 1.0})
  assert json.loads((tmp_path / 'summary.json').read_text()) == {'loss': 1.0}
  assert [p.name for p in tmp_path.iterdir()] == ['summary.json']


def test_git_state_of_a_checkout(tmp_path, monkeypatch):
  def git(*args):
    subprocess.run(
      ['git', '-C', tmp_path, '-c', 'user.name=a', '-c', 'user.email=a@b', *args], check=True
    )

  source = tmp_path / 'package' / 'run_dir.py'
  source.parent.mkdir()
  source.write_text('1')
  monkeypatch.setattr(run_dir, '__file__', str(source))
  git('init', '-q')
  git('commit', '-qm', 'another project', '--allow-empty')
  assert run_dir.environment()['git'] is None  # In a checkout, but not part of it.
  git('add', '.')
  git('commit', '-qm', 'first')
  clean = run_dir.environment()['git']
  assert len(clean['commit']) == 40 and clean['dirty'] is False
  source.write_text('2')
  assert run_dir.environment()['git'] == {'commit': clean['commit'], 'dirty': True}


def test_git_is_not_needed(monkeypatch):
  monkeypatch.setenv('PATH', str(Path('/nonexistent')))
  assert run_dir.environment()['git'] is None
