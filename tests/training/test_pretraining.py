"""What pre-training and fine-tuning hand to the loop."""

import pytest

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.runs.run_dir import prepare_run_dir
from vmae_jax.training import finetuning, loop, pretraining

TRAIN = {'videomae': pretraining.train, 'finetune': finetuning.finetune}


class Handed(Exception):
  pass


@pytest.mark.parametrize('name', TRAIN)
@pytest.mark.parametrize('older', [False, True])
def test_an_older_run_draws_its_samples_as_before(name, older, tmp_path, monkeypatch):
  def run(*args):
    raise Handed(*args)

  monkeypatch.setattr(loop, 'run', run)
  config = load_config(f'{started.ROOT}/configs/{name}.py:smoke')
  prepare_run_dir(tmp_path, config)
  if older:
    started.forget(tmp_path, 'data.order', 'data.released_end')
  with pytest.raises(Handed) as e:
    TRAIN[name](config, str(tmp_path))
  config, *_, task = e.value.args
  assert task.sampler.released_end == older
  assert config.data.order == ('added' if older else 'hashed')
