"""Estimates, before any hardware is paid for, whether a training step fits and what a run costs.

  python -m vmae_jax.estimate --config=configs/videomae.py:b,k400 --topology=v5e:16x16
  python -m vmae_jax.estimate --config=configs/videomae.py:l,k400 --topology=v5p:4x4x8 --search

Compiles the real step for a TPU slice or GPUs that you need not have (after `pip install
"jax[tpu]"` or `pip install "jax[cuda13]"`), or with --topology=local for the devices of this
machine. Prints memory by kind, FLOPs, communication between chips, a lower bound of the time from
published peaks, the time by the compiler's count of cycles (or by an assumed MFU if it counts
none), hours, and what the hosts need to feed it. A step takes minutes to compile.
"""

import json
import os
import pathlib

from absl import flags

from vmae_jax import cli
from vmae_jax.errors import UserError

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string(
  'topology',
  None,
  "A TPU slice such as v5e:16x16, several such as '2*v5e:16x16', a host of GPUs such as h200:8, "
  "several such as '2*h200:8', or local.",
)
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Clips in a step; by default batch_size of the config.'
)
_MFU = flags.DEFINE_float(
  'mfu',
  None,
  "Share of the peak that a step is expected to reach; by default what the compiler's count of "
  'cycles comes to, or 0.4 where it counts none (CPU, GPU).',
)
_VIDEOS = flags.DEFINE_integer(
  'videos', None, 'Videos in the training set; by default those that data.train names.'
)
_DECODE_RATE = flags.DEFINE_float(
  'decode_rate',
  64.0,
  'Clips that one host core decodes in a second, the first from each video. 64 was measured on '
  'shards of 340 x 256; yours: python -m vmae_jax.benchmark loader --feed=raw '
  '--config.data.train=LIST.',
)
_VIDEO_MB = flags.DEFINE_float('video_mb', 1.0, 'Mean size of a video file in MB.')
_SEARCH = flags.DEFINE_bool(
  'search',
  False,
  'Finds the cheapest mesh.fsdp and model.remat for the batch, and the largest number of clips a '
  'chip (a power of two) for each model.remat. Takes several compilations.',
)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write all numbers to.')


def main(argv):
  cli.refuse_arguments(argv)
  _check_flags()
  topology = _TOPOLOGY.value
  if topology != 'local':
    # Only compiles: a TPU of this machine may be in use.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    import jax

    jax.config.update('jax_platforms', 'cpu')
  from vmae_jax.planning import estimate, search

  config = _CONFIG()
  if _BATCH.value:
    config.batch_size = _BATCH.value
  result, step = estimate.estimate(
    config,
    topology,
    **cli.values(_MFU, _VIDEOS, _DECODE_RATE),
    video_bytes=_VIDEO_MB.value * 1e6,
  )
  print(estimate.table(result), flush=True)
  _write(result)
  if _SEARCH.value:
    print()
    result['search'] = search.search(config, topology, step=step, clip_flops=result['clip_flops'])
    print('\n' + search.table(result['search']))
    _write(result)


def _write(result: dict) -> None:
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(json.dumps(result, indent=2) + '\n')
    print(f'\nwritten to {_OUT.value}', flush=True)


def _check_flags() -> None:
  """Raises errors that would otherwise come after minutes of compiling."""
  _CONFIG()
  if not _TOPOLOGY.value:
    raise UserError(
      'give --topology: a TPU slice such as v5e:16x16, GPUs such as h200:8, or local.'
    )
  if _MFU.value is not None and not 0 < _MFU.value <= 1:
    raise UserError(f'--mfu={_MFU.value}: a share of the peak lies above 0 and up to 1.')
  for flag in (_BATCH, _VIDEOS, _DECODE_RATE, _VIDEO_MB):
    if flag.value is not None and flag.value <= 0:
      raise UserError(f'--{flag.name}={flag.value}: it must be above 0.')
  if _OUT.value:
    cli.check_file(pathlib.Path(_OUT.value))


if __name__ == '__main__':
  cli.run(main)
