"""Comparison with stored values of other implementations."""

import numpy as np


def assert_close(found, stored, *, share, name=''):
  """The largest difference is at most `share` of the largest stored value.

  The last bits of float32 sums depend on the processor's instructions (the width of its vectors,
  fused products), and the error of a long chain of sums grows with what is summed. So a bound is a
  share of the size. Measured with the instructions of AVX-512, AVX2 and SSE 4.2, on processors of
  the kinds Zen 3 and Zen 4: RAFT 2.2e-6 to 9.7e-6, VQGAN 5.2e-6 to 7.3e-6, MGMAE's maps 6.7e-6, all
  others below 6e-7. `tests/run.sh --avx2` runs all such comparisons with AVX2's instructions.

  Args:
    found: What the package computes.
    stored: What another implementation computed, of the same shape.
    share: Of the largest magnitude in `stored`.
    name: What is compared, for the message.
  """
  found, stored = np.asarray(found, np.float64), np.asarray(stored, np.float64)
  assert found.shape == stored.shape, (name, found.shape, stored.shape)
  off, size = np.abs(found - stored).max(), np.abs(stored).max()
  assert off <= share * size, f'{name}: off by {off:.3g}, {off / size:.2g} of {size:.3g}'
