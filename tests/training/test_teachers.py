"""Teachers are read and reported, and cannot change during a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import started
from tests.evaluation.checkpoints import write_checkpoint
from tests.interchange import synthetic
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import load_encoder
from vmae_jax.method.state import init_state
from vmae_jax.training import pretraining, teachers

VIDEO = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)


def config_of(path, name='salt'):
  config = load_config(f'{started.ROOT}/configs/{name}.py:smoke')
  for teacher in config.teachers.values():
    teacher.path = str(path)
  return config


def a_run(folder):
  write_checkpoint(folder, average=True)
  return folder


def a_public_file(folder):
  sizes = dict(encoder=(128, 4, 512), decoder=(128, 2, 512), patch=(2, 8, 8))
  path = folder / 'videomae.safetensors'
  save_file(synthetic.values(synthetic.pretraining(**sizes)), path)
  return path


@pytest.mark.parametrize('make', [a_run, a_public_file])
def test_a_teachers_tokens_are_those_of_extract(make, tmp_path):
  path = make(tmp_path)
  config = config_of(path)
  config.heads.latents.options.update(normalise='none', layers=(2, -1))
  method = teachers.build_method(config)
  found = method.heads['latents'].target(jnp.asarray(VIDEO), None, None, method.frozen).values
  expected = []
  for layer in (2, -1):
    _, params, encode = load_encoder(str(path), pool='tokens', layer=layer, positions='interpolate')
    expected.append(encode(params, VIDEO).reshape(2, 64, -1))
  np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=2e-5)


def test_a_teacher_is_printed_and_another_in_its_place_is_refused(tmp_path, capsys):
  config = config_of(a_run(tmp_path))
  teachers.tell_teachers(config, teachers.build_method(config))
  digest = config.teachers.pixels.digest
  line = capsys.readouterr().out
  assert len(digest) == 16 and f'checkpoints/6 (averaged weights), digest {digest}' in line
  assert line.startswith('head latents learns layer -1 of ')
  config.teachers.pixels.weights = 'params'
  with pytest.raises(UserError, match=f'teachers.pixels: .*, not {digest}'):
    teachers.tell_teachers(config, teachers.build_method(config))


def test_a_run_goes_on_with_the_tokenizer_that_it_began_with():
  frozen = teachers.build_method(load_config(f'{started.ROOT}/configs/mam2.py:smoke')).frozen
  frozen |= {'teacher a': {'kernel': jnp.zeros(2, jnp.bfloat16)}}  # Its digest is in the config.
  began = teachers.same_networks(frozen, {})
  assert list(began) == ['tokenizer'] and len(began['tokenizer']) == 16
  assert teachers.same_networks(frozen, began) == began
  retrained = {'tokenizer': jax.tree.map(lambda x: x + 1, frozen['tokenizer'])}
  with pytest.raises(UserError, match=f'tokenizer holds other weights .*not {began["tokenizer"]}'):
    teachers.same_networks(retrained, began)


def test_mistakes_are_named(tmp_path):
  with pytest.raises(UserError, match='teachers.image has no weights: give --config.teachers.ima'):
    teachers.build_method(load_config(f'{started.ROOT}/configs/mvd.py:b,k400'))
  with pytest.raises(UserError, match='teachers.pixels: nowhere holds no checkpoint'):
    teachers.build_method(config_of('nowhere'))
  config = config_of('untrained')
  config.heads.latents.options.teacher = 'hugo'
  with pytest.raises(UserError, match="options.teacher: there is no 'hugo'.*There is: pixels"):
    teachers.build_method(config)
  config = config_of('average')
  with pytest.raises(UserError, match='optimizer.ema is 0'):
    teachers.build_method(config)


def test_the_average_teaches_as_it_was_before_the_step_and_follows_a_schedule(capsys):
  config = load_config(f'{started.ROOT}/configs/vjepa.py:smoke')
  config.optimizer.ema, config.optimizer.ema_end = 0.5, 0.9
  method = teachers.build_method(config)
  teachers.tell_teachers(config, method)
  told = 'head latents learns layer -1 of the moving average of the model\n'
  assert capsys.readouterr().out == told
  optimizer, step = pretraining.make_step(config, method, lambda _: 1e-2, steps=4)
  state = init_state(jax.jit(method.init)(jax.random.key(0)), optimizer, ema=0.5)
  number = np.arange(2, dtype=np.int32)
  batch = dict(video=VIDEO, epoch=number, sample=number, repeat=number, replaced=number < 0)
  step, loss = jax.jit(step), jax.jit(method.loss)
  for decay in (0.5, 0.6):
    before = state
    state, metrics = step(state, batch, {})
    expected, parts = loss(before.params, batch, {'average': before.ema})
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    assert 1 < metrics['rank_latents'] <= 96
    jax.tree.map(
      lambda found, old, new, d=decay: np.testing.assert_allclose(
        found, d * old + (1 - d) * new, atol=1e-6
      ),
      state.ema,
      before.ema,
      state.params,
    )


def test_a_model_of_the_hub_teaches(tmp_path, monkeypatch):
  (plain,) = teachers.load_teachers(config_of(a_run(tmp_path))).values()
  monkeypatch.setattr(teachers, 'local_path', {'hf:lab/model': str(tmp_path)}.get)
  (teacher,) = teachers.load_teachers(config_of('hf:lab/model')).values()
  assert teacher.digest == plain.digest
