"""What methods see, hide and predict, as films: one picture for every frame of a clip.

Each NAME_film takes a clip 'T H W 3' in [0, 1] and returns a film UInt8 'T H2 W2 3', enlarged where
strokes and paths need space. What a target has once per time slot is shown in all frames of the
slot.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vmae_jax.errors import UserError
from vmae_jax.frozen.tokenizer import Tokenizer
from vmae_jax.masking import Mask
from vmae_jax.models.patches import token_grid, unpatchify
from vmae_jax.motion.flow import Flow
from vmae_jax.motion.follow import follow_clip
from vmae_jax.targets.codes import codes
from vmae_jax.targets.frame_difference import frame_difference
from vmae_jax.targets.hog import hog_target
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Bool, UInt8
from vmae_jax.visualize.differences import peak, signed_colours
from vmae_jax.visualize.flow import SHADE, flow_colours, flow_of_frames, longest_of
from vmae_jax.visualize.hog import MIN_CELL, cells, glyphs
from vmae_jax.visualize.images import (
  Film,
  Patch,
  Rows,
  Video,
  labelled_rows,
  text_size,
  to_uint8,
  token_pixels,
)
from vmae_jax.visualize.trajectories import SHADE as PATH_SHADE
from vmae_jax.visualize.trajectories import TRUE, draw_paths

PATCH_RANGE = 2.5  # Standard deviations from a patch's mean that are drawn black and white.


def pixels_film(video: Video, *, patch: Patch) -> Film:
  """VideoMAE's target: patches without their mean and contrast; grey is the mean."""
  values = pixels(jnp.asarray(video)[None], None, patch=patch, normalise='patch')
  grid = token_grid(video.shape[:3], patch)
  clip = np.asarray(unpatchify(values, patch=patch, grid=grid)[0])
  return to_uint8(0.5 + 0.5 * clip / PATCH_RANGE)


def difference_film(video: Video) -> Film:
  """What became lighter (orange) or darker (blue) since the frame before.

  The first frame shows the second one's difference, as in the target.
  """
  patch = (1, *video.shape[1:3])
  values = frame_difference(jnp.asarray(video)[None], None, patch=patch, normalise='none')
  change = np.asarray(values).reshape(video.shape).mean(-1)
  return signed_colours(change / peak(change))


def flow_film(video: Video, flow: Flow) -> Film:
  """Where each pixel goes until the next frame: hue is direction, saturation is speed.

  The last frame shows the flow before it.

  Args:
    flow: Flow between neighbouring frames of this clip (`clip_pairs`), with a batch axis of 1.
  """
  values = flow_of_frames(np.asarray(flow.values[0]), flow.pairs, len(video))
  values[-1] = values[-2]
  factor = video.shape[1] // values.shape[1], video.shape[2] // values.shape[2]
  colours = flow_colours(values, longest=longest_of(values))
  return colours.repeat(factor[0], 1).repeat(factor[1], 2)


