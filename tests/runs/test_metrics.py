"""Metrics of a run can be read back, also after it was killed and resumed."""

import errno
import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vmae_jax import storage
from vmae_jax.errors import UserError
from vmae_jax.runs import appended, metrics
from vmae_jax.runs.metrics import METRICS_FILE, MetricWriter, read_metrics


def write_steps(workdir, steps, value=0.0):
  writer = MetricWriter(workdir)
  for step in steps:
    writer.write_scalars(step, {'loss': value + step, 'rate': np.float32(0.5)})
  return writer


def tensorboard(workdir):
  accumulator = EventAccumulator(str(workdir), size_guidance={'tensors': 0, 'images': 0})
  accumulator.Reload()
  return accumulator


def test_scalars_come_back(tmp_path):
  write_steps(tmp_path, [1, 2]).close()
  records = read_metrics(tmp_path)
  assert [(r['step'], r['loss'], r['rate']) for r in records] == [(1, 1.0, 0.5), (2, 2.0, 0.5)]
  assert records[0]['time'] > 1.6e9
  events = tensorboard(tmp_path).Scalars('loss')
  assert [(e.step, e.value) for e in events] == [(1, 1.0), (2, 2.0)]


def test_scalars_are_on_disk_before_close(tmp_path):
  write_steps(tmp_path, [1])
  assert len(read_metrics(tmp_path)) == 1


def test_lines_of_one_step_are_merged(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.write_scalars(2, {'a': 1, 'c': 7})
  writer.write_scalars(1, {'a': 5})
  writer.write_scalars(2, {'a': 3, 'b': 4})
  first, second = ({k: v for k, v in r.items() if k != 'time'} for r in read_metrics(tmp_path))
  assert first == {'step': 1, 'a': 5}
  assert second == {'step': 2, 'a': 3, 'b': 4, 'c': 7}


def test_not_a_number_is_valid_json(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.write_scalars(1, {'loss': np.nan, 'norm': np.inf})

  def refuse(constant):
    raise AssertionError(constant)

  json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=refuse)
  (record,) = read_metrics(tmp_path)
  assert math.isnan(record['loss']) and math.isnan(record['norm'])


def test_resume_drops_later_steps(tmp_path):
  write_steps(tmp_path, range(1, 8)).close()
  writer = MetricWriter(tmp_path)
  writer.resume(4)
  for step in range(5, 9):
    writer.write_scalars(step, {'loss': 100.0 + step})
  writer.close()
  expected = [1, 2, 3, 4, 105, 106, 107, 108]
  lines = (tmp_path / METRICS_FILE).read_text().splitlines()
  assert [json.loads(line)['loss'] for line in lines] == expected
  assert [e.value for e in tensorboard(tmp_path).Scalars('loss')] == expected


def test_resume_of_an_empty_file(tmp_path):
  writer = MetricWriter(tmp_path)
  writer.resume(0)
  writer.write_scalars(1, {'loss': 1})
  assert [r['step'] for r in read_metrics(tmp_path)] == [1]


def test_an_incomplete_last_line_is_left_out(tmp_path):
  write_steps(tmp_path, [1, 2]).close()
  path = tmp_path / METRICS_FILE
  path.write_bytes(path.read_bytes()[:-9])
  assert [r['step'] for r in read_metrics(tmp_path)] == [1]
  write_steps(tmp_path, [2, 3]).close()
  assert [r['step'] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_broken_line_is_named(tmp_path):
  write_steps(tmp_path, [1]).close()
  with (tmp_path / METRICS_FILE).open('a') as file:
    file.write('what?\n')
  with pytest.raises(UserError, match='line 2'):
    read_metrics(tmp_path)


def test_no_file_is_a_user_error(tmp_path):
  with pytest.raises(UserError, match='no such file'):
    read_metrics(tmp_path)


def test_in_a_bucket(memory, tmp_path, monkeypatch):
  """Objects cannot grow: they are rewritten from time to time, and by `flush`."""
  workdir = 'memory://bucket/run'
  writer = MetricWriter(workdir)
  writer.resume(0)
  for step in range(1, 5):
    writer.write_scalars(step, {'loss': step})
  assert not memory.exists('/bucket/run/metrics.jsonl')
  writer.flush()
  assert [r['step'] for r in read_metrics(workdir)] == [1, 2, 3, 4]
  monkeypatch.setattr(appended, 'PAUSE', 0.0)
  writer.write_scalars(5, {'loss': 5})
  assert len(read_metrics(workdir)) == 5
  monkeypatch.setattr(metrics, 'PART', 100)
  writer = MetricWriter(workdir)
  writer.resume(3)
  for step in (4, 5):
    writer.write_scalars(step, {'loss': 100 + step})
  writer.close()
  assert [r['loss'] for r in read_metrics(workdir)] == [1, 2, 3, 104, 105]
  memory.get('/bucket/run', str(tmp_path), recursive=True)
  assert len(list(tmp_path.glob('**/events*'))) == 3
  (folder,) = {path.parent for path in tmp_path.glob('**/events*')}
  assert [e.value for e in tensorboard(folder).Scalars('loss')] == [1, 2, 3, 104, 105]


def test_no_line_is_lost_in_an_outage(memory, monkeypatch, caplog):
  workdir = 'memory://bucket/run'
  writer, write = MetricWriter(workdir), storage.write

  def away(path, data):
    raise OSError(errno.ETIMEDOUT, 'no answer', path)

  monkeypatch.setattr(storage, 'write', away)
  for step in (1, 2):
    writer.write_scalars(step, {'loss': step})
    writer.flush()
  assert caplog.text.count('metrics.jsonl cannot be written: no answer. The run goes on') == 1
  monkeypatch.setattr(storage, 'write', write)
  writer.close()
  assert [r['step'] for r in read_metrics(workdir)] == [1, 2]


def test_images_reach_tensorboard(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
  writer = MetricWriter(tmp_path)
  writer.write_images(3, {'one': image[0], 'other': image[1]})
  events = tensorboard(tmp_path)
  assert sorted(events.Tags()['images']) == ['one', 'other']
  (event,) = events.Images('other')
  assert (event.step, event.height, event.width) == (3, 5, 7)
  (tmp_path / 'image.png').write_bytes(event.encoded_image_string)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'image.png')), image[1])


def test_disabled_writer_does_nothing(tmp_path):
  writer = MetricWriter(tmp_path / 'none', enabled=False)
  writer.write_scalars(1, {'loss': 1.0})
  writer.write_images(1, {'one': np.zeros((2, 2, 3), np.uint8)})
  writer.resume(0)
  writer.close()
  assert not (tmp_path / 'none').exists()


@pytest.mark.full
def test_tensorflow_is_not_loaded_where_it_is_installed(tmp_path):
  assert importlib.util.find_spec('tensorflow')
  code = (
    'import sys; from vmae_jax.runs.metrics import MetricWriter; '
    f'MetricWriter({str(tmp_path)!r}).write_scalars(1, {{"a": 1}}); '
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
