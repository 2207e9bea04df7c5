"""The training step compiled ahead of time, for devices that need not be there.

It is the step that `vmae_jax.training.pretraining` runs, under the same mesh and shardings; only
shapes are needed, no arrays.
"""

import importlib.metadata
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vmae_jax import sharding
from vmae_jax.method.forward import Method
from vmae_jax.method.state import init_state
from vmae_jax.planning.gpus import untried
from vmae_jax.planning.program import Collective, read_collectives, read_cycles, read_kernels
from vmae_jax.training.loop import make_schedule
from vmae_jax.training.pretraining import make_step
from vmae_jax.training.step import jit_step
from vmae_jax.training.teachers import build_method

_ANY_NUMBER = 10**6  # Of steps and videos: they only enter the learning rate.


class CompiledStep(NamedTuple):
  """What the compiler says of a step, on one of the devices."""

  fits: bool  # Whether its memory suffices.
  # Kind -> bytes; 'all' is their sum and `limit` what there is. Where the compiler refused the
  # step, it tells but these two beside what is held by shape.
  memory: dict[str, int]
  # As the compiler counts, which takes the body of a loop once; None if it does not tell.
  flops: float | None
  collectives: list[Collective]  # What is sent between devices.
  # Of a core, by part of the model, where the compiler tells them; see `read_cycles`.
  cycles: dict[str, int]
  # Of libraries and by hand, such as cuDNN's attention: target -> how often one runs.
  kernels: dict[str, int]
  # Arrays of the state that a step leaves on other devices than it found them, so that the next one
  # would be compiled anew.
  resharded: int
  seconds: float  # That tracing and compiling took.
  compiler: str  # Its name and version.


def resolve(config: ml_collections.ConfigDict, platform: str) -> ml_collections.ConfigDict:
  """A copy whose `auto` type is what it becomes on the platform, whatever runs this process."""
  config = config.copy_and_resolve_references()
  if platform in ('tpu', 'gpu') and config.model.dtype == 'auto':
    config.model.dtype = 'bfloat16'
  return config


def batch_shapes(config, method: Method, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """What the loader delivers for a step."""
  b = config.batch_size
  shapes = {name: (x.shape, x.dtype) for name, x in method.inputs.items()}
  shapes |= {name: ((), jnp.int32) for name in ('label', 'epoch', 'sample', 'repeat')}
  shapes |= {name: ((), jnp.bool_) for name in ('replaced', 'valid')}
  place = sharding.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct((b, *shape), dtype, sharding=place)
    for name, (shape, dtype) in shapes.items()
  }


def compile_step(config, mesh: Mesh, *, limit: int) -> tuple[CompiledStep, Method]:
  """Compiles the training step of a config for the devices of a mesh.

  Args:
    config: Of pre-training, checked; see `resolve`.
    mesh: Its devices may be those of a topology.
    limit: Bytes of memory of a device. The compiler for TPUs itself refuses what does not fit.

  Returns:
    What came of it, and the method.

  Raises:
    UserError: the config cannot be built.
  """
  method = build_method(config)
  schedule = make_schedule(config, steps=_ANY_NUMBER, videos=_ANY_NUMBER)
  optimizer, step = make_step(config, method, schedule, steps=_ANY_NUMBER)
  state = jax.eval_shape(
    lambda key: init_state(method.init(key), optimizer, ema=config.optimizer.ema),
    jax.random.key(config.seed),
  )
  places = sharding.tree_shardings(state, mesh)
  state = jax.tree.map(_placed, state, places)
  frozen = jax.tree.map(lambda x: _placed(x, sharding.replicated(mesh)), method.frozen)
  batch = batch_shapes(config, method, mesh)
  kinds = {
    'parameters': state.params,
    'optimizer': state.opt_state,
    'average of parameters': state.ema,
    'frozen networks': frozen,
    'batch': batch,
  }
  arguments = {kind: _device_bytes(tree) for kind, tree in kinds.items() if jax.tree.leaves(tree)}
  began = time.perf_counter()
  with jax.set_mesh(mesh):
    lowered = jit_step(step, state, mesh).lower(state, batch, frozen)
    try:
      compiled = lowered.compile(compiler_options=untried(mesh.devices.flat[0]))
    except jax.errors.JaxRuntimeError as e:
      memory = _exhausted(str(e), sum(arguments.values()))
      seconds = time.perf_counter() - began
      out = CompiledStep(False, arguments | memory, None, [], {}, {}, 0, seconds, _compiler(mesh))
      return out, method
  seconds = time.perf_counter() - began
  after = jax.tree.leaves(compiled.output_shardings[0])
  moved = sum(
    not new.is_equivalent_to(old.sharding, old.ndim)
    for new, old in zip(after, jax.tree.leaves(state), strict=True)
  )
  memory, text = _memory(arguments, compiled.memory_analysis()), compiled.as_text()
  return (
    CompiledStep(
      fits=memory['all'] <= limit,
      memory=memory | {'limit': limit},
      flops=(compiled.cost_analysis() or {}).get('flops'),  # None of GPUs that are not here.
      collectives=read_collectives(text, devices=mesh.size),
      cycles=read_cycles(text),
      kernels=read_kernels(text),
      resharded=moved,
      seconds=seconds,
      compiler=_compiler(mesh),
    ),
    method,
  )


def _placed(x: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _device_bytes(tree: Any) -> int:
  """What one device holds of a tree of shapes with shardings."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _memory(arguments: dict[str, int], analysis) -> dict[str, int]:
  """Bytes by kind, from what is held by shape and the compiler's analysis."""
  # The compiler's layouts fill up short axes, and it leaves out what the step does not read.
  padding = max(analysis.argument_size_in_bytes - sum(arguments.values()), 0)
  memory = arguments | {
    'padding of the above': padding,
    'activations, gradients, temporaries': analysis.temp_size_in_bytes,
    'metrics': analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    'program': analysis.generated_code_size_in_bytes,
  }
  return memory | {'all': sum(memory.values())}


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def _exhausted(message: str, held: int) -> dict[str, int]:
  """What the TPU compiler says when memory does not suffice; raises for any other error.

  It says all that is used, or temporaries alone: these are beside the bytes that are held.
  """
  size = r'([\d.]+)([KMGT]?)'
  if match := re.search(rf'Used {size} of {size} hbm', message):
    held = 0
  elif not (
    match := re.search(rf'temporaries \({size}\) exceeds available HBM \({size}\)', message)
  ):
    raise RuntimeError(message)
  return {
    'all': held + int(float(match[1]) * _UNITS[match[2]]),
    'limit': int(float(match[3]) * _UNITS[match[4]]),
  }


def _compiler(mesh: Mesh) -> str:
  platform = mesh.devices.flat[0].platform
  name = 'libtpu' if platform == 'tpu' else 'jaxlib'
  return f'{name} {importlib.metadata.version(name)}'