def trajectory_film(video: Video, flow: Flow, *, patch: Patch, steps: int = 6) -> Film:
  """MME's motion target: paths of 4 points of each patch over the next frames, a dot at the end.

  Paths that leave the clip are not drawn. `flow` is as in `flow_film`.
  """
  options = dict(pitch=patch[1] // 2, smooth=False, camera=False, integer=False)
  follow = jax.jit(functools.partial(follow_clip, slot=patch[0], steps=steps, **options))
  tracks = follow(video[None], flow).tracks
  positions, valid = np.asarray(tracks.positions), np.asarray(tracks.valid)
  grey = to_uint8(video.mean(-1, keepdims=True).repeat(3, -1) * PATH_SHADE)
  film = []
  for i, frame in enumerate(grey):
    slot = i // patch[0]
    places = positions[slot].reshape(steps + 1, -1, 2)
    places = np.where(valid[slot].reshape(1, -1, 1), places, np.nan)
    moves = np.diff(places, axis=0).transpose(1, 0, 2)
    film.append(draw_paths(frame, [(places[0], moves, TRUE)]))
  return np.stack(film)


def hog_film(video: Video, *, patch: Patch) -> Film:
  """MME's shape target: a stroke along the edges of each cell, brighter where they are clearer."""
  target = jax.jit(lambda clip: hog_target(clip, None, patch=patch))
  values = np.asarray(target(video[None])[0])
  histograms = cells(values, token_grid(video.shape[:3], patch))
  side = patch[1] // 2 * math.ceil(2 * MIN_CELL / patch[1])
  drawn = glyphs(histograms, side=side) / max(float(np.quantile(histograms.max(-1), 0.99)), 1e-6)
  return to_uint8(drawn)[..., None].repeat(3, -1).repeat(patch[0], 0)


def codes_film(video: Video, tokenizer: Tokenizer, *, patch: Patch) -> Film:
  """MAM2's appearance target: the code of each patch in its slot's first frame, decoded."""
  model, variables = tokenizer.model, {'params': tokenizer.params}

  def encode(images):
    return model.apply(variables, images, method='encode')

  found = codes(
    jnp.asarray(video)[None], None, patch=patch, encode=encode, factor=model.factor, frames='first'
  )
  grid = token_grid(video.shape[:3], patch)
  images = model.apply(variables, found.reshape(grid), method='decode')
  return to_uint8(np.asarray(images)).repeat(patch[0], 0)


def hidden_map(mask: Mask, *, grid: tuple[int, int, int]) -> Bool[np.ndarray, 't h w']:
  """True where a token of one clip is hidden."""
  hidden = np.ones(math.prod(grid), bool)
  hidden[np.asarray(mask.visible)] = False
  return hidden.reshape(grid)


def masked_film(video: Video, hidden: Bool[np.ndarray, 't h w']) -> Film:
  """What the encoder sees: hidden patches are dark, but not black, to show where they are."""
  return to_uint8(np.where(token_pixels(hidden, video.shape), SHADE * video, video))


def side_by_side(
  films: Mapping[str, Film], *, side: int = 192, columns: int = 4, **texts: Any
) -> Film:
  """Several films of equally many frames in one, each with its name above.

  Films get a width of `side` pixels. `texts` are `title`, `caption` and `legend` of
  `labelled_rows`.

  Raises:
    UserError: there is no film, or they have different numbers of frames.
  """
  lengths = {name: len(film) for name, film in films.items()}
  if not films or len(set(lengths.values())) > 1:
    have = ', '.join(f'{name} {length}' for name, length in lengths.items()) or 'none'
    raise UserError(f'films side by side must have the same number of frames; these have: {have}.')
  sized = {name: _resized(film, side) for name, film in films.items()}
  height, width = next(iter(sized.values())).shape[1:3]
  length = next(iter(lengths.values()))
  columns = min(columns, len(films))
  # White films fill the last row.
  sized |= {'': np.full((length, height, width, 3), 255, np.uint8)}
  names = [*films, *[''] * (-len(films) % columns)]
  parts = [names[i : i + columns] for i in range(0, len(names), columns)]
  title, size = texts.pop('title', ''), min(text_size(part, width) for part in parts)

  def page(i: int) -> UInt8[np.ndarray, 'H W 3']:
    rows = [
      labelled_rows(
        {'': [sized[name][i] for name in part]},
        columns=part,
        size=size,
        title=title if part is parts[0] else '',
        **(texts if part is parts[-1] else {}),
      )
      for part in parts
    ]
    widest = max(row.shape[1] for row in rows)
    return np.concatenate(
      [
        np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
      ]
    )

  return np.stack([page(i) for i in range(length)])


def film_of_rows(rows: Rows, *, columns: Sequence[str], **texts: Any) -> Film:
  """A `Layout` that shows each row as a film, side by side, its columns one after another."""
  del columns  # Titles that change with each frame would flicker.
  films = {label.replace('\n', ' '): np.stack(row) for label, row in rows.items()}
  side = max(224, min(320, *(film.shape[2] for film in films.values())))
  return side_by_side(films, side=side, columns=len(films), **texts)


def _resized(film: Film, width: int) -> Film:
  """A film at another width; enlarged pixels become sharp squares."""
  size = width, max(1, round(film.shape[1] * width / film.shape[2]))
  how = Image.Resampling.NEAREST if film.shape[2] <= width else Image.Resampling.LANCZOS
  return np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in film])
