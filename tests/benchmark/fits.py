"""Which methods and sizes fit which TPU slices and GPUs: their steps, compiled without either.

Each step is compiled by `python -m vmae_jax.estimate` in a process of its own: one that crashes
or takes all memory loses its own row. Rows that were compiled before, from the same config by
the same versions, are kept.
"""

import datetime
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.benchmark.contenders import load_published
from tests.benchmark.methods import GUMBEL_PATH, overrides
from vmae_jax.errors import UserError
from vmae_jax.models.sizes import SIZES
from vmae_jax.planning.gpus import is_gpu

ROOT = Path(__file__).parents[2]
METHODS = (
  *('videomae', 'motionmae', 'mam2', 'mgmae', 'mme', 'mgm'),
  *('trackmae', 'mvd', 'salt', 'vjepa'),
)
# 256 chips, or what is sold as 256 where a name counts cores (v5p-256, v4-256): 128.
TOPOLOGIES = ('v5e:16x16', 'v5p:4x4x8', 'v6e:16x16', 'v4:4x4x8', 'h200:8', 'h200:1')
# The documented mesh of each size, beside the config of the method; what is not said is
# data-parallel. S and B, too, run their layers as a loop, as the configs of L and H do: it compiles
# in a fraction of the time, and without remat it would take more memory than layers written out.
LOOP = {'model.scan': True, 'model.remat': 'dots'}
CLIPS = {'s': 128, 'b': 64, 'l': 32, 'h': 16}  # On each GPU.
SETTINGS = {
  's': LOOP,
  'b': LOOP,
  'l': {},
  'h': {'mesh.fsdp': 16},  # 8 GB of parameters and moments would be half of a v5e chip.
}
# Operations that a step needs: gradients and metrics are summed; where parameters are split, they
# are gathered and their gradients scattered, of which libtpu pads some (bf16[1280,3840] over 4 to
# 336 rows each) and then has neighbours exchange the rows at the edges.
SUMS = {'all-reduce'}
SPLIT = SUMS | {'all-gather', 'reduce-scatter', 'collective-permute'}
WATCHING = ('log', 'checkpoint', 'probe')  # Blocks of a config that no step depends on.
GIB = 2**30
# To be raised when a step compiles to something else for a reason that no config tells: rows of
# before have a star and are compiled again. 2: attention over many tokens by a loop over clips. 3:
# on TPUs by a kernel; queries, keys and values by products of their own.
PROGRAM = 3
_MAKE_GUMBEL = """
import pathlib, sys
from tests.benchmark.methods import make_gumbel
make_gumbel(pathlib.Path(sys.argv[1]))
"""

Row = dict[str, Any]


def benchmark_fits(
  *, methods: list[str], sizes: list[str], topologies: list[str], kept: list[Row]
) -> Iterator[list[Row]]:
  """Compiles what `kept` does not hold yet.

  Args:
    methods: Files in configs/.
    sizes: Of the models.
    topologies: As `estimate --topology` takes them.
    kept: Rows of an earlier call. Those of other versions are dropped where they are asked for.

  Yields:
    All rows, whenever there is one more.

  Raises:
    UserError: what compiles for one of them is not installed.
  """
  versions = {topology: _versions(topology) for topology in topologies}
  rows = {
    _key(row): row
    for row in kept
    if row['versions'] == versions.get(row['topology'], row['versions'])
  }
  wanted = [(m, s, t) for t in topologies for s in sizes for m in methods]
  with tempfile.TemporaryDirectory() as folder:
    for number, (method, size, topology) in enumerate(wanted, start=1):
      config, settings = _config(method, size, topology)
      key, digest = (method, size, topology), _digest(config)
      row = rows.get(key, {})
      if row.get('config') != digest or _is_earlier(row) or 'error' in row:
        began = time.perf_counter()
        answer = compile_alone(method, size, topology, settings, Path(folder))
        rows[key] = {
          **dict(method=method, size=size, topology=topology, settings=settings),
          **dict(
            config=digest,
            program=PROGRAM,
            versions=versions[topology],
            seconds=time.perf_counter() - began,
          ),
          'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
          **answer,
        }
      print(f'{number} of {len(wanted)}: {describe(rows[key])}', flush=True)
      yield list(rows.values())


def _versions(topology: str) -> dict[str, str]:
  """Of JAX and of what compiles for a topology."""
  compiler, extra = ('jax-cuda13-plugin', 'cuda13') if is_gpu(topology) else ('libtpu', 'tpu')
  packages = ('jax',) if topology == 'local' else ('jax', compiler)
  try:
    return {name: metadata.version(name) for name in packages}
  except metadata.PackageNotFoundError as e:
    raise UserError(f'{e.name} is not installed: pip install "jax[{extra}]".') from e


def _key(row: Row) -> tuple[str, str, str]:
  return row['method'], row['size'], row['topology']


def _config(method: str, size: str, topology: str) -> tuple[Any, dict[str, Any]]:
  """A method's config for K400, and what is changed in it."""
  settings = dict(SETTINGS.get(size, {}))
  if is_gpu(topology):  # A host or two of them, each with memory for more than the configs' clips.
    gpus = math.prod(int(n) for n in topology.replace('*', ':').split(':') if n.isdigit())
    settings |= {'batch_size': CLIPS[size] * gpus, 'mesh.fsdp': 1}
  if method == 'mam2':
    settings['tokenizer.path'] = GUMBEL_PATH
  config = load_published(method, size)
  settings |= {
    f'teachers.{name}.path': 'untrained' for name, it in config.teachers.items() if not it.path
  }
  config.update_from_flattened_dict(settings)
  return config, settings


