"""A frozen encoder as a teacher: a target asks it for its tokens."""

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

UNTRAINED = 'untrained'  # A config may give this in place of a path.
AVERAGE = 'average'  # Or this: the moving average of the model that learns.


class Teacher(NamedTuple):
  """An encoder and where it comes from."""

  encoder: Encoder  # Takes clips in uint8 or [0, 1].
  params: Any  # Its parameters; of the moving average, their shapes.
  # Frames, rows and columns of the clips that it was trained on. One of single frames is an image
  # teacher: it sees the first frame of each time slot.
  clip: tuple[int, int, int]
  where: str  # The checkpoint or file.
  # A checksum of its parameters: of two runs with the same one, targets are the same.
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
    """Tokens after each of some blocks, in the layout of the model's.

    Args:
      params: `self.params` on the devices.
      clip: uint8, or floats in [0, 1].
      patch: The patch of the model that learns.
      layers: Blocks: 1 for the first, -1 for the last.
      norm: Applies the teacher's last LayerNorm, if it has one, to each.

    Raises:
      UserError: there is no such block, or its tokens are not the model's.
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
        'take one with the same patches.'
      )
    trained = token_grid(self.clip, encoder.patch)
    if trained[1:] != grid[1:] or trained[0] < grid[0]:  # The same numbers would be other places.
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
  """What a step adds to the frozen networks for those that are its own average: shapes."""
  found = [x.params for x in teachers.values() if x.where == AVERAGE]
  return {AVERAGE: {'encoder': found[0]}} if found else {}


def params_of(name: str, teacher: Teacher, frozen: Mapping[str, Any]) -> Any:
  """The parameters of a teacher among all frozen ones of a step."""
  return frozen[AVERAGE]['encoder'] if teacher.where == AVERAGE else frozen[f'teacher {name}']


def of_compute_type(params: Any, dtype: Any) -> Any:
  """Parameters with their kernels in the type that products are computed in, which are the same
  then and take half the memory."""

  def cast(path, x):
    return x.astype(dtype) if path[-1].key == 'kernel' else x

  return jax.tree_util.tree_map_with_path(cast, params)
