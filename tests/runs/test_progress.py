"""What the console shows, on a terminal and in a log file."""

import io
import re

from vmae_jax.runs.progress import Progress, describe

SCALARS = {
  'bad_clips': 2,
  'loss': 0.61234,
  'learning_rate': 1.5e-4,
  'clips_per_second': 410.3,
  'mfu': 0.4212,
  'data_wait': 0.03,
  'grad_norm': 1.0,
}


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_describe_shows_the_fields_in_order():
  assert describe(SCALARS) == (
    'loss 0.6123, lr 1.50e-04, 410.3 clips/s, MFU 42.1%, data wait 3%, bad clips 2'
  )
  assert describe({'loss': 1.0, 'bad_clips': 0}) == 'loss 1.0000'


def test_log_has_a_line_every_so_many_steps_and_at_the_end():
  stream = io.StringIO()
  progress = Progress(25, 0, log_every=10, stream=stream)
  for step in range(1, 26):
    progress.update(step, SCALARS)
  progress.close()
  lines = stream.getvalue().splitlines()
  assert [line.split(',')[0] for line in lines] == ['step 10/25', 'step 20/25', 'step 25/25']
  assert all('loss 0.6123' in line and re.search(r'ETA \d\d:\d\d$', line) for line in lines)


def test_log_keeps_the_last_numbers():
  stream = io.StringIO()
  progress = Progress(2, 0, log_every=1, stream=stream)
  progress.update(1, SCALARS)
  progress.update(2, {})
  assert stream.getvalue().count('loss 0.6123') == 2


def test_eta_leaves_the_first_step_out(monkeypatch):
  now = iter([100.0, 110.0])  # Step 5 ends at 100 s, after compilation, step 7 at 110 s.
  monkeypatch.setattr('vmae_jax.runs.progress.time.monotonic', lambda: next(now))
  stream = io.StringIO()
  progress = Progress(19, 4, log_every=1, stream=stream)
  progress.update(5, SCALARS)
  progress.update(7, SCALARS)
  first, second = stream.getvalue().splitlines()
  assert first.endswith('ETA unknown')
  assert second.endswith('ETA 01:00')


def test_terminal_has_one_bar_with_lines_above():
  stream = Terminal()
  progress = Progress(10, 4, stream=stream)
  progress.update(5, SCALARS)
  progress.print('saved step 5')
  progress.update(10, SCALARS)
  progress.close()
  text = stream.getvalue()
  assert 'saved step 5\n' in text
  assert '4/10' in text and '10/10' in text.split('\r')[-1]
  assert 'ETA' in text and 'loss 0.6123' in text


def test_disabled_progress_is_silent():
  stream = Terminal()
  progress = Progress(10, stream=stream, enabled=False)
  progress.update(10, SCALARS)
  progress.print('hello')
  progress.close()
  assert stream.getvalue() == ''


def test_a_line_comes_early_after_a_long_silence(monkeypatch):
  now = iter([0.0, 700.0, 1300.0, 1400.0, 2600.0])
  monkeypatch.setattr('vmae_jax.runs.progress.time.monotonic', lambda: next(now))
  stream = io.StringIO()
  progress = Progress(1000, 0, log_every=500, stream=stream)
  for step, scalars in ((1, {}), (50, SCALARS), (100, SCALARS), (150, SCALARS), (199, {})):
    progress.update(step, scalars)
  assert [line.split(',')[0] for line in stream.getvalue().splitlines()] == ['step 100/1000']
