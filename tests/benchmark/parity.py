"""How far a training step's loss and gradients on this device are from the CPU's."""

import json
from typing import Any

import jax
import numpy as np
from absl import flags

from tests.benchmark import contenders
from vmae_jax import cli, sharding, storage
from vmae_jax.config_file import load_config
from vmae_jax.method.build import build_method

_OUT = flags.DEFINE_string('out', 'parity.json', 'The JSON file.')
_CONFIG = flags.DEFINE_string('config', 'configs/videomae.py:tiny,k400', 'Without teachers.')


def parity(path: str) -> dict[str, Any]:
  """A config's loss of two clips in float32 and bfloat16, and by how much its gradients, as one
  vector, differ from the CPU's in float32, over their length."""
  config = load_config(path)
  shape = (2, config.data.frames, config.data.size, config.data.size, 3)
  video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  batch = contenders.one_batch(2) | {'video': video}

  def ask(device, dtype):
    config.model.dtype = dtype
    method = build_method(config)
    with jax.set_mesh(sharding.make_mesh(devices=[device])):
      with jax.default_matmul_precision('highest' if dtype == 'float32' else 'default'):
        params = jax.device_put(weights, device)
        step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
        (loss, _), grads = step(params, jax.device_put(batch, device), {})
    return float(loss), np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])

  cpu, device = jax.devices('cpu')[0], jax.devices()[0]
  with jax.default_device(cpu):
    weights = jax.device_get(jax.jit(build_method(config).init)(jax.random.key(0)))
  there, expected = ask(cpu, 'float32')
  result = {'device': device.device_kind, 'loss_on_cpu': there}
  for dtype in ('float32', 'bfloat16'):
    loss, grads = ask(device, dtype)
    apart = np.linalg.norm(grads - expected) / np.linalg.norm(expected)
    result[dtype] = {'loss': loss, 'gradients_apart': float(apart)}
  return result


def main(argv: list[str]) -> None:
  cli.refuse_arguments(argv)
  result = json.dumps(parity(_CONFIG.value), indent=2)
  print(result)
  storage.write_text(_OUT.value, result + '\n')


if __name__ == '__main__':
  cli.run(main)
