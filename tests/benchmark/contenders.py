"""Processes that `tests.benchmark.step` runs: one step for each line on standard input."""

import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLASSES = 400
FRAMES, SIZE = 16, 224


class Ready(NamedTuple):
  """What a process can do once it has been set up.

  Attributes:
    run: Does one step and waits for its result.
    peak: () -> peak memory in bytes: of the process on CPU, of the device elsewhere.
    about: Versions, device, threads and `clip_flops`, as each counts its own.
  """

  run: Callable[[], None]
  peak: Callable[[], int]
  about: dict[str, Any]


def video(batch: int) -> np.ndarray:
  """Noise: what is in the clips costs nothing."""
  return np.random.default_rng(0).integers(0, 256, (batch, FRAMES, SIZE, SIZE, 3), np.uint8)


def threads() -> int:
  """Cores that this process may use: so many threads XLA computes with, and PyTorch is told to."""
  return len(os.sched_getaffinity(0))


def host_peak() -> int:
  """Peak memory of this process in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_published(name: str, size: str):
  """A config for K400, by its file."""
  from vmae_jax.config_file import load_config

  root = pathlib.Path(__file__).parents[2]
  sys.path.insert(0, str(root))  # Config files import each other.
  return load_config(f'{root}/configs/{name}.py:{size},k400')


def load_recipe(name: str, size: str):
  """The same with layers as a loop on CPU, where that compiles sooner."""
  import jax

  config = load_published(name, size)
  config.model.scan = jax.default_backend() == 'cpu'
  config.data.frames, config.data.size = FRAMES, SIZE
  return config


def vmae_jax(
  work: str, size: str, batch: int, *, method: str = 'videomae', overrides: dict | None = None
) -> Ready:
  """Our step, as `vmae_jax.pretrain` (any method in configs/) or `finetune` compiles it."""
  import jax

  config = load_recipe(method if work == 'pretrain' else 'finetune', size)
  config.update_from_flattened_dict(overrides or {})
  run, clip_flops = {'pretrain': _pretrain, 'finetune': _finetune, 'inference': _infer}[work](
    config, batch
  )
  device = jax.devices()[0]

  def peak():
    stats = device.memory_stats()
    return stats['peak_bytes_in_use'] if stats else host_peak()

  about = {'version': f'jax {jax.__version__}', 'device': device.device_kind}
  about['threads'] = threads()
  return Ready(run, peak, about | {'clip_flops': clip_flops})


def _pretrain(config, batch: int):
  from vmae_jax.method.build import build_method

  method = build_method(config)
  data = one_batch(batch)
  for name in set(method.inputs) - set(data):
    values = np.random.default_rng(1).integers(0, 256, (batch, *method.inputs[name].shape))
    data[name] = values.astype(method.inputs[name].dtype)
  return _training(method, data), method.flops()


def _finetune(config, batch: int):
  """Without erasing, mixing and drop path, which the peer lacks."""
  from vmae_jax.method.supervised import build_supervised

  config.mixing.chance = config.data.erase = config.model.drop_path = 0.0
  supervised = build_supervised(config, classes=CLASSES)
  data = one_batch(batch) | {'label': np.arange(batch, dtype=np.int32)}
  return _training(supervised, data), supervised.flops()


def one_batch(batch: int) -> dict[str, np.ndarray]:
  index = np.arange(batch, dtype=np.int32)
  numbers = {'epoch': index * 0, 'sample': index, 'repeat': index * 0}
  return numbers | {'video': video(batch), 'replaced': np.zeros(batch, bool)}


def start(task, *, ema: float = 0.0) -> tuple:
  """AdamW and a fresh train state of a `Method` or `Supervised`."""
  import jax

  from vmae_jax.config import default
  from vmae_jax.method.state import init_state
  from vmae_jax.training.optimizer import make_optimizer

  optimizer = make_optimizer(default().optimizer, lambda _: 1e-4)
  state = jax.jit(lambda key: init_state(task.init(key), optimizer, ema=ema))(jax.random.key(0))
  return optimizer, state


def _training(task, data: dict[str, np.ndarray]) -> Callable[[], None]:
  import jax

  from vmae_jax.frozen.teacher import averaged
  from vmae_jax.training.step import make_train_step

  ema = 0.99 if averaged(getattr(task, 'teachers', {})) else 0.0
  optimizer, state = start(task, ema=ema)
  step = jax.jit(make_train_step(task.loss, optimizer, accumulate=1, ema=ema), donate_argnums=0)
  frozen = jax.device_put(getattr(task, 'frozen', {}))

  def run():
    nonlocal state
    state, metrics = step(state, data, frozen)
    jax.block_until_ready((state, metrics))

  return run


def _infer(config, batch: int):
  import jax

  from vmae_jax.method.supervised import build_supervised

  supervised = build_supervised(config, classes=CLASSES)
  params = jax.jit(supervised.init)(jax.random.key(0))
  probabilities = jax.jit(supervised.probabilities)
  clips = video(batch)

  def run():
    jax.block_until_ready(probabilities(params, clips))

  return run, supervised.flops() // 3  # Training takes three passes.


def main():
  from tests.benchmark import torch_contenders

  make = {
    'vmae_jax': vmae_jax,
    'torch': torch_contenders.torch,
    'torch_compiled': torch_contenders.torch_compiled,
  }[sys.argv[1]]
  ready = make(**json.loads(sys.argv[2]))
  print(json.dumps(ready.about), flush=True)
  for line in sys.stdin:
    if line.strip() == 'memory':
      answer = {'bytes': ready.peak()}
    else:
      began = time.perf_counter()
      ready.run()
      answer = {'seconds': time.perf_counter() - began}
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
