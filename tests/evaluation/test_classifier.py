"""A fine-tuned model, read back as a function."""

import jax
import jaxtyping
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.fresh_run import save_fresh_run
from tests.started import ROOT
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.evaluation.classifier import load_classifier
from vmae_jax.training.supervised import build_supervised


def write_classifier(workdir, *, average):
  """A checkpoint of a classifier of 5 classes with random weights, as fine-tuning writes it."""
  config = load_config(f'{ROOT}/configs/finetune.py:smoke')
  supervised = build_supervised(config, classes=5)
  init = jax.jit(supervised.init)
  params, ema = (jax.tree.map(lambda x: 10 * x, init(jax.random.key(i))) for i in (0, 1))
  state = {'params': params, 'ema': ema} if average else {'params': params}
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(
      workdir / 'checkpoints' / '3',
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config.to_dict())
      ),
    )
  return supervised, ema if average else params


@pytest.mark.parametrize('average', [False, True])
def test_logits_are_those_of_the_test(tmp_path, average):
  supervised, params = write_classifier(tmp_path, average=average)
  video = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
  config, loaded, classify = load_classifier(str(tmp_path))
  assert config.data.size == 32
  logits = np.asarray(classify(loaded, video))
  assert logits.shape == (2, 5) and logits.dtype == np.float32
  expected = jax.jit(supervised.probabilities)(params, video)
  np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)
  assert np.ptp(expected) > 1e-3


def test_a_pre_trained_run_is_none(tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  save_fresh_run(tmp_path)
  with pytest.raises(UserError, match='is no classifier but'):
    load_classifier(str(tmp_path))
