"""Tokens of a frozen encoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.errors import UserError
from vmae_jax.frozen.teacher import Teacher, of_compute_type
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.positions import interpolated_positions

PIXELS = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SIZES = dict(width=32, depth=4, heads=2, mlp=64)


def make(clip=(8, 16, 16), patch=(2, 8, 8), **changes):
  encoder = Encoder(**SIZES, **PIXELS, patch=patch, **changes)
  params = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, *clip, 3)))['params']
  return Teacher(encoder, params, clip, 'there')


def video(shape=(2, 8, 16, 16, 3)):
  return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def ask(teacher, clip, **given):
  given = dict(layers=(-1,), norm=True, patch=(2, 8, 8)) | given
  return jax.jit(functools.partial(teacher.tokens, **given))(teacher.params, clip)


def latents(encoder, params, clip):
  return jax.jit(encoder.apply)({'params': params}, clip)


def test_the_last_layer_is_what_the_encoder_gives():
  teacher, clip = make(), video()
  expected = latents(teacher.encoder, teacher.params, clip)
  np.testing.assert_allclose(ask(teacher, clip)[0], expected, atol=1e-6)


def test_layers_are_the_outputs_of_a_shallower_encoder():
  teacher, clip = make(), video()
  found = ask(teacher, clip, layers=(-1, 1, 3), norm=False)
  for layer, tokens in zip((4, 1, 3), found, strict=True):
    cut = teacher.encoder.clone(depth=layer, final_norm=False)
    params = {'embed': teacher.params['embed']}
    params['blocks'] = jax.tree.map(lambda x, n=layer: x[:n], teacher.params['blocks'])
    np.testing.assert_allclose(tokens, latents(cut, params, clip), atol=1e-5)
  normed = ask(teacher, clip, layers=(3,))[0]
  plain = found[2] - found[2].mean(-1, keepdims=True)
  plain = plain / np.sqrt((plain**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(normed, plain, atol=1e-4)


def test_an_image_teacher_sees_the_first_frame_of_each_slot():
  teacher, clip = make(clip=(1, 16, 16), patch=(1, 8, 8)), video()
  found = ask(teacher, clip)[0]
  assert found.shape == (2, 16, 32)
  for slot in range(4):
    image = latents(teacher.encoder, teacher.params, clip[:, 2 * slot, None])
    np.testing.assert_allclose(found[:, 4 * slot : 4 * slot + 4], image, atol=1e-6)


def test_positions_of_another_size_are_interpolated_and_of_fewer_frames_kept():
  teacher = make(clip=(8, 32, 32))
  found = ask(teacher, video())[0]
  table = interpolated_positions((4, 2, 2), trained=(4, 4, 4), d=32)
  apart = teacher.encoder.clone(position_grid=(4, 4, 4))
  np.testing.assert_allclose(found, latents(apart, teacher.params, video()), atol=1e-6)
  assert not np.allclose(table, interpolated_positions((4, 2, 2), trained=(4, 2, 2), d=32))
  short = video((2, 4, 16, 16, 3))
  expected = latents(make().encoder, make().params, short)
  np.testing.assert_allclose(ask(make(), short)[0], expected, atol=1e-6)


def test_a_teacher_that_does_not_fit_is_an_error():
  with pytest.raises(UserError, match='there has no layer 5: its layers are 1 to 4'):
    ask(make(), video(), layers=(5,))
  with pytest.raises(UserError, match='makes 4x2x2 tokens of a clip, the model 4x4x4'):
    ask(make(), video(), patch=(2, 4, 4))


def test_kernels_of_the_compute_type_give_the_same_tokens():
  teacher, clip = make(dtype=jnp.bfloat16), video()
  small = of_compute_type(teacher.params, jnp.bfloat16)
  kernel = small['blocks']['block']['mlp']['fc1']['kernel']
  assert kernel.dtype == jnp.bfloat16 and small['norm']['scale'].dtype == jnp.float32
  np.testing.assert_array_equal(ask(teacher, clip)[0], ask(teacher._replace(params=small), clip)[0])
