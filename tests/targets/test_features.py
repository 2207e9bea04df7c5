"""A teacher's tokens as a target."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.targets.features import features

TOKENS = np.random.default_rng(0).normal(2, 3, (2, 2, 8, 16)).astype(np.float32)  # Layer, b, n, d.


def ask(**options):
  def teacher(clip, *, patch, layers, norm):
    return [jnp.asarray(TOKENS[layer]) for layer in layers]

  clip = jnp.zeros((2, 4, 8, 8, 3))
  return np.asarray(features(clip, None, patch=(2, 4, 4), teacher=teacher, **options))


def test_layers_are_concatenated():
  np.testing.assert_array_equal(ask(), TOKENS[-1])
  np.testing.assert_array_equal(ask(layers=(1, 0)), np.concatenate([TOKENS[1], TOKENS[0]], -1))


@pytest.mark.parametrize('normalise, axis', [('token', -1), ('clip', -2)])
def test_normalised_over_a_tokens_values_or_a_clips_tokens(normalise, axis):
  found = ask(normalise=normalise, layers=(0, 1))
  parts = [(x - x.mean(axis, keepdims=True)) / x.std(axis, keepdims=True) for x in TOKENS]
  np.testing.assert_allclose(found, np.concatenate(parts, -1), atol=1e-5)


def test_an_unknown_normalisation_is_an_error():
  with pytest.raises(UserError, match="normalise: there is no 'batch'"):
    ask(normalise='batch')
