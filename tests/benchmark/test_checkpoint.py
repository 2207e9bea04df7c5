"""Saving and restoring, measured with a thin model."""

import jaxtyping
import pytest

from tests.benchmark import checkpoint
from vmae_jax.models.sizes import SIZES


@pytest.mark.slow
def test_benchmark(monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  decoder = dict(width=32, depth=1, heads=2, mlp=128)
  monkeypatch.setitem(SIZES, 'tiny', dict(width=64, depth=2, heads=2, mlp=128, decoder=decoder))
  result = checkpoint.benchmark_checkpoint(size='tiny', rounds=2)
  # Parameters and two moments of each, in float32; more than those of the two large layers.
  assert result['bytes'] > 3 * 4 * 1536 * (64 + 32)
  assert 0 < result['blocked'] < result['saved'] and result['restored'] > 0
  text = checkpoint.table([result])
  assert text.startswith('Checkpoints of a train state') and '| ViT-TINY | 0.00 |' in text
