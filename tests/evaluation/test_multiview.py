"""The multi-view test: every video once, whatever the batch, the devices and interruptions."""

import csv
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import started
from vmae_jax import sharding
from vmae_jax.data.clips import ViewSampler
from vmae_jax.data.frames import ArrayVideo
from vmae_jax.errors import VideoError
from vmae_jax.evaluation.multiview import classify, confusion, score
from vmae_jax.evaluation.results import write_results

CLASSES = 7
BROKEN = 4


def video(i):
  rng = np.random.default_rng(i)
  return ArrayVideo(rng.integers(0, 256, (9 + i, 12, 20, 3), np.uint8), rate=25.0)


class Source:
  """Thirteen videos, of which one is broken."""

  class_names = tuple('abcdefg')

  def __len__(self):
    return 13

  def name(self, i):
    return f'video {i}'

  def about(self):
    return 'thirteen'

  def label(self, i):
    return i % CLASSES

  def open(self, i):
    if i == BROKEN:
      raise VideoError('torn')
    return video(i)


SAMPLER = ViewSampler(frames=2, size=8, stride=2, segments=2, crops=3, repeats=6)


@jax.jit
def probabilities(video):
  x = video.reshape(len(video), -1).astype(jnp.float32) / 255
  weight = jnp.sin(jnp.arange(x.shape[1] * CLASSES) * 1.7).reshape(-1, CLASSES)
  return jax.nn.softmax(x @ weight)


def run(path, mesh=None, *, batch_size=6, **options):
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  options = dict(about={'step': 1}, threads=2) | options
  return classify(
    probabilities, Source(), SAMPLER, str(path), batch_size=batch_size, mesh=mesh, **options
  )


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  return run(tmp_path_factory.mktemp('whole') / 'records.jsonl')


def test_probabilities_are_averaged_over_the_views_of_a_video(records):
  assert len(records) == 13
  for i, record in enumerate(records):
    assert record['label'] == i % CLASSES
    if i == BROKEN:
      assert record['failed'] == 'torn' and 'best' not in record
      continue
    p = np.asarray(probabilities(SAMPLER(Source(), 0, i)['video'])).mean(0)
    order = np.argsort(-p)[:5]
    assert record['best'] == order.tolist()
    np.testing.assert_allclose(record['probability'], p[order], atol=1e-5)


def same(one, other):
  assert len(one) == len(other)
  for a, b in zip(one, other, strict=True):
    assert a.get('best') == b.get('best') and a['label'] == b['label']
    assert a.get('failed') == b.get('failed')
    np.testing.assert_allclose(a.get('probability', 0), b.get('probability', 0), atol=2e-6)


@pytest.mark.parametrize('batch_size', [1, 12, 30, 1000])
def test_any_batch_size(batch_size, records, tmp_path):
  same(run(tmp_path / 'records.jsonl', batch_size=batch_size), records)


def test_eight_devices(records, tmp_path):
  program = """
import sys
from tests.evaluation import test_multiview as t
t.run(sys.argv[1], t.sharding.make_mesh(data=4, fsdp=2))
"""
  path = tmp_path / 'records.jsonl'
  env = started.environment(8)
  subprocess.run([sys.executable, '-c', program, str(path)], env=env, check=True)
  same([json.loads(line) for line in path.read_text().splitlines()[1:]], records)


def test_an_interrupted_test_continues(records, tmp_path, monkeypatch):
  path, opened = tmp_path / 'records.jsonl', []
  asked = iter([False, True])
  assert run(path, batch_size=12, stopping=lambda: next(asked)) is None
  assert len(path.read_text().splitlines()) == 1 + 4
  with path.open('a') as file:
    file.write('{"label": 4, "be')  # What a kill in the midst of writing leaves.

  class Recorded(Source):  # Threads of the run above may still read ahead.
    def open(self, i):
      opened.append(i)
      return video(i)

  monkeypatch.setattr(sys.modules[__name__], 'Source', Recorded)
  rest = path.read_text()
  found = run(path, batch_size=6)
  assert min(opened) == 4 and sorted(set(opened)) == sorted(opened)
  same(found[:4] + found[5:], records[:4] + records[5:])
  path.write_text(rest)
  same(run(path, batch_size=18), found)  # Three videos a batch: the fourth is read again.
  assert len(path.read_text().splitlines()) == 1 + 13
  opened.clear()
  assert run(path) == found and opened == []  # All of it is there.


def test_other_settings_begin_a_new_test(records, tmp_path):
  path = tmp_path / 'records.jsonl'
  run(path, stopping=lambda: True)
  found = run(path, about={'step': 2})
  same(found, records)
  assert json.loads(path.read_text().splitlines()[0])['step'] == 2


def test_a_list_of_as_many_other_videos_begins_a_new_test(records, tmp_path, monkeypatch):
  run(tmp_path / 'records.jsonl')

  class Later(Source):
    def about(self):
      return 'thirteen others'

    def label(self, i):
      return (i + 1) % CLASSES

  monkeypatch.setattr(sys.modules[__name__], 'Source', Later)
  found = run(tmp_path / 'records.jsonl')
  assert [record['label'] for record in found] == [(i + 1) % CLASSES for i in range(13)]


def record(label, best):
  return {'label': label, 'best': best, 'probability': [0.5] * len(best)}


MADE_UP = [
  record(0, [0, 1, 2, 3, 4]),
  record(0, [1, 0, 2, 3, 4]),
  record(1, [1, 2, 3, 4, 5]),
  record(6, [0, 1, 2, 3, 4]),
  {'label': 3, 'failed': 'torn'},
]


def test_scores():
  assert score(MADE_UP, classes=7) == {
    'videos': 5, 'unreadable': 1, 'top1': 0.5, 'top5': 0.75, 'mean_class': 0.5,
  }  # fmt: skip
  assert 'top5' not in score(MADE_UP[:3], classes=5)
  assert np.isnan(score(MADE_UP[4:], classes=7)['top1'])
  counts = confusion(MADE_UP, classes=7)
  assert counts.sum() == 4 and counts[0, 1] == counts[6, 0] == counts[0, 0] == counts[1, 1] == 1


@pytest.mark.parametrize('classes', [7, 80])
def test_files_of_results(classes, tmp_path):
  source = Source()
  names = source.class_names if classes == 7 else ()
  records = MADE_UP
  write_results(str(tmp_path), records, source, classes=classes, names=names, facts={'model': 'b'})
  with (tmp_path / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['video'] for row in rows] == [f'video {i}' for i in range(5)]
  assert [row['correct'] for row in rows] == ['1', '0', '1', '0', '']
  assert rows[4]['failed'] == 'torn' and rows[1]['predicted_class'] == ('b' if names else '')
  table = (tmp_path / 'results.md').read_text()
  for part in ('| model | b |', '| top-1 | 50.0% |', '| could not be read | 1 |'):
    assert part in table
  assert ('| a | 2 | 50.0% | b (1) |' if names else '| 0 | 2 | 50.0% | 1 (1) |') in table
  assert (tmp_path / 'confusion.png').stat().st_size > 1000
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'confusion.png', 'predictions.csv', 'results.md',
  ]  # fmt: skip
