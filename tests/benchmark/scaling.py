"""Weak scaling as the compiler sees it: what devices send and hold as there are more of them.

Each has the same number of clips. The step is compiled for 1 to 8 CPU devices emulated on this
machine, in a process for each number, with all devices as `data` and with all as `fsdp`; what is
told is read from the compiled program. Nothing is timed: emulated devices share the same cores.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmark.fits import compile_alone
from vmae_jax.errors import UserError

DEVICES = (1, 2, 4, 8)
AXES = ('data', 'fsdp')
STATE = ('parameters', 'optimizer')  # Kinds of memory.


def benchmark_scaling(*, size: str, clips: int) -> dict[str, Any]:
  """Compiles VideoMAE's step for each number of devices and each axis of the mesh.

  Args:
    size: A key of SIZES.
    clips: On each device.

  Returns:
    Rows with the number of devices, the axis, `collectives` by kind (of one device, in a step),
    the bytes that it sends, and those that it holds by kind.

  Raises:
    UserError: a step does not compile.
  """
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for axis in AXES:
      for count in DEVICES:
        # A loop over layers, which compiles sooner; it changes nothing of what is sent in all.
        settings = {'batch_size': clips * count, 'model.scan': True, 'mesh.data': 1}
        settings |= {f'mesh.{axis}': count}
        env = os.environ | {
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}',
        }
        said = compile_alone('videomae', size, 'local', settings, Path(folder), env=env)
        if 'error' in said:
          raise UserError(f'scaling: {count} devices as {axis}: {said["error"]}')
        collectives = said['collectives']
        sent = sum(kind['sent'] for kind in collectives.values())
        rows.append(
          dict(axis=axis, devices=count, sent=sent, collectives=collectives, memory=said['memory'])
        )
  return {'size': size, 'clips': clips, 'rows': rows}


def table(result: dict[str, Any]) -> str:
  """The result as Markdown."""
  lines = [
    f'VideoMAE, ViT-{result["size"].upper()}, {result["clips"]} clips of 16 x 224 x 224 on each '
    'emulated CPU device, float32: what one of them sends and holds in a step, as compiled',
    '',
    '| devices | mesh | operations between them: times, MB | MB sent | parameters and optimizer '
    '(MB) | all memory (MB) |',
    '|---|---|---|---|---|---|',
  ]
  for row in result['rows']:
    kinds = [
      f'{kind} {x["runs"]}, {x["bytes"] / 1e6:.1f}' for kind, x in row['collectives'].items()
    ]
    state = sum(row['memory'][kind] for kind in STATE)
    lines.append(
      f'| {row["devices"]} | {row["axis"]} | {"; ".join(kinds) or "none"} | '
      f'{row["sent"] / 1e6:.1f} | {state / 1e6:.1f} | {row["memory"]["all"] / 1e6:.1f} |'
    )
  return '\n'.join(lines)
