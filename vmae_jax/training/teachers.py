"""Frozen networks of a pre-training: reads and reports them, and checks them at each start."""

from collections.abc import Mapping
from typing import Any

import jax

from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import build_encoder, load_encoder, resolve, weights_hash
from vmae_jax.frozen.teacher import AVERAGE, Teacher, of_compute_type
from vmae_jax.frozen.tokenizer import UNTRAINED
from vmae_jax.hub import local_path
from vmae_jax.method import build
from vmae_jax.method.forward import Method
from vmae_jax.method.wiring import encoder_arguments
from vmae_jax.runs.checkpoint import WEIGHTS


def build_method(config) -> Method:
  """The method of a config, with the teachers that its heads use.

  Errors are those of `build.build_method` and `load_encoder`.
  """
  return build.build_method(config, teachers=load_teachers(config))


def load_teachers(config) -> dict[str, Teacher]:
  """Name -> teacher, from its path: a run, or a checkpoint of another implementation."""
  _, common = encoder_arguments(config.model)
  options = {name: common[name] for name in ('dtype', 'implementation', 'scan')}
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
      encoder.clone(**options, **pixels, remat='none'),
      of_compute_type(params, common['dtype']),
      (data.frames, data.size, data.size),
      f'{resolve(path)} ({WEIGHTS.get(found.weights, found.weights)} weights)',
      weights_hash(params),
    )
  return teachers


def tell_teachers(config, method: Method) -> None:
  """Prints which teacher each head learns from, and sets the teachers' digests in the config.

  So a run cannot go on with other weights: a UserError if the config has other digests.
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
  """Digests of the frozen networks, except teachers, whose digests are in the config.

  Raises a UserError if they differ from `before`, which the checkpoint holds (old ones do not).
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
