"""Starts a run from the parameters of another model, with a report about them."""

import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vmae_jax import sharding, storage
from vmae_jax.errors import UserError, first_few
from vmae_jax.hub import local_path
from vmae_jax.models.patches import token_grid
from vmae_jax.models.sizes import SIZES
from vmae_jax.runs import checkpoint


class Pretrained(NamedTuple):
  """A model from which parameters may be taken."""

  where: str  # The file or folder.
  shapes: dict[str, Any]  # Name of each parameter -> something with a shape.
  # Not shown by shapes: heads, eps, patch, mean, std, frames and size of clips; None if unknown.
  facts: dict[str, Any]
  # (tree of ShapeDtypeStructs with shardings) -> the parameters; called once.
  load: Callable[[Any], Any]
  notes: list[str]  # Lines for the report.


def find_pretrained(path: str, *, weights: str = '') -> Pretrained:
  """Finds a run or checkpoint of ours, hf:OWNER/NAME, or a model of another implementation.

  `weights` is as in `choose_weights`, for other implementations as in `read_checkpoint`.

  Raises:
    UserError: there is no such model, it cannot be read, or has no such weights.
  """
  path = local_path(path)
  try:
    where = checkpoint.find_checkpoint(path)
  except UserError:
    if not os.path.exists(path):
      raise UserError(
        f'init_from: there is no {path!r} (looked in {os.getcwd()}): give a --workdir of a run, '
        'one of its checkpoints, a folder of transformers, or a .pth or .safetensors file.'
      ) from None
    return _foreign(path, weights)
  weights = checkpoint.choose_weights(path, weights)
  config = checkpoint.load_config(path)
  model, data = config['model'], config['data']
  facts = {'eps': model['eps'], 'patch': model['patch'], 'heads': SIZES[model['size']]['heads']}
  facts |= {key: data[key] for key in ('mean', 'std', 'frames', 'size')}
  arrays = checkpoint.arrays_of(where).items()
  shapes = {k.removeprefix('params/'): x for k, x in arrays if k.startswith('params/')}
  load = functools.partial(checkpoint.load_params, path, weights=weights)
  return Pretrained(f'{where} ({checkpoint.WEIGHTS[weights]} weights)', shapes, facts, load, [])


def _foreign(path: str, weights: str) -> Pretrained:
  # Not above: a run from scratch does not need it.
  from vmae_jax.interchange.pretrained import load_pretrained

  params, info = load_pretrained(path, weights=weights)
  shapes = flatten_dict(params, sep='/')
  facts = {key: info.get(key) for key in ('eps', 'patch', 'mean', 'std', 'frames', 'size')}
  facts['heads'] = info['encoder']['heads']

  def load(like):
    wanted = flatten_dict(like, sep='/')
    return unflatten_dict({name: shapes[name] for name in wanted}, sep='/')

  return Pretrained(path, shapes, facts, load, list(info['notes']))


def start_from(
  config,
  workdir: str,
  init: Callable[[jax.Array], Any],
  mesh: jax.sharding.Mesh,
  *,
  heads: int,
  position_grid: tuple[int, int, int] | None = None,
  head: bool = False,
) -> tuple['Plan', Callable[[Any], Any]] | None:
  """Compares the model of `init_from` with this one: what fits is taken, the rest initialised.

  Args:
    init: (key) -> fresh parameters.
    position_grid: See `Encoder`.
    head: See `plan`.

  Returns:
    The plan, and (shapes with shardings) -> parameters, which also prints the report and writes it
    to WORKDIR/init_from.txt; None if a run goes on or starts from scratch.

  Raises:
    UserError: there is no such model, too little of it fits (`init_share`), or it has another
      number of attention heads.
  """
  if not config.init_from or checkpoint.whole_steps(f'{workdir}/checkpoints'):
    return None
  data, patch = config.data, tuple(config.model.patch)
  shapes = jax.eval_shape(init, jax.random.key(config.seed))
  found = find_pretrained(config.init_from, weights=config.init_weights)
  facts = {'eps': config.model.eps, 'patch': patch, 'heads': heads}
  notes = check_facts(found, facts | {'mean': data.mean, 'std': data.std})
  taken = plan(found, shapes, head=head)
  check_plan(taken, found, least=config.init_share)
  grid = token_grid((data.frames, data.size, data.size), patch)
  positions = describe_positions(found, grid, position_grid, choice='positions' in config.model)
  text = report(taken, found, positions=positions, notes=notes)

  def start(like):
    if jax.process_index() == 0:
      print(text, flush=True)
      storage.write_text(f'{workdir}/init_from.txt', text + '\n')
    loaded = load(found, taken, sharding.replicated(mesh))

    def fill(key, loaded):
      return unflatten_dict(flatten_dict(init(key), sep='/') | loaded, sep='/')

    places = jax.tree.map(lambda x: x.sharding, like)
    return jax.jit(fill, out_shardings=places)(jax.random.key(config.seed), loaded)

  return taken, start


class Plan(NamedTuple):
  """Names of parameters by where they come from, and the share of the encoder that is loaded."""

  loaded: list[str]
  new: list[str]
  unused: list[str]
  misshapen: list[str]
  share: float


