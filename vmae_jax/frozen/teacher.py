"""A frozen encoder as a teacher, whose tokens are the target."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vmae_jax.errors import UserError
from vmae_jax.models.blocks import Blocks
from vmae_jax.models.encoder import Encoder
from vmae_jax.models.patches import token_grid
from vmae_jax.types import Array, Float, Num

# A config may give this in place of a path: the teacher is the moving average of the model itself.
AVERAGE = 'average'


class Teacher(NamedTuple):
  """An encoder and where it comes from."""

  encoder: Encoder  # Takes clips in uint8 or [0, 1].
  params: Any  # Its parameters; for the moving average only their shapes.
  # Frames, rows and columns of the clips that it was trained on. A teacher that was trained on
  # single frames sees the first frame of each time slot.
  clip: tuple[int, int, int]
  where: str  # The checkpoint or file.
  # A checksum of its parameters: runs with the same checksum have the same targets.
  digest: str = ''

  def tokens(
    self,
    params: Any,
    clip: Num[Array, 'b T H W C'],
    *,
    patch: tuple[int, int, int],
    layers: Sequence[int],
    norm: bool,
  ) -> list[Float[Array, 'b n _']]:
    """Tokens after each of the given blocks, in the model's token layout.

    Args:
      params: `self.params` on the devices.
      clip: uint8, or floats in [0, 1].
      patch: The patch of the model that is trained.
      layers: Blocks: 1 is the first, -1 the last.
      norm: Whether the teacher's last LayerNorm, if it has one, is applied to each.

    Raises:
      UserError: there is no such block, or the teacher's grid of tokens is not the model's.
    """
    encoder, wanted = self.encoder, token_grid(clip.shape[1:4], patch)
    if wrong := [layer for layer in layers if not 1 <= abs(layer) <= encoder.depth]:
      raise UserError(
        f'the teacher {self.where} has no layer {wrong[0]}: its layers are 1 to {encoder.depth}, '
        f'from the end -1 to -{encoder.depth}.'
      )
    b, images = len(clip), self.clip[0] == 1
    if images:
      clip = einops.rearrange(clip[:, :: patch[0]], 'b t H W C -> (b t) 1 H W C')
    grid = token_grid(clip.shape[1:4], encoder.patch)
    if (wanted[0] if images else grid[0], *grid[1:]) != wanted:
      raise UserError(
        f'the teacher {self.where} makes {"x".join(map(str, grid))} tokens of '
        f'{"a frame" if images else "a clip"}, the model {"x".join(map(str, wanted))} of a clip: '
        'choose a teacher with the same patches.'
      )
    trained = token_grid(self.clip, encoder.patch)
    # Positions are indices of tokens, which stand for other places in a grid of another size.
    if trained[1:] != grid[1:] or trained[0] < grid[0]:
      places = encoder.position_grid or (min(grid[0], trained[0]), *trained[1:])
      encoder = encoder.clone(position_grid=places)
    encoder = encoder.clone(final_norm=False)
    depth, x, done, found = encoder.depth, clip, 0, {}
    for stop in sorted(layer % (depth + 1) for layer in set(layers)):
      blocks = jax.tree.map(lambda p, a=done, b=stop: p[a:b], params['blocks'])
      if not done:
        given = {'embed': params['embed'], 'blocks': blocks}
        x = encoder.clone(depth=stop).apply({'params': given}, x)
      else:
        more = Blocks(stop - done, encoder.heads, encoder.mlp, **encoder.shared)
        x = more.apply({'params': blocks}, x)
      done, found[stop] = stop, x.astype(jnp.float32)
      if norm and 'norm' in params:
        layer_norm = nn.LayerNorm(epsilon=encoder.eps, use_fast_variance=False)
        found[stop] = layer_norm.apply({'params': params['norm']}, found[stop])
    if images:
      found = {k: einops.rearrange(x, '(b t) n d -> b (t n) d', b=b) for k, x in found.items()}
    return [found[layer % (depth + 1)] for layer in layers]


def averaged(teachers: Mapping[str, Teacher]) -> dict[str, Any]:
  """What a step adds to the frozen networks for a teacher that is the moving average: shapes."""
  found = [x.params for x in teachers.values() if x.where == AVERAGE]
  return {AVERAGE: {'encoder': found[0]}} if found else {}


def params_of(name: str, teacher: Teacher, frozen: Mapping[str, Any]) -> Any:
  """A teacher's parameters, from the frozen networks of a step."""
  return frozen[AVERAGE]['encoder'] if teacher.where == AVERAGE else frozen[f'teacher {name}']


def of_compute_type(params: Any, dtype: Any) -> Any:
  """Parameters with kernels in the type of the matrix products: the results are the same, and in
  bfloat16 they take half the memory."""

  def cast(path, x):
    return x.astype(dtype) if path[-1].key == 'kernel' else x

  return jax.tree_util.tree_map_with_path(cast, params)
