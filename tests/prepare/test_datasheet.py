"""What a data set consists of, in words and as a picture."""

import numpy as np

from tests.data.clips_on_disk import write_video
from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.prepare.datasheet import COLUMNS, ROWS, THUMBNAIL, contact_sheet, datasheet
from vmae_jax.prepare.examine import Finding


def found(path, **more):
  whole = dict(frames=100, rate=25.0, width=320, height=240, codec='h264', size=10**6)
  return Finding(path, **whole | {'content_hash': path} | more)


def test_datasheet():
  findings = [
    found('a'),
    found('b', frames=50, content_hash='a'),
    found('c', frames=400, rate=50.0, width=640, codec='vp9'),
    found('d', rate=0.0),
    Finding('e', reason='empty file'),
  ]
  text = datasheet(findings, [0, 0, 2, -1], ['sit', 'run', 'walk'])
  assert text.splitlines() == [
    'broken: e: empty file',
    'in all: 4 videos, 0.00 hours, 4.0 MB',
    'frames: 50 to 400, median 100',
    'seconds: 2 to 8, median 4',
    'frames a second: 25 (2), 50 (1), 0 (1)',
    'sizes: 320x240 (3), 640x240 (1)',
    'codecs: h264 (3), vp9 (1)',
    'classes: 3, of 0 to 2, median 1 videos',
    'largest classes: sit (2), walk (1), run (0)',
    'smallest classes: sit (2), walk (1), run (0)',
    'videos without a class: 1',
    'same content: a, b',
    'duplicates of other files: 1',
  ]


def test_datasheet_of_few_videos():
  assert 'classes: none' in datasheet([Finding('e', reason='no')], [], [])
  text = datasheet([found('a'), found('b')], [1, 0], [])
  assert 'classes: 2, of 1 to 1' in text and 'largest' not in text


def test_contact_sheet(tmp_path):
  """Evenly over the classes, each video from its first to its last frame, nothing cut off."""
  entries = []
  for label in range(ROWS // 2):
    for k in range(4 if label else 20):
      path = tmp_path / f'{label} {k}.mp4'
      entries.append(Entry(str(path), label=label))
  for entry in entries[:1] + entries[-4:]:
    write_video(entry.path, frames=9, height=64, width=32)
  some = FileSource(tuple(entries), tuple(f'class {i}' for i in range(ROWS // 2)))
  opened = []

  class Source(FileSource):
    def open(self, i):
      opened.append(self.label(i))
      return FileSource(some.entries).open(0)

  page = contact_sheet(Source(some.entries, some.class_names), range(len(entries)), 'title')
  assert len(opened) == ROWS and set(opened) == set(range(ROWS // 2))
  assert page.shape[0] > ROWS * THUMBNAIL[1] and page.shape[1] > COLUMNS * THUMBNAIL[0]
  grey = (page == 128).all(-1).mean()
  # Each thumbnail shows a video half as wide as high, 60 of its 160 columns.
  assert abs(grey - ROWS * COLUMNS * 100 * 120 / page[..., 0].size) < 0.02


def test_contact_sheet_without_classes(tmp_path):
  entry = Entry(write_video(tmp_path / 'v.mp4', frames=2))
  page = contact_sheet(FileSource((entry,)), [0], '')
  assert THUMBNAIL[1] < page.shape[0] < 2 * THUMBNAIL[1] and page.dtype == np.uint8
