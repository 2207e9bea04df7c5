"""Finds the cheapest mesh and remat for a batch, and the largest batches, by compiling them."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vmae_jax import sharding
from vmae_jax.planning import aot, plan
from vmae_jax.planning.aot import CompiledStep
from vmae_jax.planning.estimate import GIB, prepare, published, size_text
from vmae_jax.planning.program import summarise

# Remat -> additional arithmetic, from the least time to the least memory. `full` adds a second
# forward pass to the cost of three; what `dots` adds is negligible.
REMATS = {'none': 0.0, 'dots': 0.0, 'full': 1 / 3}


def search(config, topology: str, *, step: CompiledStep, clip_flops: int) -> dict[str, Any]:
  """Finds the cheapest mesh and remat for the config's batch, and the largest batches.

  Parameters are split over more and more chips (`mesh.fsdp`) as long as this may save recomputation
  (`model.remat`). Of the settings that fit, the cheapest is that with the lowest lower bound of a
  step's time, by arithmetic or network, then that with the least remat. `mesh.tensor` is not
  changed. Compiling takes minutes; a line is printed for each step.

  Args:
    step: The step of the unchanged config, compiled by `estimate`.
    clip_flops: Floating-point operations of a step for one clip, without recomputation.

  Returns:
    All numbers, for JSON and `table`.

  Raises:
    UserError: as `estimate`.
  """
  config, mesh, limit = prepare(config, topology)
  devices = list(mesh.devices.flat)
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  step_clips = ways * config.optimizer.accumulate  # A batch with one clip at a time on each chip.
  wanted = config.batch_size // step_clips
  first = mesh.shape['fsdp']
  compiled = {(first, config.model.remat, wanted): step}

  def compile_at(fsdp, remat, clips):
    if known := compiled.get((fsdp, remat, clips)):
      return known
    config.batch_size, config.model.remat = clips * step_clips, remat
    config.mesh.data, config.mesh.fsdp = ways // fsdp, fsdp
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    step, _ = aot.compile_step(config, mesh, limit=limit)
    print(
      f'fsdp {fsdp}, remat {remat}, {clips} clips a chip: '
      f'{size_text(step.memory["all"]).strip()}, {"fits" if step.fits else "does not fit"} '
      f'(compiled in {step.seconds:.0f} s)',
      flush=True,
    )
    compiled[fsdp, remat, clips] = step
    return step

  slices = sharding.count_slices(devices)
  more = [first * 2**k for k in range(1, 32) if ways % (first * 2**k * slices) == 0]
  settings = [
    {
      'fsdp': fsdp,
      'remat': remat,
      'bytes': step.memory['all'],
      'floor': _floor(step, clip_flops, wanted * step_clips, devices, remat),
    }
    for fsdp, remat, step in fitting(lambda *x: compile_at(*x, wanted), [first, *more])
  ]
  best = min(settings, key=lambda x: (x['floor'], [*REMATS].index(x['remat'])), default=None)
  fsdp = best['fsdp'] if best else [first, *more][-1]
  known = {r: compiled[fsdp, r, wanted] for r in REMATS if (fsdp, r, wanted) in compiled}
  rows = {}
  for remat, clips, tried in largest_batches(
    lambda n, r: compile_at(fsdp, r, n), start=wanted, known=known
  ):
    sizes = {n: tried[n].memory['all'] for n in sorted(tried)}
    rows[remat] = {'clips': clips, 'batch_size': clips * step_clips, 'bytes': sizes}
  return {
    'wanted': wanted,
    'ways': ways,
    'limit': limit,
    'settings': settings,
    'fsdp': fsdp,
    'remat': best and best['remat'],
    'rows': rows,
  }


def _floor(step: CompiledStep, clip_flops: int, batch: int, devices: list, remat: str) -> float:
  """Seconds that a step takes at least; 0 if neither peak nor network is known."""
  peak, network = published(devices)
  sent = sum(row['sent'] for row in summarise(step.collectives).values())
  work = dict(clip_flops=clip_flops, batch=batch, devices=len(devices), sent=sent)
  speed = plan.speed(**work, peak=peak, network=network, mfu=1.0)
  arithmetic = (speed['arithmetic_seconds'] or 0.0) * (1 + REMATS[remat])
  return max(arithmetic, speed['network_seconds'] or 0.0)


def fitting(
  compile_at: Callable[[int, str], CompiledStep], sizes: list[int]
) -> Iterator[tuple[int, str, CompiledStep]]:
  """The least remat that fits, and settings that fit with less remat but more fsdp.

  Args:
    compile_at: (fsdp, remat) -> the compiled step.
    sizes: Values of fsdp, the smallest first.

  Yields:
    fsdp, remat and the step, each with less remat than the one before. fsdp splits only parameters,
    their moments and gradients; settings that cannot fit for this reason are not compiled.
  """
  left, at_first = [*REMATS], {}
  for fsdp in sizes:
    for remat in left:
      if fsdp > sizes[0] and not _may_fit(at_first[remat].memory, fsdp / sizes[0]):
        continue
      step = compile_at(fsdp, remat)
      at_first.setdefault(remat, step)
      if step.fits:
        yield fsdp, remat, step
        left = left[: left.index(remat)]
        break


def _held(memory: dict[str, int]) -> int:
  """Bytes of parameters, the optimizer's state and the average of parameters."""
  return sum(memory.get(kind, 0) for kind in ('parameters', 'optimizer', 'average of parameters'))