def _digest(config) -> str:
  """Of what the program may depend on."""
  blocks = {name: block for name, block in config.to_dict().items() if name not in WATCHING}
  text = json.dumps(blocks, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def compile_alone(
  method: str,
  size: str,
  topology: str,
  settings: dict[str, Any],
  folder: Path,
  *,
  env: dict[str, str] | None = None,
) -> Row:
  """What `estimate` says, in a process of its own; its last line as `error` if it failed.

  Args:
    method: A file in configs/.
    size: Of the model.
    topology: As `estimate --topology` takes it.
    settings: What is changed in the config.
    folder: For files.
    env: The environment of the process, if it is not this one's.
  """
  out = folder / 'estimate.json'
  out.unlink(missing_ok=True)
  gumbel = folder / 'gumbel_f8.safetensors'
  if GUMBEL_PATH in settings.values() and not gumbel.exists():
    # In a process of its own, too, as this one must not take a TPU of this machine.
    command = [sys.executable, '-c', _MAKE_GUMBEL, str(gumbel)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, check=True)
  settings = overrides(settings, gumbel=gumbel)
  command = [sys.executable, '-m', 'vmae_jax.estimate', f'--topology={topology}', f'--out={out}']
  command += [f'--config={ROOT}/configs/{method}.py:{size},k400']
  command += [f'--config.{key}={value}' for key, value in settings.items()]
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  if done.returncode or not out.exists():
    lines = done.stderr.strip().splitlines() or [f'ended with {done.returncode}']
    return {'error': lines[-1]}
  said = json.loads(out.read_text())
  keys = (
    'device',
    'devices',
    'mesh',
    'batch_size',
    'model',
    'fits',
    'memory',
    'collectives',
    'kernels',
  )
  return {key: said[key] for key in (*keys, 'resharded', 'compile_seconds')}


def describe(row: Row) -> str:
  """A row in one line."""
  name = f'{row["method"]}, size {row["size"]}, on {row["topology"]}'
  if 'error' in row:
    return f'{name}: FAILED: {row["error"]}'
  between = ', '.join(
    f'{kind} {sums["runs"]} times, {sums["sent"] / 1e6:,.0f} MB sent by each'
    for kind, sums in row['collectives'].items()
  )
  return (
    f'{name}, {_setting(row)}: {_memory(row)} of {row["memory"]["limit"] / GIB:.2f} GiB, '
    f'{"fits" if row["fits"] else "DOES NOT FIT"}; {between or "nothing between chips"}; '
    f'compiled in {row["compile_seconds"]:.0f} s'
  )


def _setting(row: Row) -> str:
  mesh = ' x '.join(f'{name} {n}' for name, n in row['mesh'].items() if n > 1) or 'one device'
  return f'{mesh}, {row["batch_size"]:,} clips, remat {row["model"]["remat"]}'


def _memory(row: Row) -> str:
  return f'{row["memory"]["all"] / GIB:.2f}'


def unexpected(row: Row) -> set[str]:
  """Kinds of operations between devices that a step of this mesh does not need."""
  return set(row['collectives']) - (SPLIT if row['mesh']['fsdp'] > 1 else SUMS)


def table(rows: list[Row]) -> str:
  """The rows as Markdown: a line for each slice, size and setting, a column for each method.

  What was another program then has a star, see `PROGRAM`.
  """
  done = sorted((row for row in rows if 'error' not in row), key=_place)
  methods = [m for m in METHODS if any(row['method'] == m for row in done)]
  dates = sorted(row['date'][:10] for row in done)
  before = '; *: an earlier program' if any(map(_is_earlier, done)) else ''
  lines = {}
  for row in done:
    limit = f'{row["memory"]["limit"] / GIB:.2f}'
    lines.setdefault((row['topology'], row['size'], _setting(row), limit), {})[row['method']] = row
  out = [
    'GiB of a chip or GPU that a step takes, compiled ahead of time (mam2 with a tokenizer '
    "of Gumbel f8's size), and what it sends between them in the named mesh",
    '',
    f'| slice | ViT | mesh, batch, remat | GiB there | {" | ".join(methods)} | between chips |',
    '|' + '---|' * (len(methods) + 5),
  ]
  for (topology, size, setting, limit), cells in lines.items():
    memory = [_cell(cells[m]) if m in cells else '' for m in methods]
    kinds = sorted({kind for row in cells.values() for kind in row['collectives']})
    out.append(
      f'| {topology} | {size.upper()} | {setting} | {limit} | {" | ".join(memory)} | '
      f'{", ".join(kinds) or "nothing"} |'
    )
  out += [
    '',
    f'{len(done)} compiled, {sum(row["fits"] for row in done)} fit, '
    f'{sum(not unexpected(row) for row in done)} send nothing but sums of gradients and metrics '
    f'and what fsdp asks for; {dates[0]} to {dates[-1]}{before}',
  ]
  return '\n'.join(out)


def _place(row: Row) -> tuple[int, str, int]:
  """Of a row in the table: slices and sizes as they are listed, other slices after them."""
  place = (*TOPOLOGIES, row['topology']).index(row['topology'])
  return place, row['topology'], tuple(SIZES).index(row['size'])


def _is_earlier(row: Row) -> bool:
  return row.get('program') != PROGRAM


def _cell(row: Row) -> str:
  text = _memory(row) + ('*' if _is_earlier(row) else '')
  return text if row['fits'] else f'**{text}: too much**'
