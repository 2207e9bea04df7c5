"""Fine-tuning from start to end: started from a run, resumed, stopped, on eight devices."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import jax
import jaxtyping
import numpy as np
import pytest

from tests import started
from tests.data.clips_on_disk import write_video
from tests.fresh_run import save_fresh_run
from vmae_jax import cli, sharding
from vmae_jax.config_file import load_config
from vmae_jax.data.clips import ViewSampler
from vmae_jax.data.sources import open_source
from vmae_jax.evaluation import multiview
from vmae_jax.method.supervised import build_supervised
from vmae_jax.runs.metrics import read_metrics
from vmae_jax.runs.stop import Stop
from vmae_jax.training.finetuning import _find_start, finetune

STEPS, EVERY, VIDEOS = 4, 2, 11
FINETUNE = f'{started.ROOT}/configs/finetune.py:smoke'
OVERRIDES = {
  'steps': STEPS,
  'checkpoint.every_steps': EVERY,
  'optimizer.ema': 0.5,
  'test.segments': 2,
  'test.batch_size': 6,
  'test.every_epochs': EVERY * 8 / VIDEOS,
}


@pytest.fixture(scope='module', autouse=True)
def unchecked():
  """`jax.eval_shape` makes states without arrays, which are not what TrainState says."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """A list of three classes, whose third video from the end is broken."""
  folder = tmp_path_factory.mktemp('videos')
  for i in range(VIDEOS):
    write_video(folder / f'{i}.mp4', frames=10 + i, height=32, width=48)
  (folder / 'train.txt').write_text(''.join(f'{i}.mp4 {i % 3}\n' for i in range(VIDEOS)))
  (folder / f'{VIDEOS}.mp4').write_bytes(b'no video')
  order = [*range(VIDEOS - 2), VIDEOS, VIDEOS - 2, VIDEOS - 1]
  (folder / 'val.txt').write_text(''.join(f'{i}.mp4 {i % 3}\n' for i in order))
  (folder / 'classes.txt').write_text('some\nmore\nmost\n')
  return folder


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """A pre-training run's folder, with fresh weights."""
  workdir = tmp_path_factory.mktemp('pretrained')
  save_fresh_run(workdir)
  return workdir


def config_of(videos, start='', **overrides):
  config = load_config(FINETUNE)
  config.init_from = str(start)
  config.data.train, config.data.val = str(videos / 'train.txt'), str(videos / 'val.txt')
  config.data.max_bad_share = 0.2
  with config.unlocked():
    for key, value in (OVERRIDES | overrides).items():
      *blocks, name = key.split('.')
      node = config
      for block in blocks:
        node = node[block]
      node[name] = value
  return config


@pytest.fixture(scope='module')
def whole(videos, pretrained, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  finetune(config_of(videos, pretrained), str(workdir))
  return workdir


def half(whole, tmp_path):
  """The run as if it was killed right after the first checkpoint."""
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(STEPS))
  for file in workdir.glob(f'evaluation/step*{EVERY}_*.jsonl'):
    file.unlink()
  for name in ('predictions.csv', 'results.md', 'confusion.png'):
    (workdir / name).unlink()
  return workdir


def numbers(workdir):
  """Everything that must be equal in two starts of a run."""
  keys = ('loss', 'accuracy', 'grad_norm', 'val_top1', 'test_top1', 'test_mean_class')
  return [[r['step'], *(r.get(key) for key in keys)] for r in read_metrics(workdir)]


def rows(workdir):
  with (workdir / 'predictions.csv').open() as file:
    return list(csv.DictReader(file))


def test_a_run_leaves_what_it_promises(whole, capsys):
  found = numbers(whole)
  assert [row[0] for row in found] == list(range(1, STEPS + 1))
  assert np.isfinite([row[1] for row in found]).all()
  validated = [row[0] for row in found if row[4] is not None]
  tested = [row[0] for row in found if row[5] is not None]
  assert validated == [EVERY, 2 * EVERY] and tested == [STEPS]
  assert (whole / 'confusion.png').stat().st_size > 1000
  assert (whole / 'classes.txt').read_text() == 'some\nmore\nmost\n'
  report = (whole / 'init_from.txt').read_text()
  for part in (
    '100.0% of the encoder',
    'new        classifier/bias, classifier/kernel, fc_norm/bias, fc_norm/scale',
    'decoder/norm (2 arrays), encoder/norm (2 arrays)',
  ):
    assert part in report
  summary = json.loads((whole / 'summary.json').read_text())
  assert summary['test_videos'] == VIDEOS + 1 and summary['test_unreadable'] == 1
  table = (whole / 'results.md').read_text()
  for part in (
    '| top-1 |',
    'moving average',
    '2 in time x 1 in space',
    '| could not be read | 1 |',
  ):
    assert part in table


def test_every_video_has_its_row(whole, videos):
  found = rows(whole)
  order = (videos / 'val.txt').read_text().split()[::2]
  assert [row['video'].rpartition('/')[2] for row in found] == order
  broken = [row for row in found if row['failed']]
  assert [row['video'].rpartition('/')[2] for row in broken] == [f'{VIDEOS}.mp4']
  read = [row for row in found if not row['failed']]
  names = ('some', 'more', 'most')
  for row in read:
    best = dict(pair.split(':') for pair in row['best'].split())
    assert len(best) == 3 and abs(sum(map(float, best.values())) - 1) < 2e-4
    assert row['predicted'] == next(iter(best)) and row['class'] == names[int(row['label'])]
    assert row['correct'] == str(int(row['label'] == row['predicted']))
  accuracy = np.mean([row['correct'] == '1' for row in read])
  summary = json.loads((whole / 'summary.json').read_text())
  assert summary['test_top1'] == pytest.approx(accuracy)


