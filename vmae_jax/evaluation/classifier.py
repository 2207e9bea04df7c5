"""The classifier of a finished fine-tuning, as a function from clips to logits.

from vmae_jax.evaluation.classifier import load_classifier
config, params, classify = load_classifier('runs/b_k400_ft')
logits = classify(params, video)  # uint8 (b, T, H, W, 3) -> float32 (b, c)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from vmae_jax.errors import UserError
from vmae_jax.interchange.runs import load_run
from vmae_jax.method.objective import prepare
from vmae_jax.training.supervised import build_supervised
from vmae_jax.types import Array, Float, UInt8

Classify = Callable[[Any, UInt8[Array, 'b T H W 3']], Float[Array, 'b c']]


def load_classifier(path: str) -> tuple[ml_collections.ConfigDict, Any, Classify]:
  """Reads a fine-tuned model of ours.

  Args:
    path: The workdir of a fine-tuning, or one of its checkpoints.

  Returns:
    The run's config, the parameters (the moving average, where there is one), and
    (parameters, uint8 clips) -> logits, jitted.

  Raises:
    UserError: there is no checkpoint, or it is none of a classifier.
  """
  params, info = load_run(path)
  if info['kind'] != 'classification':
    raise UserError(f'{path} is no classifier but {info["kind"]}: give a run of finetune.')
  config = ml_collections.ConfigDict(info['config'])
  supervised = build_supervised(config, classes=info['classes'])

  @jax.jit
  def classify(params: Any, video: UInt8[Array, 'b T H W 3']) -> Float[Array, 'b c']:
    clip = supervised.normalise(prepare(video))
    return supervised.model.apply({'params': params}, clip).astype(jnp.float32)

  return config, jax.tree.map(jnp.asarray, params), classify
