"""Frozen networks of a pre-training: read, told, and the same when a run goes on."""

from collections.abc import Mapping
from typing import Any

import jax

from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import build_encoder, load_encoder, resolve, weights_hash
from vmae_jax.frozen.teacher import AVERAGE, UNTRAINED, Teacher, of_compute_type
from vmae_jax.hub import local_path
from vmae_jax.method import build
from vmae_jax.method.forward import Method
from vmae_jax.method.wiring import encoder_arguments
from vmae_jax.runs.checkpoint import WEIGHTS


def build_method(config) -> Method:
  """The method that a config describes, with the teachers that its heads ask for.

  Errors are those of `build.build_method` and `load_encoder`.
  """
  return build.build_method(config, teachers=load_teachers(config))


def load_teachers(config) -> dict[str, Teacher]:
  """Teacher -> what its path holds: any run, or a checkpoint of another implementation."""
  _, common = encoder_arguments(config.model)
  alike = {name: common[name] for name in ('dtype', 'implementation', 'scan')}
  teachers = {}
  for name in build.asked_teachers(config):
    block = config.teachers[name]
    if block.path in ('', AVERAGE, UNTRAINED):
      continue
    try:
      path = local_path(block.path)
      found, params, _ = load_encoder(path, pool='tokens', weights=block.weights)
    except UserError as e:
      raise UserError(f'teachers.{name}: {e}') from e
    encoder, _ = build_encoder(found, pool='tokens')
    data = found.data
    pixels = {'mean': tuple(data.mean), 'std': tuple(data.std)}
    teachers[name] = Teacher(
      encoder.clone(**alike, **pixels, remat='none'),
      of_compute_type(params, common['dtype']),
      (data.frames, data.size, data.size),
      f'{resolve(path)} ({WEIGHTS.get(found.weights, found.weights)} weights)',
      weights_hash(params),
    )
  return teachers


def tell_teachers(config, method: Method) -> None:
  """Prints what teaches which head, and sets the digest of each teacher's weights in the config, so
  that no run goes on with others than it began with; a UserError where it asks for others.
  """
  for name, teacher in method.teachers.items():
    block = config.teachers[name]
    if block.digest not in ('', teacher.digest):
      raise UserError(
        f'teachers.{name}: {teacher.where} has the digest {teacher.digest}, not {block.digest}.'
      )
    block.digest = teacher.digest
  for name, head in config.heads.items():
    if (teacher := method.teachers.get(head.options.get('teacher'))) and not jax.process_index():
      layers = ', '.join(map(str, head.options.get('layers', (-1,))))
      where = 'the moving average of the model' if teacher.where == AVERAGE else teacher.where
      digest = f', digest {teacher.digest}' if teacher.digest else ''
      print(f'head {name} learns layer {layers} of {where}{digest}')


def same_networks(frozen: Mapping[str, Any], before: Mapping[str, str]) -> dict[str, str]:
  """Checksums of the frozen networks but for teachers, whose checksums the config holds.

  A UserError where they are not those `before`, in the checkpoint; older ones have none.
  """
  found = {}
  for name, params in frozen.items():
    if not name.startswith('teacher '):
      found[name] = weights_hash(params)
      if before.get(name, found[name]) != found[name]:
        raise UserError(
          f'the file of the {name} holds other weights than when this run began (their digest is '
          f'{found[name]}, not {before[name]}): bring the old file back, or start a new run.'
        )
  return found