def test_the_moving_average_is_what_is_tested(whole, videos, pretrained):
  """The first video again, by hand."""
  config = config_of(videos, pretrained)
  supervised = build_supervised(config, classes=3)
  found = started.arrays(whole, STEPS)
  shapes = jax.eval_shape(supervised.init, jax.random.key(0))
  sampler = ViewSampler(frames=8, size=32, stride=1, segments=2, crops=1, repeats=2)
  views = sampler(open_source(config.data.val), 0, 0)['video']
  told = {}
  for name in ('params', 'ema'):
    params = jax.tree_util.tree_map_with_path(
      lambda path, _: found[f"['{name}']" + jax.tree_util.keystr(path)],  # noqa: B023
      shapes,
    )
    told[name] = np.asarray(jax.jit(supervised.probabilities)(params, views)).mean(0)
  best = dict(pair.split(':') for pair in rows(whole)[0]['best'].split())
  by_class = [float(best[str(i)]) for i in range(3)]
  np.testing.assert_allclose(told['ema'], by_class, atol=6e-5)
  assert np.abs(told['params'] - by_class).max() > 2e-4


def test_resumed_is_bit_identical(whole, videos, pretrained, tmp_path):
  workdir = half(whole, tmp_path)
  shutil.rmtree(workdir / 'evaluation')  # The validation at the checkpoint is repeated.
  started.forget(workdir, 'augment', 'mixing.switch')  # As if the run was older than these keys.
  finetune(config_of(videos, pretrained), str(workdir))
  files = [sorted(p.name for p in folder.glob('evaluation/*')) for folder in (whole, workdir)]
  assert files[0] == files[1] and len(files[0]) == 3
  started.assert_same_state(whole, workdir, STEPS)
  assert numbers(whole) == numbers(workdir) and rows(whole) == rows(workdir)


def test_a_checkpoint_that_was_never_finished_is_none(videos, pretrained, tmp_path):
  """After a kill in the first save, a run begins anew from `init_from`, not from scratch."""
  config = config_of(videos, pretrained)
  supervised = build_supervised(config, classes=3)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir(parents=True)
  assert _find_start(config, str(tmp_path), supervised, mesh) is not None
  (tmp_path / 'checkpoints' / '2' / 'state').mkdir(parents=True)
  assert _find_start(config, str(tmp_path), supervised, mesh) is None


@pytest.mark.parametrize('where', ['step', 'test'])
def test_stopped_by_sigterm_and_started_again_is_bit_identical(
  where, whole, videos, pretrained, tmp_path, monkeypatch
):
  workdir, config = tmp_path / 'run', config_of(videos, pretrained)
  asked, records, reads = Stop.asked, multiview._records, []

  def interrupted_step(stop, step):
    if step == EVERY + 1:
      signal.raise_signal(signal.SIGTERM)
    return asked(stop, step)

  def interrupted_test(batch, *args):
    reads.append(int(batch[2][0]))  # The batch's first video.
    if reads == [0, 6, 0, 6, 0]:  # The first batch of the last test, after two validations.
      signal.raise_signal(signal.SIGTERM)
    return records(batch, *args)

  if where == 'step':
    monkeypatch.setattr(Stop, 'asked', interrupted_step)
  else:
    monkeypatch.setattr(multiview, '_records', interrupted_test)
  with pytest.raises(cli.Preempted):
    finetune(config, str(workdir))
  monkeypatch.undo()
  stopped = EVERY + 1 if where == 'step' else STEPS
  assert (workdir / 'checkpoints' / str(stopped)).is_dir()
  assert not (workdir / 'predictions.csv').exists()
  if where == 'test':
    file = workdir / 'evaluation' / f'step{STEPS:07d}_2x1.jsonl'
    assert len(file.read_text().splitlines()) == 1 + 3
    monkeypatch.setattr(multiview, '_records', interrupted_test)
    reads.clear()
  jaxtyping.config.update('jaxtyping_disable', True)  # `undo` has set it back.
  finetune(config, str(workdir))
  if where == 'test':
    assert reads[0] == 3  # Goes on with the fourth video.
  started.assert_same_state(whole, workdir, STEPS)
  assert numbers(whole) == numbers(workdir) and rows(whole) == rows(workdir)


def test_eight_devices_go_on_after_one(whole, videos, pretrained, tmp_path):
  workdir = half(whole, tmp_path)
  overrides = OVERRIDES | {
    'init_from': pretrained,
    'data.train': videos / 'train.txt',
    'data.val': videos / 'val.txt',
    'data.max_bad_share': 0.2,
    'mesh.fsdp': 4,
    'test.batch_size': 16,
  }
  command = [sys.executable, '-m', 'vmae_jax.finetune', f'--config={FINETUNE}']
  command += [f'--workdir={workdir}', *(f'--config.{k}={v}' for k, v in overrides.items())]
  done = subprocess.run(
    command,
    env=started.environment(8),
    cwd=started.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'going on from the checkpoint of step 2' in done.stderr
  a, b = numbers(whole), numbers(workdir)
  np.testing.assert_allclose([r[1] for r in a], [r[1] for r in b], rtol=1e-5)
  assert [r[4:] for r in a] == [r[4:] for r in b]
  for one, other in zip(rows(whole), rows(workdir), strict=True):
    assert one['predicted'] == other['predicted'] and one['video'] == other['video']
    if one['probability']:
      assert float(one['probability']) == pytest.approx(float(other['probability']), abs=1e-5)
