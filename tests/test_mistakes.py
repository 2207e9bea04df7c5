"""Mistakes of users: each is answered by one helpful line, before anything is computed."""

import pathlib
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder

import jaxtyping
import pytest
from absl import flags
from absl.testing import flagsaver

from tests import started
from tests.data.clips_on_disk import write_video
from vmae_jax import cli, pretrain
from vmae_jax.config import check
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError

# A run of one step.
SHORT = ('model.scan=True', 'batch_size=4', 'log.pictures=1', 'steps=1')
# As if they were not installed.
BLOCKED = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
class Blind(PathFinder):
  @classmethod
  def find_spec(cls, name, *where):
    blocked = name in ('tensorflow', 'torch', 'transformers')
    return None if blocked else super().find_spec(name, *where)
sys.meta_path[sys.meta_path.index(PathFinder)] = Blind
import vmae_jax
"""


def train(program, workdir, *overrides):
  """Runs SHORT in a new process, after `program`."""
  program += '\nfrom vmae_jax import cli, pretrain\ncli.run(pretrain.main)'
  overrides = [f'--config.{x}' for x in (*SHORT, *overrides)]
  return subprocess.run(
    [
      sys.executable,
      '-c',
      program,
      f'--config={started.SMOKE}',
      f'--workdir={workdir}',
      *overrides,
    ],
    env=started.environment(),
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run made where TensorFlow, PyTorch and transformers cannot be imported."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  done = train(BLOCKED, workdir)
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.fixture
def told(monkeypatch, capsys, tmp_path):
  """Starts pre-training in this process, which must end with one line about the mistake.

  Returns that line and the files that are new; those that were there must be as before.
  """
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  shutil.copy(started.ROOT / 'configs' / 'videomae.py', 'configs')

  def start(*arguments, workdir='run', config='configs/videomae.py:smoke'):
    argv = ['pretrain', f'--config={config}', f'--workdir={workdir}']
    argv = [x for x in argv if not x.endswith('=None')] + list(arguments)
    before = snapshot(tmp_path)
    monkeypatch.setattr(sys, 'argv', argv)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_:
      flags.FLAGS.unparse_flags()
      cli.run(pretrain.main)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1, error
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before
    return error, sorted(after.keys() - before.keys())

  return start


def snapshot(folder):
  """Path -> content of every file below a folder."""
  return {str(p): p.read_bytes() for p in pathlib.Path(folder).rglob('*') if p.is_file()}


# (what is set in the config, parts of the answer)
VALUES = [
  ('maskin.ratio=0.5', ["'maskin'", "Did you mean 'masking'?", 'There is: augment, batch_size, ']),
  ('masking.ratoi=0.5', ['masking.ratoi', "Did you mean 'ratio'?"]),
  ('masking.ratio.low=0.5', ['masking.ratio.low', 'masking.ratio is a value']),
  ('model.patch[0]=4', ["'patch[0]'", "Did you mean 'patch'?"]),
  ('batch_size=many', ['--config.batch_size=many', "'many'", 'give a value like']),
  ('steps=2.5', ['--config.steps=2.5', 'give a value like']),
  ('data.flip=perhaps', ['--config.data.flip=perhaps', 'False']),
  ('masking=3', ['--config.masking=3', 'tube']),
  ('masking.name=tub', ['masking.name', "'tub'", "Did you mean 'tube'?", 'per_slot']),
  ('decoder_masking.name=cell', ['decoder_masking.name', 'running_cell', 'none']),
  ('heads.pixels.target=pixel', ['heads.pixels.target', "Did you mean 'pixels'?"]),
  ('heads.pixels.loss=l2', ['heads.pixels.loss', 'l1', 'mse']),
  ('model.size=base', ['model.size', 'giant']),
  ('model.remat=some', ['model.remat', 'dots, full, none']),
  ('model.dtype=float16', ['model.dtype', 'auto, bfloat16, float32']),
  ('model.attention=flash', ['model.attention', 'cudnn']),
  ('data.crop=random', ['data.crop', 'multi_scale']),
  ('data.sampling=dens', ['data.sampling', 'dense']),
  ('masking.options.sigma=2', ['masking.options', "'sigma'", 'none at all']),
  ('heads.pixels.options.normalize=patch', ["'normalize'", "Did you mean 'normalise'?"]),
  ('masking.name=motion_bins masking.options.gap=two', ["options.gap is 'two'", 'like 2']),
  ('heads.pixels.options.normalise=all', ['normalise', "'all'", 'none, patch']),
  ('data.size=33 model.patch=2,8,8', ['height 33', 'patch, 8', '32 or 40']),
  ('data.frames=7 model.patch=2,8,8', ['frames 7', '6 or 8', 'model.patch']),
  ('data.size=-32', ['data.size is -32', 'at least 1']),
  ('model.patch=8', ['model.patch is (8,)', 'frames, rows, columns']),
  ('data.std=0,0,0', ['data.std', 'above 0']),
  ('batch_size=0', ['batch_size is 0']),
  ('batch_size=10 data.repeats=4', ['batch_size 10', 'data.repeats', '8 or 12']),
  ('optimizer.accumulate=3 batch_size=8', ['batch_size 8', 'optimizer.accumulate 3', '6 or 9']),
  ('optimizer.accumulate=0', ['optimizer.accumulate is 0', 'at least 1']),
  ('log.pictures_every_steps=0', ['log.pictures_every_steps is 0', 'at least 1']),
  ('mesh.data=3', ['mesh data=3', '1 devices', '-1']),
  ('masking.ratio=1.0', ['masking.ratio is 1.0', 'between 0 and 1']),
  ('masking.ratio=0.999999999', ['leaves 0 of', 'tokens visible', 'change masking.ratio']),
  ('masking.ratio=0.01', ['and 0 to predict', 'change masking.ratio']),
  ('decoder_masking.name=running_cell decoder_masking.ratio=0.3', ['0.25, 0.5 or 0.75']),
  ('decoder_masking.ratio=-0.5', ['decoder_masking.ratio is -0.5', 'between 0 and 1']),
  ('seed=-1', ['seed is -1', 'at least 0']),
  (
    'masking.name=motion_guided data.frames=1 model.patch=1,8,8',
    ['motion_guided follows motion', 'data.frames is 1', 'another masking.name'],
  ),
  ('model.decoder_heads=3', ['the decoder width', '3 heads']),
  ('steps=0', ['less than one step', 'raise epochs or set steps']),
  ('data.train=nowhere.txt', ["no list or folder 'nowhere.txt'", 'looked in', 'tfds:NAME:SPLIT']),
  ('data.train=synthetic:test', ["'synthetic:test'", 'synthetic:train']),
  ('data.train=tfds:ucf101', ['tfds:ucf101', 'NAME']),
  ('data.train=', ['no data is named', '--config.data.train=LIST']),
]


@pytest.mark.parametrize('override, parts', VALUES, ids=[x.partition('=')[0] for x, _ in VALUES])
def test_values(override, parts, told):
  line, new = told(*(f'--config.{x}' for x in override.split()))
  assert [part for part in parts if part not in line] == [], line
  assert new == []  # The corrected command can use the same --workdir.


def test_batch_over_devices():
  config = load_config(started.SMOKE)
  config.batch_size = 8
  with pytest.raises(UserError, match=r'batch_size 8 is no .* of 3 \(3 devices .* 6 or 9'):
    check(config, devices=3)


FILES = [
  ('# nothing\n', ['list.txt names no video']),
  ('a.mp4 1\n"b.mp4 1\n', ['list.txt, line 2', '"b.mp4 1', 'path start count label']),
  ('a.mp4 1\n\x00\x01\n', ['cannot read list.txt: ', 'it is not in UTF-8: save it as']),
  (''.join(f'{i}.mp4 0\n' for i in range(9)), ['9 of 9 files', '/0.mp4', '/4.mp4, ...', 'root']),
]


@pytest.mark.parametrize('text, parts', FILES, ids=['empty', 'quote', 'garbage', 'absent files'])
def test_lists(text, parts, told, tmp_path):
  (tmp_path / 'list.txt').write_text(text)
  line, new = told('--config.data.train=list.txt')
  assert [part for part in parts if part not in line] == [] and '5.mp4' not in line
  assert new == []


def test_tfds_without_tensorflow(told, monkeypatch):
  class Blind(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
      return None if name == 'tensorflow' else super().find_spec(name, *where)

  # Not by None in sys.modules, which einops takes for a loaded TensorFlow.
  monkeypatch.delitem(sys.modules, 'tensorflow', raising=False)
  finders = [Blind if finder is PathFinder else finder for finder in sys.meta_path]
  monkeypatch.setattr(sys, 'meta_path', finders)
  line, new = told('--config.data.train=tfds:ucf101:train')
  assert 'needs TensorFlow' in line and 'pip install tensorflow' in line and new == []


@pytest.mark.parametrize(
  'arguments, parts',
  [
    (dict(config='configs/videomae.py:x,y'), ['videomae.py:x,y', 'demo, tiny, s', 'k400, ssv2']),
    (dict(config='configs/videomae.py'), ['SIZE,DATASET']),
    (dict(config='configs/videomea.py:b,k400'), ['Did you mean configs/videomae.py?']),
    (dict(config='nowhere/at_all.py'), ["no config file 'nowhere/at_all.py'", 'FILE:ARGUMENT']),
    (dict(config=None), ['give --config=FILE:ARGUMENT']),
    (dict(workdir=None), ['give --workdir=DIR']),
    (dict(workdir='s3://bucket/run'), ['a gs:// bucket', 'mount another one']),
    (dict(workdir='configs'), ["holds 'videomae.py'", 'empty folder']),
    (dict(workdir='configs/videomae.py/run'), ['--workdir=configs/videomae.py/run', 'choose']),
  ],
  ids=str,
)
def test_config_and_workdir(arguments, parts, told):
  line, new = told(**arguments)
  assert [part for part in parts if part not in line] == [], line
  assert new == []


@pytest.mark.parametrize(
  'argument, parts',
  [
    ('--wrkdir=a', ['no flag --wrkdir', "Did you mean 'workdir'?"]),
    ('steps=3', ["'steps=3' is not a flag", '--NAME=VALUE']),
    ('--distributed=often', ['--distributed=often']),
  ],
)
def test_flags(argument, parts, told):
  line, new = told(argument)
  assert [part for part in parts if part not in line] == [], line
  assert new == []


def test_a_changed_key_without_a_config(told):
  line, _ = told('--config.steps=3', config=None)
  assert '--config.steps' in line and 'give --config=FILE:ARGUMENT' in line


@pytest.mark.parametrize(
  'code, parts',
  [
    ('c.batch = 8', ['mine.py, line 5', '"batch" does not exist']),
    ('c.model.siez = "b"', ['mine.py, line 5', 'Did you mean "size"']),
    ('c.steps = "many"', ['mine.py, line 5', 'int']),
    ('c.heads.second = dict(target="pixels", los="l1")', ['heads.second', "Did you mean 'loss'?"]),
    ('c.heads.second = dict(target="pixels")', ['heads.second lacks options, loss']),
    ('c.heads = dict()', ['heads is empty']),
    ('c = stesp', ['mine.py, line 5', "name 'stesp' is not defined"]),
    ('c = dict()', ['mine.py', 'ConfigDict']),
    ('c =', ['mine.py', 'SyntaxError']),
  ],
)
def test_mistakes_in_a_config_file(code, parts, told, tmp_path):
  (tmp_path / 'mine.py').write_text(
    'from vmae_jax import config\ndef get_config():\n  c = config.default()\n'
    f'  c.data.train = "synthetic:train"\n  {code}\n  return c\n'
  )
  line, new = told(config='mine.py')
  assert [part for part in parts if part not in line] == [], line
  assert 'Other fields' not in line  # ml_collections shows them all.
  assert new == []


def test_options_can_be_given_on_the_command_line(told):
  line, _ = told('--config.masking.name=frame', '--config.heads.pixels.options.eps=a')
  assert '--config.heads.pixels.options.eps=a' in line
  line, _ = told('--config.masking.options.grid=3')  # An argument, but not an option.
  assert "no option 'grid'" in line


def test_a_run_without_tensorflow_torch_and_transformers(finished):
  assert (finished / 'summary.json').exists() and (finished / 'checkpoints' / '1').is_dir()
  modules = """
