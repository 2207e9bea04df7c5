"""Labelled rows of frames as one picture, drawn with Pillow, and the type of what they show."""

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vmae_jax.models.patches import token_grid
from vmae_jax.types import Bool, Float, Int, UInt8

MIN_SIDE = 120  # Smaller frames are enlarged to at least this many pixels.
HIDDEN = 0.6  # The grey of patches that are not shown.
_GAP, _MARGIN = 4, 12
_INK, _FAINT, _PAPER = (25, 25, 25), (90, 90, 90), (255, 255, 255)
_OF_PAGE = 0.03  # Height of text / width of all columns: legible on half a page.

Patch = tuple[int, int, int]  # Frames, height and width.
Video = Float[np.ndarray, 'T H W 3']  # A clip in [0, 1].
Film = UInt8[np.ndarray, 'T _ _ 3']
Hidden = Bool[np.ndarray, ' n']  # True where a token is hidden.
Rows = Mapping[str, Sequence[UInt8[np.ndarray, 'H W 3']]]  # Label -> frames of one size.
# (rows, *, columns, title, caption, legend) -> a picture, such as `labelled_rows`, or a film.
Layout = Callable[..., UInt8[np.ndarray, '...']]


def to_uint8(frames: Float[np.ndarray, '*shape']) -> UInt8[np.ndarray, '*shape']:
  """Frames in [0, 1] as bytes; values outside are clipped."""
  return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def evenly(count: int, *, most: int | None) -> Int[np.ndarray, ' q']:
  """At most `most` numbers (None: all) from 0 to count - 1, evenly spaced, with both ends."""
  return np.linspace(0, count - 1, min(most or count, count)).round().astype(int)


