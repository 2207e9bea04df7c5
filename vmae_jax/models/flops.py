"""How many floating-point operations a model does, counted from its sizes.

A multiplication and an addition count as two; norms, softmax, GELU and the optimizer (under
2 %) are left out, as is usual for MFU. Counted rather than read from the compiler, which
counts the body of a loop over layers once.
"""

import jax


def block_flops(*, n: int, width: int, mlp: int) -> int:
  """One block over n tokens: qkv and projection, scores and weighted sum, MLP."""
  return 2 * n * (4 * width * width + 2 * n * width + 2 * width * mlp)


def autoencoder_flops(
  *, encoder: dict, decoder: dict, heads: dict, visible: int, masked: int, patch_values: int
) -> int:
  """The forward pass of a `MaskedAutoencoder` for one clip.

  Args:
    encoder: Its width, depth and mlp.
    decoder: The same of each decoder.
    heads: Head -> (decoder's name, width of the prediction).
    visible: Tokens that the encoder sees.
    masked: Tokens that are predicted.
    patch_values: p.
  """
  width = encoder['width']
  total = 2 * visible * patch_values * width
  total += encoder['depth'] * block_flops(n=visible, width=width, mlp=encoder['mlp'])
  for name in {owner for owner, _ in heads.values()}:
    total += 2 * visible * width * decoder['width']
    total += decoder['depth'] * block_flops(
      n=visible + masked, width=decoder['width'], mlp=decoder['mlp']
    )
    outputs = sum(dim for owner, dim in heads.values() if owner == name)
    total += 2 * masked * decoder['width'] * outputs
  return total


def regressed_autoencoder_flops(
  *,
  encoder: dict,
  regressor: dict,
  decoder: dict,
  heads: dict,
  visible: int,
  masked: int,
  patch_values: int,
) -> tuple[int, int]:
  """The forward pass of a `RegressedAutoencoder` for one clip, with and without gradient.

  Args:
    encoder: Its width, depth and mlp.
    regressor: Its depth and mlp; its width is the decoder's.
    decoder: The same of each decoder.
    heads: Head -> (decoder's name, width of the prediction).
    visible: Tokens that the encoder sees.
    masked: Tokens that are regressed and predicted.
    patch_values: p.
  """

  def encoded(n):
    width = encoder['width']
    total = 2 * n * patch_values * width
    total += encoder['depth'] * block_flops(n=n, width=width, mlp=encoder['mlp'])
    return total + 2 * n * width * d * (d != width)

  d, both = decoder['width'], visible + masked
  cross = 2 * masked * (2 * d * d + 2 * both * d + 2 * d * regressor['mlp']) + 2 * both * 2 * d * d
  total = encoded(visible) + regressor['depth'] * cross
  for name in {owner for owner, _ in heads.values()}:
    total += decoder['depth'] * block_flops(n=masked, width=d, mlp=decoder['mlp'])
    outputs = sum(dim for owner, dim in heads.values() if owner == name)
    total += 2 * masked * d * outputs
  return total, encoded(masked)


def training_flops(forward: int) -> int:
  """Forward and backward pass: the backward one does each product twice."""
  return 3 * forward


# Peak of dense bfloat16 (V100: float16) arithmetic in FLOP/s, from the makers' data sheets.
PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'H100': 989e12,
  'H200': 989e12,
  'A100': 312e12,
  'V100': 125e12,
}


def peak_flops(device: jax.Device) -> float | None:
  """The device's peak in FLOP/s, or None where it is not in the table (any CPU)."""
  for kind in sorted(PEAKS, key=len, reverse=True):
    if kind in device.device_kind:
      return PEAKS[kind]
  return None
