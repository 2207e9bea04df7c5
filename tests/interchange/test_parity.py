"""Equal to transformers' VideoMAE: logits, loss and gradients, to 1e-5 in float32.

The short tests compare with stored values, the full ones with the model itself. LayerNorm's
eps differ between implementations (1e-12 and 1e-5 in transformers, 1e-6 in the official code);
they are set to 1e-6 in both.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.interchange import peer
from tests.stored import assert_close
from vmae_jax.method.losses import mse
from vmae_jax.models.autoencoder import MaskedAutoencoder
from vmae_jax.models.classifier import Classifier
from vmae_jax.models.decoder import Output
from vmae_jax.models.encoder import gather
from vmae_jax.models.patches import normalise, unit_range
from vmae_jax.targets.pixels import pixels

pytestmark = pytest.mark.optimised

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'videomae_tiny.npz'


@functools.cache
def ours(kind):
  """Logits, loss and gradients."""
  clip, masked = peer.clip_and_mask()
  clip = unit_range(jnp.asarray(clip))
  video = normalise(clip, mean=peer.MEAN, std=peer.STD)
  order = jnp.argsort(jnp.asarray(masked), axis=1, stable=True)
  visible, hidden = order[:, :8], order[:, 8:]
  params = peer.ours(peer.weights(kind))

  def pretraining(params):
    heads = {'pixels': Output('decoder', 384)}
    model = MaskedAutoencoder(peer.ENCODER, peer.DECODER, heads, {'implementation': 'mapped'})
    logits = model.apply({'params': params}, video, visible, hidden)['pixels']
    target = gather(pixels(clip, None, patch=peer.PATCH), hidden)
    return mse(logits, target).mean(), logits

  def classification(params):
    model = Classifier(peer.ENCODER, peer.CLASSES)
    logits = model.apply({'params': params}, video)
    labels = jnp.array([1, 3])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

  loss_fn = {'pretraining': pretraining, 'classification': classification}[kind]
  (loss, logits), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
  return np.asarray(logits), float(loss), peer.flat(jax.tree.map(np.asarray, grads))


@pytest.mark.stored
@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_stored_values(kind):
  logits, loss, grads = ours(kind)
  with np.load(FIXTURE) as stored:
    assert_close(logits, stored[f'{kind}:logits'], share=1e-5, name='logits')
    assert_close(loss, stored[f'{kind}:loss'], share=1e-5, name='loss')
    names = [name for name in stored if name.startswith(f'{kind}:grad:')]
    assert {name.split(':')[2] for name in names} == set(grads)
    for name in names:
      assert_close(peer.summary(grads[name.split(':')[2]]), stored[name], share=1e-5, name=name)


@pytest.mark.full
@pytest.mark.parametrize('kind', ['pretraining', 'classification'])
def test_live(kind):
  logits, loss, grads = ours(kind)
  their_logits, their_loss, their_grads = peer.torch_results(kind)
  assert_close(logits, their_logits, share=1e-5, name='logits')
  assert_close(loss, their_loss, share=1e-5, name='loss')
  assert set(grads) == set(their_grads)
  for name, gradient in their_grads.items():
    assert_close(grads[name], gradient, share=1e-5, name=name)
