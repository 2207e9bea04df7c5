"""A study: arms x seeds, each trained and measured once, even if the process is stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from vmae_jax import storage
from vmae_jax.compare.figures import draw_figures
from vmae_jax.compare.measures import Measures
from vmae_jax.compare.summary import FINETUNED, summarise, table
from vmae_jax.config import RUN_KEYS, implied
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError, check_name, first_few
from vmae_jax.frozen.patch_vq import PatchVQ
from vmae_jax.frozen.tokenizer import save_tokenizer
from vmae_jax.method.build import build_method
from vmae_jax.runs.checkpoint import whole_steps
from vmae_jax.runs.run_dir import differing, leaves
from vmae_jax.training.finetuning import finetune
from vmae_jax.training.pretraining import train
from vmae_jax.training.tokenizer import learn_tokenizer

UNTRAINED = 'untrained'  # An arm that every study has: fresh weights, measured like the others.


class Study:
  """A study, from the config in its file.

  Attributes:
    arms: Name -> the config of its runs, without the seed; the first is the baseline.
    seeds: Seeds of the runs. Runs with one seed share the encoder's initial weights and the order
      of clips.
    measures: How a run is measured.
    finetuning: Name -> a config, without `init_from` and the seed. Each run is fine-tuned with it,
      and the held-out accuracy is one of the run's measures.
    tokenizer: `videos`, `factor`, `codes` and further options of `learn_tokenizer`, for a tokenizer
      that is trained before the first arm that predicts codes and has none.

  Raises:
    UserError: a key is missing, or a value is wrong.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    for key in ('arms', 'baseline', 'seeds', 'measures'):
      if key not in config:
        raise UserError(f'a study needs the key {key!r}: see configs/compare.py.')
    self.seeds = tuple(config.seeds)
    self.measures = Measures(**config.measures.to_dict())
    self.finetuning = dict(config.get('finetuning', {}))
    self.tokenizer = dict(config.get('tokenizer', {}))
    check_name(config.baseline, config.arms, 'baseline')
    others = {name: arm for name, arm in config.arms.items() if name != config.baseline}
    self.arms = {config.baseline: config.arms[config.baseline]} | others
    if not self.seeds or UNTRAINED in self.arms:
      raise UserError(f'a study needs seeds, and no arm may have the name {UNTRAINED!r}.')

  def runs(self) -> Iterator[tuple[str, int]]:
    """All pairs of arm and seed, one seed after the other, so that early results are paired."""
    return ((arm, seed) for seed in self.seeds for arm in (*self.arms, UNTRAINED))

  def asked(self) -> dict[str, Any]:
    """All that is measured of a run, as JSON stores it."""
    finetuning = {k: _plain(v) for k, v in self.finetuning.items()}
    return {'frozen': self.measures.to_dict(), 'finetuning': finetuning}

  def config(self, arm: str, seed: int) -> ml_collections.ConfigDict:
    """The config of one run."""
    arm = next(iter(self.arms)) if arm == UNTRAINED else arm
    config = self.arms[arm].copy_and_resolve_references()
    config.seed = seed
    return config


def run_study(study: Study, workdir: Path, *, only: str | None = None) -> None:
  """Trains and measures the runs that are not done, and writes the results of all.

  The folder ARM/SEED has a run and its result.json. `only`, 'ARM,SEED', does only this run.

  Raises:
    UserError: there is no such run, or a run in the folder has another config.
    Preempted: the process was asked to stop; the current run has saved its state.
  """
  runs = list(study.runs())
  names = {f'{arm},{seed}': (arm, seed) for arm, seed in runs}
  if only:
    check_name(only, names, '--only')
  for number, (arm, seed) in enumerate([names[only]] if only else runs, start=1):
    folder = workdir / arm / str(seed)
    config = study.config(arm, seed)
    if _done(folder, config, study):
      continue
    print(f'== {arm}, seed {seed}, run {number} of {1 if only else len(runs)}', flush=True)
    result = _frozen(arm, config, folder, study)
    _write(folder / 'result.json', result)  # Before fine-tuning, which is long and may be stopped.
    _finetuned(arm, result, folder, study)
    _write(folder / 'result.json', result)
    write_results(study, workdir)
  write_results(study, workdir)


