"""A pre-training step of each method, over VideoMAE's.

As in `vmae_jax.benchmark.step`, each runs in a process of its own and they take turns. Frozen
networks have random weights here: what they compute costs the same.
"""

import statistics
import tempfile
from pathlib import Path

from vmae_jax.benchmark.step import Contender, take_turns
from vmae_jax.errors import lookup
from vmae_jax.models.sizes import SIZES

# Row -> (file in configs/, values changed). GUMBEL_PATH becomes the path of one made here.
GUMBEL_PATH = 'gumbel'
METHODS = {
  'videomae': ('videomae', {}),
  'motionmae, shared': ('motionmae', {}),
  'motionmae, independent': ('motionmae', {'heads.motion.decoder': 'motion_decoder'}),
  'mam2, Gumbel f8': ('mam2', {'tokenizer.path': GUMBEL_PATH}),
  'mam2, untrained small tokenizer': ('mam2', {'tokenizer.path': 'untrained'}),
  'mgmae, inverse search': ('mgmae', {}),
  'mme, clean': ('mme', {}),
  # What MME's masks and decoder cost with targets that cost nothing.
  'mme with pixels as targets': (
    'videomae',
    {'masking.ratio': 0.7, 'model.decoder_width': 192, 'model.decoder_depth': 1},
  ),
}
GUMBEL = dict(multipliers=(1, 1, 2, 4), codes=8192, quantizer='gumbel')


def benchmark_methods(*, size: str, batch: int, rounds: int) -> dict:
  """Times a step of 16 x 224 x 224 clips of every row of METHODS.

  Returns:
    For each row the median seconds of a step, peak memory in bytes, GFLOP a clip, and time and
    FLOPs over VideoMAE's.
  """
  lookup(SIZES, size, '--size')
  with tempfile.TemporaryDirectory() as folder:
    gumbel = make_gumbel(Path(folder) / 'gumbel_f8.safetensors')
    running = []
    for label, (method, changes) in METHODS.items():
      settings = {'work': 'pretrain', 'size': size, 'batch': batch, 'method': method}
      settings['overrides'] = overrides(changes, gumbel=gumbel)
      running.append(Contender('vmae_jax', settings, label=label))
    times, memory = take_turns(running, rounds=rounds)
  rows = {
    c.name: {
      'seconds': statistics.median(times[c.name]),
      'peak_bytes': memory[c.name],
      **c.about,
    }
    for c in running
  }
  base = rows['videomae']
  for row in rows.values():
    row['time_ratio'] = row['seconds'] / base['seconds']
    row['flops_ratio'] = row['clip_flops'] / base['clip_flops']
  return {'size': size, 'batch': batch, 'rounds': rounds, 'methods': rows}


def overrides(changes: dict, *, gumbel: Path) -> dict:
  """The values of a row, with the path of the tokenizer where it is wanted."""
  return {key: str(gumbel) if value == GUMBEL_PATH else value for key, value in changes.items()}


def make_gumbel(path: Path) -> Path:
  """A tokenizer of the published model's size, with random weights."""
  import jax
  import jax.numpy as jnp

  from vmae_jax.tokenizers.tokenizer import save_tokenizer
  from vmae_jax.tokenizers.vqgan import VQGAN

  model = VQGAN(**GUMBEL)
  images = jnp.zeros((1, 8, 8, 3))
  save_tokenizer(path, model, jax.jit(model.init)(jax.random.key(0), images)['params'])
  return path


def table(result: dict) -> str:
  """The result as Markdown."""
  lines = [
    f'ViT-{result["size"].upper()}, {result["batch"]} clips of 16 x 224 x 224; medians of '
    f'{result["rounds"]} steps',
    '',
    '| | step (s) | over VideoMAE | GFLOP a clip | over VideoMAE | peak memory (GB) |',
    '|---|---|---|---|---|---|',
  ]
  for name, row in result['methods'].items():
    lines.append(
      f'| {name} | {row["seconds"]:.3f} | {row["time_ratio"]:.2f} | '
      f'{row["clip_flops"] / 1e9:.0f} | {row["flops_ratio"]:.2f} | '
      f'{row["peak_bytes"] / 1e9:.2f} |'
    )
  return '\n'.join(lines)
