"""A description of a data set, in words and as a picture, from the findings of `examine`."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from vmae_jax.data.sources import Source
from vmae_jax.errors import VideoError
from vmae_jax.prepare.examine import Finding
from vmae_jax.types import UInt8
from vmae_jax.visualize.images import labelled_rows

ROWS, COLUMNS = 12, 5
THUMBNAIL = (160, 120)  # Width and height, in pixels.
GREY = (128, 128, 128)  # Around frames of another shape.


def datasheet(
  findings: Sequence[Finding], labels: Sequence[int], class_names: Sequence[str]
) -> str:
  """Broken videos, lengths, rates, sizes, codecs, classes and duplicates, as lines of text.

  Args:
    findings: One for every file or record.
    labels: One for every line of the list, or record, that is not broken; -1 if unknown.
    class_names: May be empty.
  """
  lines = [f'broken: {found.path}: {found.reason}' for found in findings if found.reason][:5]
  whole = [found for found in findings if not found.reason]
  if whole:
    lengths = [found.frames / found.rate for found in whole if found.rate]
    hours, size = sum(lengths) / 3600, sum(found.size for found in whole)
    lines.append(f'in all: {len(whole)} videos, {hours:.2f} hours, {size / 1e6:.1f} MB')
    lines.append(f'frames: {_spread([found.frames for found in whole])}')
    if lengths:
      lines.append(f'seconds: {_spread(lengths)}')
  for what, values in (
    ('frames a second', Counter(f'{found.rate:.4g}' for found in whole)),
    ('sizes', Counter(f'{found.width}x{found.height}' for found in whole)),
    ('codecs', Counter(found.codec for found in whole)),
  ):
    common = ', '.join(f'{value} ({n})' for value, n in values.most_common(5))
    lines.append(f'{what}: {common}{", ..." if len(values) > 5 else ""}')
  lines += _classes(labels, class_names)
  same = defaultdict(list)
  for found in findings:
    if found.content_hash:
      same[found.content_hash].append(found.path)
  for paths in [paths for paths in same.values() if len(paths) > 1][:5]:
    lines.append(f'same content: {", ".join(sorted(paths)[:5])}')
  lines.append(f'duplicates of other files: {sum(len(p) - 1 for p in same.values())}')
  return '\n'.join(lines)


def _spread(values: Sequence[float | int]) -> str:
  low, middle, high = min(values), statistics.median(values), max(values)
  return f'{low:.4g} to {high:.4g}, median {middle:.4g}'


def _classes(labels: Sequence[int], class_names: Sequence[str]) -> list[str]:
  """How many videos the classes have."""
  counts = Counter(label for label in labels if label >= 0)
  if not counts:
    return ['classes: none']
  numbers = range(max(len(class_names), max(counts) + 1))

  def name(label: int) -> str:
    return class_names[label] if class_names else str(label)

  sizes = [counts[label] for label in numbers]
  lines = [f'classes: {len(numbers)}, of {_spread(sizes)} videos']
  ranked = sorted(numbers, key=lambda label: -counts[label])
  if sizes.count(sizes[0]) < len(sizes):
    for what, chosen in (('largest', ranked[:3]), ('smallest', ranked[-3:])):
      text = ', '.join(f'{name(label)} ({counts[label]})' for label in chosen)
      lines.append(f'{what} classes: {text}')
  if unlabelled := sum(label < 0 for label in labels):
    lines.append(f'videos without a class: {unlabelled}')
  return lines


def contact_sheet(
  source: Source,
  chosen: Sequence[int],
  title: str,
  text: Callable[[int], str] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
  """Rows of frames, from the first to the last of a video, one for each of up to ROWS videos.

  Args:
    source: The data set.
    chosen: Samples that decode, at least one; sorted by class, those at equal distances are shown.
    title: Above the picture.
    text: The text beside a sample; None for its class.
  """
  ordered = sorted(chosen, key=source.label)
  picked = [ordered[i * len(ordered) // ROWS] for i in range(ROWS)]
  rows = {}
  for sample in dict.fromkeys(picked):
    label, path = source.label(sample), source.name(sample)
    if text:
      kind = text(sample)
    elif label < 0:
      kind = 'no class'
    else:
      kind = source.class_names[label] if source.class_names else f'class {label}'
    try:
      with source.open(sample) as video:
        places = np.linspace(0, video.num_frames - 1, COLUMNS).round().astype(int)
        frames = [Image.fromarray(frame) for frame in video.read(places)]
        thumbnails = [np.asarray(ImageOps.pad(frame, THUMBNAIL, color=GREY)) for frame in frames]
        about = f'{video.num_frames} frames, {video.rate:.4g} a second'
    except VideoError:  # The list starts after the last frame of the file.
      continue
    rows[f'{kind[-28:]}\n{path.replace(":", "/").split("/")[-1][-28:]}\n{about}'] = thumbnails
  columns = [f'{100 * i // (COLUMNS - 1)} %' for i in range(COLUMNS)]
  return labelled_rows(rows, columns=columns, title=title)