for module in pkgutil.walk_packages(vmae_jax.__path__, 'vmae_jax.'):
  if module.name.endswith('tfds_builder'):  # For users of TFDS alone.
    continue
  if module.name.count('.') > 1 and '__main__' not in module.name:
    importlib.import_module(module.name)
"""
  env = started.environment()
  subprocess.run([sys.executable, '-c', BLOCKED + modules], env=env, check=True)


def test_workdir_of_another_config(finished, told):
  before = snapshot(finished)
  line, _ = told('--config.batch_size=12', '--config.seed=1', workdir=str(finished))
  for part in ('config.json', 'batch_size was 4, is 12', 'seed was 0, is 1', 'another --workdir'):
    assert part in line
  assert snapshot(finished) == before


def test_checkpoint_of_another_model(finished, told, monkeypatch):
  # `jax.eval_shape` makes states without arrays, which are not what TrainState says.
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
  line, _ = told('--config.model.patch=2,4,4', f'--config.init_from={finished}')
  for part in (f'{finished}/checkpoints/1', 'of the encoder', 'embed/kernel is (', 'model.patch?'):
    assert part in line
  line, _ = told('--config.model.scan=True', '--config.init_from=nowhere', workdir='other')
  assert "there is no 'nowhere'" in line


def test_too_many_broken_videos(tmp_path):
  lines = []
  for i in range(8):
    path = tmp_path / f'{i}.mp4'
    path.write_bytes(b'x') if i % 2 else write_video(path, frames=20)
    lines.append(f'{path.name} 0\n')
  (tmp_path / 'list.txt').write_text(''.join(lines))
  overrides = f'data.train={tmp_path}/list.txt', 'data.repeats=1', 'batch_size=8'  # An epoch.
  done = train('pass', tmp_path / 'run', *overrides)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  line = done.stderr.splitlines()[-1]
  assert line.startswith('error: ')
  for part in ('of the videos', 'data.max_bad_share (5.0%)', 'bad_videos.csv', 'check_data'):
    assert part in line
  bad = (tmp_path / 'run' / 'bad_videos.csv').read_text().splitlines()
  assert len(bad) > 1 and all('.mp4,' in x for x in bad[1:])


def module(name, *arguments, cwd):
  """Runs an entry point as a user does; returns its line with the error."""
  env = started.environment()
  command = [sys.executable, '-m', f'vmae_jax.{name}', *arguments]
  done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
  return done.stderr


def test_pretrain(tmp_path):
  config = f'--config={started.SMOKE}'
  line = module('pretrain', config, '--workdir=run', '--config.maskin.ratio=1', cwd=tmp_path)
  assert "Did you mean 'masking'?" in line and list(tmp_path.iterdir()) == []


def test_check_data(tmp_path):
  (tmp_path / 'clean.txt').write_text('a.mp4 0\n')
  line = module('check_data', 'clean.txt', '--out=.', cwd=tmp_path)
  assert '--out=. would overwrite the list clean.txt' in line
  assert (tmp_path / 'clean.txt').read_text() == 'a.mp4 0\n' and len(list(tmp_path.iterdir())) == 1


def test_probe(finished, tmp_path):
  line = module('probe', '--checkpoint=run', '--train=a', '--val=b', cwd=tmp_path)
  assert 'run holds no checkpoint' in line
  (tmp_path / 'bare.txt').write_text('a.mp4\n')
  (tmp_path / 'a.mp4').touch()
  run = f'--checkpoint={finished}'
  line = module('probe', run, '--train=synthetic:train', '--val=bare.txt', cwd=tmp_path)
  assert 'bare.txt has no labels' in line