def _may_fit(memory: dict[str, int], parts: float) -> bool:
  """Whether a step could fit if all that fsdp splits, including gradients, had so many parts."""
  split = _held(memory) + memory.get('parameters', 0)
  return memory['all'] - split * (1 - 1 / parts) <= memory['limit']


def largest_batches(
  compile_at: Callable[[int, str], CompiledStep], *, start: int, known: Mapping[str, CompiledStep]
) -> Iterator[tuple[str, int, dict[int, CompiledStep]]]:
  """For each remat, the largest power of two of clips per chip that fits.

  Every answer is compiled: this number fits and twice the number does not. The first guess for a
  remat comes from the memory of one step: that in `known`, or one with twice the clips that fit
  with less remat.

  Args:
    compile_at: (clips per chip, remat) -> the compiled step.
    start: The first number of clips per chip to try.
    known: Remat -> the step for `start` clips, if it has been compiled.

  Yields:
    remat, the largest number of clips (0 if not even one fits), and all that was compiled.
  """
  guess = 2 ** round(math.log2(max(start, 1)))
  for remat in REMATS:
    near, step = (start, known[remat]) if remat in known else (guess, compile_at(guess, remat))
    tried = {near: step}
    guess = _by_memory(near, step.memory)

    def fits(clips, remat=remat, tried=tried):
      if clips not in tried:
        tried[clips] = compile_at(clips, remat)
      return tried[clips].fits

    while guess >= 1 and not fits(guess):
      guess //= 2
    while guess >= 1 and fits(2 * guess):
      guess *= 2
    yield remat, guess, tried
    guess = max(2 * guess, 1)


def _by_memory(clips: int, memory: dict[str, int]) -> int:
  """The power of two of clips that fit if memory is a constant part and a share for each clip."""
  held = _held(memory)
  share = max(memory['all'] - held, 1) / clips
  room = max(memory['limit'] - held, share)
  return 2 ** max(math.floor(math.log2(room / share)), 0)


def table(result: dict[str, Any]) -> str:
  """The numbers of `search` as text."""
  lines = []
  if result['settings']:
    memory = f'GiB at {result["wanted"]} clips a chip   '
    lines.append(f'mesh.fsdp   model.remat   {memory}least ms a step')
    for row in result['settings']:
      floor = f'{row["floor"] * 1e3:.1f}' if row['floor'] else 'not known'
      lines.append(
        f'{row["fsdp"]:<12}{row["remat"]:14}{row["bytes"] / GIB:<{len(memory)}.2f}{floor}'
      )
    lines.append('')
  lines.append(f'with mesh.fsdp={result["fsdp"]}')
  lines.append('model.remat   clips a chip   batch_size   GiB at clips a chip')
  for remat, row in result['rows'].items():
    sizes = ', '.join(f'{size / GIB:.2f} at {n}' for n, size in row['bytes'].items())
    lines.append(f'{remat:14}{row["clips"]:12}{row["batch_size"]:13,}   {sizes}')
  mesh = f'--config.mesh.fsdp={result["fsdp"]}'
  if result['remat']:
    lines.append(
      f'for {result["wanted"]} clips a chip the cheapest is {mesh} '
      f'--config.model.remat={result["remat"]}'
    )
    return '\n'.join(lines)
  remat, row = max(result['rows'].items(), key=lambda item: item[1]['clips'])
  if row['clips']:
    lines.append(
      f'{result["wanted"]} clips a chip do not fit: with {mesh} --config.model.remat={remat} '
      f'{row["clips"]} do; raise optimizer.accumulate or take more chips'
    )
  else:
    lines.append('nothing fits: take larger chips, or raise mesh.tensor')
  return '\n'.join(lines)
