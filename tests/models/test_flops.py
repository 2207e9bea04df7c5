"""FLOPs of traced functions; those of models are in test_models and test_regressed_autoencoder."""

import jax
import jax.numpy as jnp

from vmae_jax.models.flops import traced_flops

A, B = jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5))


def test_products():
  assert traced_flops(jnp.matmul, A, B) == 2 * 2 * 3 * 4 * 5
  assert traced_flops(jax.jit(lambda a, b: jnp.sin(a) @ b), A, B) == 2 * 2 * 3 * 4 * 5
  assert traced_flops(lambda a: a * a + 1, A) == 0


def test_convolutions():
  image, kernel = jnp.zeros((1, 8, 8, 6)), jnp.zeros((3, 3, 6, 10))

  def convolve(image, kernel, groups=1):
    return jax.lax.conv_general_dilated(
      image, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )  # fmt: skip

  assert traced_flops(convolve, image, kernel) == 2 * (4 * 4 * 10) * (3 * 3 * 6)
  by_channel = jnp.zeros((3, 3, 1, 6))
  assert traced_flops(lambda *x: convolve(*x, 6), image, by_channel) == 2 * (4 * 4 * 6) * 9


def test_loops_and_branches():
  square = jnp.zeros((4, 4))

  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]

  def nested(x):
    return jax.lax.scan(lambda x, _: (loop(x), None), x, length=3)[0]

  assert traced_flops(loop, square) == 7 * 2 * 4**3
  assert traced_flops(nested, square) == 3 * 7 * 2 * 4**3
  # Of two branches, the dearer one.
  assert traced_flops(lambda x: jax.lax.cond(x[0, 0] > 0, loop, lambda x: x @ x, x), square) == (
    7 * 2 * 4**3
  )
