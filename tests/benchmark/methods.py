"""A pre-training step of each method, over VideoMAE's.

As in `tests.benchmark.step`, each runs in a process of its own. Every one takes turns with
VideoMAE alone: both meet the same noise, and no more than two models have to fit in memory. Frozen
networks have random weights here: what they compute costs the same.
"""

import statistics
import tempfile
from pathlib import Path

from tests.benchmark.step import Contender, take_turns
from vmae_jax.errors import lookup
from vmae_jax.models.sizes import SIZES

# Row -> (file in configs/, values changed). GUMBEL_PATH becomes the path of one made here.
GUMBEL_PATH = 'gumbel'
BASE = 'videomae'
METHODS = {
  BASE: ('videomae', {}),
  'motionmae, shared': ('motionmae', {}),
  'motionmae, independent': ('motionmae', {'heads.motion.decoder': 'motion_decoder'}),
  'motionmae, flow in place of differences': (
    'motionmae',
    {'heads.motion.target': 'optical_flow'},
  ),
  'mam2, Gumbel f8': ('mam2', {'tokenizer.path': GUMBEL_PATH}),
  'mam2, untrained small tokenizer': ('mam2', {'tokenizer.path': 'untrained'}),
  'mgmae, inverse search': ('mgmae', {}),
  "mgmae, the codec's motion": ('mgmae', {'motion.name': 'codec'}),
  'mme, clean': ('mme', {}),
  'trackmae': ('trackmae', {}),
  'salt, a teacher of its size': ('salt', {'teachers.pixels.path': 'untrained'}),
  'vjepa': ('vjepa', {}),
  'mgm': ('mgm', {'masking.ratio': 0.9}),  # VideoMAE's, so that masks alone differ.
  # What MME's masks and decoder cost with targets that cost nothing.
  'mme with pixels as targets': (
    'videomae',
    {'masking.ratio': 0.7, 'model.decoder_width': 192, 'model.decoder_depth': 1},
  ),
}
GUMBEL = dict(multipliers=(1, 1, 2, 4), codes=8192, quantizer='gumbel')


def benchmark_methods(*, size: str, batch: int, rounds: int) -> dict:
  """Times a step of 16 x 224 x 224 clips of every row of METHODS; prints each as it is done.

  Returns:
    For each row the median seconds of a step and of VideoMAE's beside it, peak memory in bytes,
    FLOPs a clip, and time and FLOPs over VideoMAE's.
  """
  lookup(SIZES, size, '--sizes')
  rows, base_seconds, base = {}, [], {}
  with tempfile.TemporaryDirectory() as folder:
    gumbel = make_gumbel(Path(folder) / 'gumbel_f8.safetensors')

    def contender(label: str) -> Contender:
      method, changes = METHODS[label]
      settings = {'work': 'pretrain', 'size': size, 'batch': batch, 'method': method}
      settings['overrides'] = overrides(changes, gumbel=gumbel)
      return Contender('vmae_jax', settings, label=label)

    for label in METHODS:
      if label == BASE:
        continue
      pair = [contender(BASE), contender(label)]
      times, memory = take_turns(pair, rounds=rounds)
      seconds, beside = (statistics.median(times[name]) for name in (label, BASE))
      base_seconds += times[BASE]
      base = {'peak_bytes': memory[BASE], **pair[0].about}
      rows[label] = {
        'seconds': seconds,
        'videomae_seconds': beside,
        'time_ratio': seconds / beside,
        'peak_bytes': memory[label],
        **pair[1].about,
      }
      print(f'ViT-{size.upper()}, {label}: {seconds:.3f} s, videomae {beside:.3f} s', flush=True)
  seconds = statistics.median(base_seconds)
  first = {'seconds': seconds, 'videomae_seconds': seconds, 'time_ratio': 1.0, **base}
  rows = {BASE: first, **rows}
  for row in rows.values():
    row['flops_ratio'] = row['clip_flops'] / base['clip_flops']
  return {'size': size, 'batch': batch, 'rounds': rounds, 'methods': rows}


def overrides(changes: dict, *, gumbel: Path) -> dict:
  """The values of a row, with the path of the tokenizer where it is wanted."""
  return {key: str(gumbel) if value == GUMBEL_PATH else value for key, value in changes.items()}


def make_gumbel(path: Path) -> Path:
  """A tokenizer of the published model's size, with random weights."""
  import jax
  import jax.numpy as jnp

  from vmae_jax.frozen.tokenizer import save_tokenizer
  from vmae_jax.frozen.vqgan import VQGAN

  model = VQGAN(**GUMBEL)
  images = jnp.zeros((1, 8, 8, 3))
  save_tokenizer(path, model, jax.jit(model.init)(jax.random.key(0), images)['params'])
  return path


def table(result: dict) -> str:
  """The result as Markdown."""
  lines = [
    f'ViT-{result["size"].upper()}, {result["batch"]} clips of 16 x 224 x 224; medians of '
    f'{result["rounds"]} steps, each method beside VideoMAE',
    '',
    '| | step (s) | VideoMAE beside it (s) | over VideoMAE | GFLOP a clip | over VideoMAE | '
    'peak memory (GB) |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, row in result['methods'].items():
    lines.append(
      f'| {name} | {row["seconds"]:.3f} | {row["videomae_seconds"]:.3f} | '
      f'{row["time_ratio"]:.2f} | {row["clip_flops"] / 1e9:.0f} | {row["flops_ratio"]:.2f} | '
      f'{row["peak_bytes"] / 1e9:.2f} |'
    )
  return '\n'.join(lines)
