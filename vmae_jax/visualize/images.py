"""Rows of labelled frames as one picture, drawn with Pillow alone, and what such rows are of."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vmae_jax.types import Bool, Float, Int, UInt8

MIN_SIDE = 96  # Smaller frames are enlarged to at least this many pixels.
_GAP, _MARGIN = 4, 10
_INK, _FAINT, _PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)

# (rows, *, columns, title, caption) -> a picture, such as `labelled_rows`, or a film.
Layout = Callable[..., UInt8[np.ndarray, '...']]

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont  # The first where Pillow lacks FreeType.


def to_uint8(frames: Float[np.ndarray, '*shape']) -> UInt8[np.ndarray, '*shape']:
  """Frames in [0, 1] as bytes; values outside are clipped."""
  return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def evenly(count: int, *, most: int | None) -> Int[np.ndarray, ' q']:
  """Numbers from 0 to count - 1, at most so many (None: all), evenly spaced, with both ends."""
  return np.linspace(0, count - 1, min(most or count, count)).round().astype(int)


def frame_names(frames: range | Int[np.ndarray, ' q']) -> list[str]:
  """Titles of columns; people count frames from 1."""
  return [f'frame {i + 1}' for i in frames]


def token_pixels(
  tokens: Bool[np.ndarray, 't h w'], shape: Sequence[int]
) -> Bool[np.ndarray, 'T H W 1']:
  """A value of each token, repeated over the frames and pixels of its patch.

  Args:
    tokens: The values.
    shape: Shape of the clip, which begins with T, H and W.
  """
  for axis in range(3):
    tokens = tokens.repeat(shape[axis] // tokens.shape[axis], axis)
  return tokens[..., None]


def prediction_rows(
  true: Float[np.ndarray, 'n f'],
  predicted: Float[np.ndarray, 'm f'],
  masked_tokens: Bool[np.ndarray, ' n'],
  *,
  draw: Callable[..., Sequence[UInt8[np.ndarray, 'H W 3']]],
  name: str = 'true',
) -> dict[str, list[UInt8[np.ndarray, 'H W 3']]]:
  """Rows of true values, of visible ones, of predicted ones, and of the last two together.

  Args:
    true: Values of all tokens.
    predicted: The model's values, in the order of the hidden tokens' indices.
    masked_tokens: True where a token was hidden.
    draw: (values of all tokens, 0 where none are shown) -> a frame for each column.
    name: Label of the first row.
  """

  def row(hidden, visible):
    values = np.zeros_like(true)
    values[masked_tokens], values[~masked_tokens] = hidden, visible
    return list(draw(values))

  visible = true[~masked_tokens]
  return {
    name: row(true[masked_tokens], visible),
    f'visible\n{masked_tokens.mean():.0%} hidden': row(0, visible),
    'predicted': row(predicted, 0),
    'predicted\n+ visible': row(predicted, visible),
  }


def labelled_rows(
  rows: Mapping[str, Sequence[UInt8[np.ndarray, 'H W 3']]],
  *,
  columns: Sequence[str],
  title: str = '',
  caption: str = '',
) -> UInt8[np.ndarray, 'H2 W2 3']:
  """Draws a table of frames.

  Args:
    rows: Label at the left (newlines allowed) -> the row's frames, all of one size.
    columns: Text above each column.
    title: Text above the table.
    caption: Text below the table; it is wrapped.

  Returns:
    The picture; small frames are enlarged by a whole factor, so that pixels stay square.
  """
  height, width, _ = next(iter(rows.values()))[0].shape
  factor = math.ceil(MIN_SIDE / min(height, width))
  height, width = height * factor, width * factor
  font_size = max(13, width // 10)  # Wide pictures are shown smaller.
  line_height = round(font_size * 1.4)
  font = ImageFont.load_default(font_size)
  left = _MARGIN + max(_text_width(label, font) for label in rows) + _MARGIN
  total_width = max(
    left + len(columns) * (width + _GAP) - _GAP + _MARGIN,
    _text_width(title, font) + 2 * _MARGIN,
  )
  caption_lines = _wrap(caption, font, total_width - 2 * _MARGIN)
  top = _MARGIN + line_height * bool(title) + line_height
  below = top + len(rows) * (height + _GAP)
  total_height = below + len(caption_lines) * line_height + _MARGIN

  page = Image.new('RGB', (total_width, total_height), _PAPER)
  draw = ImageDraw.Draw(page)
  draw.text((_MARGIN, _MARGIN - 2), title, fill=_INK, font=font)
  for i, text in enumerate(columns):
    x = left + i * (width + _GAP) + width / 2
    draw.text((x, top - 5), text, fill=_FAINT, font=font, anchor='ms')
  for j, (label, frames) in enumerate(rows.items()):
    y = top + j * (height + _GAP)
    middle = (_MARGIN, y + height / 2 - line_height / 2 * (1 + label.count('\n')))
    draw.multiline_text(middle, label, fill=_INK, font=font, spacing=line_height - font_size)
    for i, frame in enumerate(frames):
      big = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
      page.paste(big, (left + i * (width + _GAP), y))
  for i, line in enumerate(caption_lines):
    draw.text((_MARGIN, below + i * line_height), line, fill=_INK, font=font)
  return np.asarray(page)


def _text_width(text: str, font: Font) -> int:
  return math.ceil(max(font.getlength(line) for line in text.split('\n')))


def _wrap(text: str, font: Font, width: int) -> list[str]:
  lines: list[str] = []
  for word in text.split():
    if lines and font.getlength(f'{lines[-1]} {word}') <= width:
      lines[-1] += f' {word}'
    else:
      lines.append(word)
  return lines
