"""What a run costs, and the search for batch and remat, on numbers known by hand."""

import pytest

from vmae_jax.benchmark import plan
from vmae_jax.benchmark.aot import CompiledStep


def test_speed():
  got = plan.speed(
    clip_flops=200 * 10**9, batch=64, devices=4, sent=2e8, peak=2e14, network=1e11, mfu=0.5
  )
  assert got == pytest.approx(
    {
      'arithmetic_seconds': 0.016,  # 16 clips of 200 GFLOP at 200 TFLOP/s.
      'network_seconds': 0.002,
      'step_seconds': 0.032,
      'clips_per_second': 2000,
    }
  )


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


def compiler(shares, *, held=100, limit=1000):
  """A step that takes `held` and a share for each clip; tells what was compiled."""
  asked = []

  def compile_at(clips, remat):
    asked.append((clips, remat))
    size = held + shares[remat] * clips
    memory = {'parameters': held // 2, 'optimizer': held - held // 2, 'all': size, 'limit': limit}
    return CompiledStep(size <= limit, memory, None, [], 0, 0.0, '')

  return compile_at, asked


@pytest.mark.parametrize('start', [1, 3, 8, 64, 1024])
def test_search_finds_the_largest(start):
  compile_at, asked = compiler({'none': 100, 'dots': 30, 'full': 14})
  rows = list(plan.largest_batches(compile_at, start=start))
  assert [(remat, clips) for remat, clips, _ in rows] == [('none', 8), ('dots', 16), ('full', 64)]
  for remat, clips, tried in rows:  # Both sides are compiled, not guessed.
    assert tried[clips].fits and not tried[2 * clips].fits
    assert set(tried) == {n for n, r in asked if r == remat}
  assert len(asked) == len(set(asked)) <= 9


def test_search_does_not_trust_its_guess():
  def compile_at(clips, remat):  # Grows faster than the clips.
    memory = {'parameters': 0, 'optimizer': 0, 'all': clips**2, 'limit': 5000}
    return CompiledStep(clips**2 <= 5000, memory, None, [], 0, 0.0, '')

  assert [clips for _, clips, _ in plan.largest_batches(compile_at, start=4)] == [64, 64, 64]


def test_search_where_nothing_fits():
  compile_at, _ = compiler({'none': 1000, 'dots': 950, 'full': 900})
  found = {remat: clips for remat, clips, _ in plan.largest_batches(compile_at, start=16)}
  assert found == {'none': 0, 'dots': 0, 'full': 1}


def test_choice():
  rows = {'none': 8, 'dots': 32, 'full': 64}
  assert plan.choose(rows, 8) == 'none'
  assert plan.choose(rows, 9) == 'dots'
  assert plan.choose(rows, 128) == 'full'  # The nearest to what is wanted.
  assert plan.choose({'none': 0, 'dots': 0, 'full': 0}, 1) is None