def plan(pretrained: Pretrained, like: Any, *, head: bool) -> Plan:
  """Compares parameters by name and shape with the tree `like` of arrays or shapes.

  With `head` a classifier is taken, too; a UserError if it has another number of classes.
  """
  wanted = flatten_dict(like, sep='/')
  found = {name: x for name, x in pretrained.shapes.items() if head or 'classifier/' not in name}
  kernel = 'classifier/kernel'
  if kernel in found and found[kernel].shape[-1] != wanted[kernel].shape[-1]:
    raise UserError(
      f'init_from: the classifier in {pretrained.where} has {found[kernel].shape[-1]} classes, '
      f'the data have {wanted[kernel].shape[-1]}: for a fresh one set --config.init_head=False.'
    )
  same = [n for n, x in wanted.items() if n in found and tuple(found[n].shape) == tuple(x.shape)]
  size = {n: math.prod(x.shape) for n, x in wanted.items() if n.startswith('encoder/')}
  return Plan(
    loaded=same,
    new=[name for name in wanted if name not in found],
    unused=[name for name in pretrained.shapes if name not in wanted or name not in found],
    misshapen=[
      f'{n} is {tuple(found[n].shape)} there, {tuple(wanted[n].shape)} here'
      for n in wanted
      if n in found and n not in same
    ],
    share=sum(size[n] for n in same if n in size) / sum(size.values()),
  )


def check_plan(plan: Plan, pretrained: Pretrained, *, least: float) -> None:
  """Raises a UserError that says what is missing if too little of the encoder was found."""
  if plan.share >= least:
    return
  missing = [f'{name} is missing' for name in plan.new if name.startswith('encoder/')]
  raise UserError(
    f'init_from: only {plan.share:.1%} of the encoder is in {pretrained.where}, at least '
    f'{least:.0%} must be (init_share): {first_few(plan.misshapen + missing)}. '
    'Is it a model of another model.size or model.patch?'
  )


def check_facts(pretrained: Pretrained, facts: Mapping[str, Any]) -> list[str]:
  """Lines for the report about facts that differ and that shapes do not show.

  Raises a UserError if the number of heads differs, as the same weights would compute another
  function.
  """
  there, here = pretrained.facts['heads'], facts['heads']
  if there is not None and there != here:
    raise UserError(
      f'init_from: the encoder in {pretrained.where} has {there} heads, model.size has {here}.'
    )
  lines = []
  keys = {'eps': 'model', 'patch': 'model', 'mean': 'data', 'std': 'data'}
  for key, block in keys.items():
    there, here = pretrained.facts[key], facts[key]
    if there is None or np.allclose(there, here, rtol=1e-3, atol=0):
      continue
    value = ','.join(map(str, there)) if isinstance(there, list | tuple) else there
    lines.append(f'NOTE: its {key} was {value}, here it is {here}: --config.{block}.{key}={value}')
  return lines


def describe_positions(
  pretrained: Pretrained,
  grid: tuple[int, ...],
  interpolated: tuple[int, ...] | None,
  *,
  choice: bool = True,
) -> str:
  """Says how positions, which are not parameters, are computed, and which choice there is.

  Args:
    grid: Tokens (t, h, w) of the clips.
    interpolated: The grid whose positions are interpolated to `grid`, or None.
    choice: Whether the config can have them interpolated.
  """

  def text(grid, sign='x'):
    return sign.join(map(str, grid))

  frames, size, patch = (pretrained.facts[key] for key in ('frames', 'size', 'patch'))
  there, hint = None, ''
  if frames and size and patch:
    there = tuple(n // p for n, p in zip((frames, size, size), patch, strict=True))
    hint = f'--config.model.position_grid={text(there, ",")}'
  if interpolated is not None:
    line = f'interpolated to {text(grid)} tokens from {text(interpolated)}'
    if there and there != tuple(interpolated):
      line += f' (NOTE: it was trained on {text(there)}: {hint})'
    return line
  line = f'made anew for {text(grid)} tokens'
  if there and there != tuple(grid):
    how = f'; to interpolate those: --config.model.positions=interpolate {hint}' if choice else ''
    line += f' (trained on {text(there)}{how})'
  return line


def report(plan: Plan, pretrained: Pretrained, *, positions: str, notes: list[str]) -> str:
  """The plan in text, with the result of `describe_positions` and notes."""
  values = sum(math.prod(pretrained.shapes[name].shape) for name in plan.loaded)
  lines = [
    f'start from {pretrained.where}: {plan.share:.1%} of the encoder',
    f'  loaded     {values:,} parameters: {_parts(plan.loaded)}',
    f'  positions  {positions}',
    f'  new        {first_few(plan.new) or "nothing"}',
    f'  unused     {_parts(plan.unused)}',
  ]
  if plan.misshapen:
    lines.append(f'  NOT LOADED {first_few(plan.misshapen)}')
  return '\n'.join(lines + [f'  {note}' for note in pretrained.notes + notes])


def _parts(names: list[str]) -> str:
  """The top-level modules of parameters, and how many arrays belong to each."""
  tops = (name.partition('/') for name in names)
  parts = Counter(f'{top}/norm' if rest.startswith('norm/') else top for top, _, rest in tops)
  return ', '.join(f'{part} ({n} arrays)' for part, n in parts.items()) or 'nothing'


def load(pretrained: Pretrained, plan: Plan, place: jax.sharding.Sharding) -> dict[str, Any]:
  """The parameters of the plan by name, on the devices of `place`.

  Whole top-level modules are read, since checkpoints are compared by these.
  """
  tops = {name.partition('/')[0] for name in plan.loaded}
  like = {
    name: jax.ShapeDtypeStruct(tuple(x.shape), np.float32, sharding=place)
    for name, x in pretrained.shapes.items()
    if name.partition('/')[0] in tops
  }
  found = flatten_dict(pretrained.load(unflatten_dict(like, sep='/')), sep='/')
  return {name: jax.device_put(found[name], place) for name in plan.loaded}
