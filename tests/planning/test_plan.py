"""The cost of a run, with numbers computed by hand."""

import pytest

from vmae_jax.planning import plan


def test_speed():
  got = plan.speed(
    clip_flops=200 * 10**9, batch=64, devices=4, sent=2e8, peak=2e14, network=1e11, mfu=0.5
  )
  assert got == pytest.approx(
    {
      'arithmetic_seconds': 0.016,  # 16 clips of 200 GFLOP at 200 TFLOP/s.
      'network_seconds': 0.002,
      'step_seconds': 0.032,
      'mfu': 0.5,
      'clips_per_second': 2000,
    }
  )


@pytest.mark.parametrize('counted, seconds, mfu', [(0.08, 0.08, 0.2), (0.001, 0.016, 1.0)])
def test_the_compilers_count_replaces_an_assumed_mfu(counted, seconds, mfu):
  """A count below the lower bound by arithmetic is not used: the compiler leaves operations out."""
  got = plan.speed(
    clip_flops=200 * 10**9, batch=64, devices=4, sent=0.0, peak=2e14, network=None, mfu=0.4,
    counted=counted,
  )  # fmt: skip
  assert (got['step_seconds'], got['mfu']) == pytest.approx((seconds, mfu))


def test_unknown_figures_are_not_made_up():
  got = plan.speed(clip_flops=1, batch=4, devices=4, sent=1.0, peak=None, network=None, mfu=0.5)
  assert set(got.values()) == {None}


def test_cost():
  assert plan.cost(step_seconds=0.5, steps=72_000, devices=16) == {
    'steps': 72_000,
    'hours': 10,
    'chip_hours': 160,
  }


def test_feeding():
  feed = plan.Feed(decode_rate=20.0, video_bytes=1.5e6, repeats=4, clip_bytes=2_408_448)
  # 1,000 clips/s a host, of 250 videos.
  got = plan.feeding(clips_per_second=8000.0, hosts=8, feed=feed)
  assert got == pytest.approx(
    {
      'cores': 12.5,
      'read_bytes_per_second': 250 * 1.5e6,
      'transfer_bytes_per_second': 1000 * 2_408_448,
    }
  )
