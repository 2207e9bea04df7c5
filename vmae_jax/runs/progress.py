"""Progress on the console: a bar on a terminal, plain lines in the log of a job."""

import io
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

# Name of a scalar -> how it is shown, in this order; other scalars are not shown.
FIELDS = {
  'loss': 'loss {:.4f}',
  'learning_rate': 'lr {:.2e}',
  'clips_per_second': '{:.1f} clips/s',
  'mfu': 'MFU {:.1%}',
  'data_wait': 'data wait {:.0%}',
  'bad_clips': 'bad clips {:.0f}',
}
SILENCE = 1200.0  # Seconds after which a line is printed before it is due.


class Progress:
  """Shows how far training is, how fast, and when it ends.

  Args:
    total_steps: Steps of the whole run.
    start_step: Steps done before this start, if the run was resumed.
    log_every: Steps between two lines if the output is not a terminal.
    enabled: False in all processes but the main one: then nothing is shown.
    stream: The output; by default standard error.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    *,
    log_every: int = 50,
    enabled: bool = True,
    stream: io.TextIOBase | None = None,
  ):
    self._total, self._log_every = total_steps, log_every
    self._stream = stream or sys.stderr
    self._enabled = enabled
    self._text = ''
    self._first: tuple[int, float] | None = None  # First step, and its time: after compiling.
    self._bar = None
    self._printed_at: float | None = None  # When the last line was printed.
    if enabled and self._stream.isatty():
      self._bar = tqdm(
        total=total_steps,
        initial=start_step,
        file=self._stream,
        dynamic_ncols=True,
        bar_format='{n_fmt}/{total_fmt} |{bar:10}| ETA {remaining}{postfix}',
      )

  def update(self, step: int, scalars: Mapping[str, float | int]) -> None:
    """Shows that `step` steps of the whole run are done.

    Of `scalars` those in FIELDS are shown; if there are none, the last ones stay.
    """
    if not self._enabled:
      return
    now = time.monotonic()
    self._first = self._first or (step, now)
    if scalars:
      self._text = describe(scalars)
    if self._bar is not None:
      self._bar.set_postfix_str(self._text, refresh=False)
      self._bar.update(step - self._bar.n)
    elif (
      step % self._log_every == 0
      or step == self._total
      or (scalars and now - (self._printed_at or self._first[1]) > SILENCE)
    ):
      self._printed_at = now
      first, began = self._first
      eta = 'unknown'
      if step > first:
        eta = tqdm.format_interval((self._total - step) * (now - began) / (step - first))
      self.print(f'step {step}/{self._total}, {self._text or "no numbers yet"}, ETA {eta}')

  def print(self, text: str) -> None:
    """Prints a line above the bar."""
    if self._enabled:
      tqdm.write(text, file=self._stream)
      self._stream.flush()

  def close(self) -> None:
    """Ends the line of the bar."""
    if self._bar is not None:
      self._bar.close()


def describe(scalars: Mapping[str, float | int]) -> str:
  """The numbers in one line: 'loss 0.6120, lr 1.20e-03, 410.3 clips/s, ...'."""
  return ', '.join(
    template.format(scalars[name])
    for name, template in FIELDS.items()
    if name in scalars and (scalars[name] > 0 or name != 'bad_clips')
  )
