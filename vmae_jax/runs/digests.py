"""A number for every array, by which what is loaded is compared with what was saved.

It is computed on the devices: there the state is, whatever the mesh, and arrays that are split
over many processes come together by a sum. The sum is of 32-bit whole numbers, hence the same in
any order and on any mesh. Every changed bit changes the term of its own element for sure;
several changes cancel with a chance of 2^-32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.types import Array, UInt32


def named(tree: Any) -> dict[str, Any]:
  """Path such as `params/encoder/norm/scale` -> leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def digests(tree: Any) -> dict[str, int]:
  """Path -> digest, for every array of a tree; waits for the devices."""
  # One after another: on a CPU's emulated devices, several programs whose sums wait for each other
  # can take up all threads, and then none goes on.
  return {path: int(_digest(leaf)) for path, leaf in named(tree).items()}


@jax.jit  # For each array: one program for a whole state holds a copy of it on CPUs.
def _digest(x: Array) -> UInt32[Array, '']:
  """Sum over all elements of a hash of bits and place: MurmurHash3's last mixing step."""
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  h = bits.astype(jnp.uint32) ^ (place * jnp.uint32(0x9E3779B1))
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)).sum(dtype=jnp.uint32)