def token_pixels(
  tokens: Bool[np.ndarray, 't h w'], shape: Sequence[int]
) -> Bool[np.ndarray, 'T H W 1']:
  """Values of tokens, repeated over the frames and pixels of each patch of a clip 'T H W ...'."""
  for axis in range(3):
    tokens = tokens.repeat(shape[axis] // tokens.shape[axis], axis)
  return tokens[..., None]


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
  """The font of the plots, which comes with matplotlib."""
  (folder,) = importlib.util.find_spec('matplotlib').submodule_search_locations
  name = 'DejaVuSans-Bold' if bold else 'DejaVuSans'
  return ImageFont.truetype(f'{folder}/mpl-data/fonts/ttf/{name}.ttf', size)


def text_size(columns: Sequence[str], width: int) -> int:
  """Height of a page's text, at which titles of columns fit columns of `width` pixels."""
  size = max(13, round(_OF_PAGE * len(columns) * width))
  return max(9, min(size, int(size * width / max(1, *(_width(c, font(size)) for c in columns)))))


def labelled_rows(
  rows: Rows,
  *,
  columns: Sequence[str],
  title: str = '',
  caption: str = '',
  legend: Mapping[str, UInt8[np.ndarray, '_ _ 3']] | None = None,
  size: int | None = None,
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Draws a table of frames.

  Args:
    rows: Label at the left (newlines allowed) -> the row's frames, all of one size.
    columns: Text above each column.
    title: Text above the table; like the caption, it is wrapped.
    caption: Text below the table.
    legend: Text -> what it explains, a colour or a scale; below the table.
    size: Height of the text; None for one that suits the page.

  Returns:
    The picture; small frames are enlarged by a whole factor, so that pixels stay square.
  """
  height, width, _ = next(iter(rows.values()))[0].shape
  factor = math.ceil(MIN_SIDE / min(height, width))
  height, width = height * factor, width * factor
  size = size or text_size(columns, width)
  plain, small, line = font(size), font(max(9, round(0.85 * size))), round(1.4 * size)
  left = _MARGIN + max(_width(label, plain) for label in rows)
  left += _MARGIN * (left > _MARGIN)
  total = left + len(columns) * (width + _GAP) - _GAP + _MARGIN
  titles = _wrap(title, font(size, bold=True), total - 2 * _MARGIN)
  captions = _wrap(caption, small, total - 2 * _MARGIN)
  keys = _placed(legend or {}, small, total)
  top = _MARGIN + line * len(titles) + line
  below = top + len(rows) * (height + _GAP) + _GAP
  under = below + 2 * line * (1 + max((row for row, *_ in keys), default=-1))
  page = Image.new('RGB', (total, under + len(captions) * line + _MARGIN), _PAPER)
  draw = ImageDraw.Draw(page)
  for i, text in enumerate(titles):
    draw.text((_MARGIN, _MARGIN + i * line - 3), text, fill=_INK, font=font(size, bold=True))
  for i, text in enumerate(columns):
    x = left + i * (width + _GAP) + width / 2
    draw.text((x, top - 6), text, fill=_FAINT, font=plain, anchor='ms')
  for j, (label, frames) in enumerate(rows.items()):
    y = top + j * (height + _GAP)
    draw.multiline_text((_MARGIN, y + height / 2), label, fill=_INK, font=plain, anchor='lm')
    for i, frame in enumerate(frames):
      big = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
      page.paste(big, (left + i * (width + _GAP), y))
  for row, x, text, swatch in keys:
    y = below + 2 * line * row
    page.paste(swatch, (x, y))
    at = x + swatch.width + _MARGIN // 2, y + swatch.height / 2
    draw.text(at, text, fill=_INK, font=small, anchor='lm')
  for i, text in enumerate(captions):
    draw.text((_MARGIN, under + i * line), text, fill=_FAINT, font=small)
  return np.asarray(page)


def _placed(
  legend: Mapping[str, UInt8[np.ndarray, '_ _ 3']], small: ImageFont.FreeTypeFont, total: int
) -> list[tuple[int, int, str, Image.Image]]:
  """Row, x, text and picture of each entry; a row breaks at the edge of the page."""
  placed, row, x, height = [], 0, _MARGIN, round(1.9 * small.size)
  for text, swatch in legend.items():
    size = round(height * swatch.shape[1] / swatch.shape[0]), height
    wide = size[0] + _width(text, small) + 3 * _MARGIN
    if x > _MARGIN and x + wide > total:
      row, x = row + 1, _MARGIN
    image = Image.fromarray(swatch).resize(size, Image.Resampling.BOX)
    placed.append((row, x, text, image))
    x += wide
  return placed


def swatch(colour: Sequence[int]) -> UInt8[np.ndarray, '1 1 3']:
  """A colour for a legend."""
  return np.array(colour, np.uint8).reshape(1, 1, 3)


def _width(text: str, font: ImageFont.FreeTypeFont) -> int:
  return math.ceil(max(font.getlength(line) for line in text.split('\n')))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
  lines: list[str] = []
  for word in text.split():
    if lines and font.getlength(f'{lines[-1]} {word}') <= width:
      lines[-1] += f' {word}'
    else:
      lines.append(word)
  return lines


class Shown(NamedTuple):
  """What a head predicts of one clip, and how to draw it: the argument of all that draw clips."""

  clip: Video  # The clip in [0, 1].
  hidden: Hidden  # True where a token was hidden.
  # What is drawn: for most targets the true values of all tokens and the predictions of hidden
  # ones, in the order of tokens.
  values: Any
  patch: Patch  # Frames, height and width of a patch.
  options: Mapping[str, Any] = {}  # The options of the head's target.
  title: str = ''  # Text above the picture.
  most: int | None = 4  # The most columns that are drawn; None for all frames.
  layout: Layout = labelled_rows  # What makes a picture, or a film, of rows of frames.
  config: Any = None  # The run's config.

  @property
  def grid(self) -> tuple[int, int, int]:
    """Tokens t, h, w of the clip."""
    return token_grid(self.clip.shape[:3], self.patch)

  @property
  def share(self) -> str:
    """The share of hidden tokens."""
    return f'{self.hidden.mean():.0%} hidden'

  def slots(self, most: int | None = None) -> Int[np.ndarray, ' q']:
    """The time slots of the columns: all for a film, at most `most` for a picture."""
    return evenly(self.grid[0], most=self.most and min(self.most, most or self.most))

  def page(
    self, rows: Rows, frames: range | Int[np.ndarray, ' q'], caption: str = '', **options: Any
  ) -> UInt8[np.ndarray, '...']:
    """The picture of rows, whose columns are these frames."""
    columns = [f'frame {i + 1}' for i in frames]  # As people count.
    return self.layout(rows, columns=columns, title=self.title, caption=caption, **options)

  def rows(
    self,
    draw: Callable[..., UInt8[np.ndarray, 'q H W 3']],
    frames: range | Int[np.ndarray, ' q'],
    *,
    name: str = 'true',
    gain: float = 1.0,
  ) -> dict[str, list[UInt8[np.ndarray, 'H W 3']]]:
    """Rows of the clip, true values, the visible ones, predictions, and both of these together.

    Args:
      draw: (values of all tokens) -> a picture for each column, of which a row may grey parts out.
      frames: The frames of the columns.
      name: Label of the row of true values.
      gain: Factor of predictions in their own row.
    """
    true, predicted = self.values
    hidden = self.hidden.reshape(self.grid)[np.asarray(frames) // self.patch[0]]

    def row(values, greyed_out):
      pictures = draw(values)
      grey = np.uint8(round(255 * HIDDEN))
      return list(np.where(token_pixels(greyed_out, pictures.shape), grey, pictures))

    both = true.copy()
    both[self.hidden] = predicted
    alone = true * gain
    alone[self.hidden] = predicted * gain
    first = draw(true)
    large = first.shape[1] // self.clip.shape[1], first.shape[2] // self.clip.shape[2]
    clip = to_uint8(self.clip[frames]).repeat(max(1, large[0]), 1).repeat(max(1, large[1]), 2)
    times = f'\n× {gain:.1f}' if gain != 1 else ''
    return {
      'input': list(clip),
      name: list(first),
      f'visible\n{self.share}': row(true, hidden),
      f'predicted{times}': row(alone, ~hidden),
      'predicted\n+ visible': list(draw(both)),
    }
