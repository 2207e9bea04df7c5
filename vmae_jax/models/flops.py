"""The floating-point operations (FLOPs) of a model, counted from its sizes.

A multiplication and an addition count as two; norms, softmax, GELU and the optimizer (under
2 %) are left out, as is usual for MFU. The compiler's own count is not used: it counts the body of
a loop once.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from vmae_jax.models.decoder import Output


def block_flops(*, n: int, width: int, mlp: int) -> int:
  """FLOPs of one block over n tokens: qkv and projection, scores and weighted sum, MLP."""
  return 2 * n * (4 * width * width + 2 * n * width + 2 * width * mlp)


def _encoder_flops(encoder: dict, *, n: int, patch_values: int) -> int:
  width = encoder['width']
  blocks = encoder['depth'] * block_flops(n=n, width=width, mlp=encoder['mlp'])
  return 2 * n * patch_values * width + blocks


def autoencoder_flops(
  *,
  encoder: dict,
  decoder: dict,
  heads: dict[str, Output],
  visible: int,
  masked: int,
  patch_values: int,
  own: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> int:
  """FLOPs of the forward pass of a `MaskedAutoencoder` for one clip.

  Args:
    encoder: Its width, depth and mlp.
    decoder: The same sizes of each decoder.
    heads: Head -> `Output`.
    visible: The number of tokens that the encoder sees.
    masked: The number of tokens that are predicted.
    patch_values: p.
    own: Decoder -> sizes that replace those in `decoder`.
  """
  total = _encoder_flops(encoder, n=visible, patch_values=patch_values)
  for name in {output.decoder for output in heads.values()}:
    d = {**decoder, **own.get(name, {})}
    total += 2 * visible * encoder['width'] * d['width']
    total += d['depth'] * block_flops(n=visible + masked, width=d['width'], mlp=d['mlp'])
    total += masked * _head_flops(heads, name, d['width'])
  return total


def regressed_autoencoder_flops(
  *,
  encoder: dict,
  regressor: dict,
  decoder: dict,
  heads: dict[str, Output],
  visible: int,
  masked: int,
  patch_values: int,
  own: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
  align: bool = True,
) -> tuple[int, int]:
  """FLOPs of the forward pass of a `RegressedAutoencoder` for one clip: (with, without) gradient.

  `regressor` gives its width, depth and mlp, `align` says whether target latents of masked tokens
  are computed. The other arguments are those of `autoencoder_flops`.
  """
  d, both = regressor['width'], visible + masked

  def encoded(n):
    width = encoder['width']
    made = _encoder_flops(encoder, n=n, patch_values=patch_values)
    return made + 2 * n * width * d * (d != width)

  cross = 2 * masked * (2 * d * d + 2 * both * d + 2 * d * regressor['mlp']) + 2 * both * 2 * d * d
  total = encoded(visible) + regressor['depth'] * cross
  for name in {output.decoder for output in heads.values()}:
    sizes = {**decoder, **own.get(name, {})}
    width = sizes['width']
    total += 2 * masked * d * width * (d != width)
    total += sizes['depth'] * block_flops(n=masked, width=width, mlp=sizes['mlp'])
    total += masked * _head_flops(heads, name, width)
  return total, encoded(masked) * align


def _head_flops(heads: dict[str, Output], decoder: str, width: int) -> int:
  """FLOPs of the heads of one decoder, for one token."""
  total = 0
  for output in heads.values():
    if output.decoder == decoder:
      last = output.hidden or width
      total += 2 * last * output.width + 2 * width * output.hidden
  return total


def training_flops(forward: int) -> int:
  """FLOPs of forward and backward pass, which has two products for each of the forward pass."""
  return 3 * forward


def traced_flops(function: Callable[..., Any], *args: Any) -> int:
  """FLOPs of a function's matrix products and convolutions; scans count all their iterations."""
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
    elif name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      inner = math.prod(kernel) // kernel[params['dimension_numbers'].rhs_spec[0]]
      total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
    inside = [_count(part) for part in jaxprs_in_params(params)]
    total += params.get('length', 1) * (max(inside, default=0) if name == 'cond' else sum(inside))
  return total