def _frozen(arm: str, config, folder: Path, study: Study) -> dict[str, Any]:
  """Trains a run and measures its frozen encoder, unless its result has these measures."""
  measures = study.measures
  asked = study.asked()['frozen']
  past = read_result(folder)
  if past is not None and past['measures'].get('frozen') == asked:
    return past
  result = {'config': _plain(config), 'measures': {'frozen': asked, 'finetuning': {}}}
  if arm == UNTRAINED:
    return result | {'measured': {'0': measures.of_fresh(config)}}
  targets = {head.target for head in config.heads.values()}
  if study.tokenizer and 'codes' in targets and not config.tokenizer.path:
    config.tokenizer.path = _tokenizer(folder.parents[1] / 'tokenizer.safetensors', study.tokenizer)
  train(config, str(folder / 'run'))
  summary = json.loads((folder / 'run' / 'summary.json').read_text())
  checkpoints = f'{folder}/run/checkpoints'
  steps = whole_steps(checkpoints)
  result['measured'] = {
    str(step): measures.of_run(f'{checkpoints}/{step}', whole=step == steps[-1]) for step in steps
  }
  return result | {'loss': summary['loss'], 'clip_flops': build_method(config).flops()}


def _finetuned(arm: str, result: dict[str, Any], folder: Path, study: Study) -> None:
  """Adds held-out accuracy after fine-tuning from a run, in the form of `Measures.of_run`."""
  asked, done = study.asked()['finetuning'], result['measures']['finetuning']
  found = list(result['measured'].values())[-1]
  for name, config in study.finetuning.items():
    if done.get(name) == asked[name]:
      continue
    config = config.copy_and_resolve_references()
    config.init_from = '' if arm == UNTRAINED else str(folder / 'run')
    config.seed = result['config']['seed']
    workdir = folder / 'finetuned' / name
    finetune(config, str(workdir))
    top1 = json.loads((workdir / 'summary.json').read_text())['test_top1']
    found[name] = {FINETUNED: {'-1': top1}}
    done[name] = asked[name]


def _tokenizer(path: Path, options: dict[str, Any]) -> str:
  """The path of the study's tokenizer, which is trained if there is none."""
  if not path.exists():
    rest = dict(options)
    source = open_source(rest.pop('videos'))
    model = PatchVQ(factor=rest.pop('factor'), codes=rest.pop('codes'))
    params, *_ = learn_tokenizer(source, model, **rest)
    save_tokenizer(path, model, params)
  return str(path)


def _done(folder: Path, config, study: Study) -> bool:
  """Whether a run is measured as the study asks; a UserError if it has another config."""
  result = read_result(folder)
  if result is None:
    return False
  past = dict(leaves(_plain(implied())))  # The values of keys that are newer than the run.
  if changed := differing(result['config'], _plain(config), RUN_KEYS, past):
    raise UserError(
      f'{folder} holds a run with another config: {first_few(changed, separator="; ")}. Give '
      'another --workdir.'
    )
  # If other measures were asked for, the trained run is measured again.
  done, asked = result['measures'], study.asked()
  tuned = done.get('finetuning', {})
  return done.get('frozen') == asked['frozen'] and all(
    tuned.get(name) == config for name, config in asked['finetuning'].items()
  )


def read_result(folder: Path) -> dict[str, Any] | None:
  """A run's result.json; None if there is none."""
  path = folder / 'result.json'
  return json.loads(path.read_text()) if path.exists() else None


def write_results(study: Study, workdir: Path) -> None:
  """Writes results.json, results.md and figures of all runs that are done."""
  results = {}
  for arm, seed in study.runs():
    if result := read_result(workdir / arm / str(seed)):
      results.setdefault(arm, {})[seed] = result
  if not results:
    return
  arms = {arm: results[arm] for arm in (*study.arms, UNTRAINED) if arm in results}
  summary = summarise(arms, steps=next(iter(study.arms.values())).steps)
  _write(workdir / 'results.json', summary)
  (workdir / 'results.md').write_text(table(summary))
  draw_figures(summary, workdir, study.measures.held_out)


def _plain(config) -> dict[str, Any]:
  return json.loads(config.to_json())


def _write(path: Path, value: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  storage.write_text(str(path), json.dumps(value, indent=1) + '\n')
