"""The training step, compiled ahead of time for devices that need not be present.

It is the step that `vmae_jax.training.pretraining` runs, with the same mesh and shardings. It is
compiled from shapes, without arrays.
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

_ANY_NUMBER = 10**6  # Of steps and videos, which only determine the learning rate.


class CompiledStep(NamedTuple):
  """What the compiler reports about a step, for one of the devices."""

  fits: bool  # Whether the device's memory is large enough.
  # Kind -> bytes; `all` is their sum and `limit` the device's memory. If the compiler refuses a
  # step, it reports only these two, and the kinds that follow from shapes are added.
  memory: dict[str, int]
  # As the compiler counts, with the body of a loop once; None if it does not report it.
  flops: float | None
  collectives: list[Collective]  # Operations between devices.
  # Part of the model -> cycles of a core; empty if the compiler does not report them.
  cycles: dict[str, int]
  # Kernel of a library, such as cuDNN's attention, or our own -> how often it runs.
  kernels: dict[str, int]
  # The number of the state's arrays whose sharding the step changes: with any, the next step would
  # be compiled again.
  resharded: int
  seconds: float  # The time that tracing and compiling took.
  compiler: str  # Name and version of the compiler.


def resolve(config: ml_collections.ConfigDict, platform: str) -> ml_collections.ConfigDict:
  """A copy of the config with the model.dtype that `auto` means on the platform."""
  config = config.copy_and_resolve_references()
  if platform in ('tpu', 'gpu') and config.model.dtype == 'auto':
    config.model.dtype = 'bfloat16'
  return config


def batch_shapes(config, method: Method, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes and shardings of a batch from the loader."""
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
    config: A config of pre-training, checked and resolved, see `resolve`.
    mesh: A mesh of devices, which may be those of a topology.
    limit: Bytes of memory of a device. The compiler for TPUs refuses steps that do not fit.

  Returns:
    The compiled step, and the method.

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
      flops=(compiled.cost_analysis() or {}).get('flops'),  # None for GPUs that are not present.
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
  """The bytes of a tree of shapes with shardings on one device."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def _memory(arguments: dict[str, int], analysis) -> dict[str, int]:
  """Bytes by kind, from those of the arguments and the compiler's analysis."""
  # The compiler's layouts pad short axes, and it leaves out arguments that the step does not read.
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
  """`all` and `limit` from the TPU compiler's message that memory is exhausted.

  The message has all that is used, or only temporaries, to which the `held` bytes are added.

  Raises:
    RuntimeError: the message is another one.
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
