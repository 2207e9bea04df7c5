"""Bundles counted in a schedule of the form that libtpu writes, by hand."""

import pytest

from tests import started
from tests.benchmark import bundles

SCHEDULE = """
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = inlined_call_operand.hbm [shape: bf16[4], index: 0, kind: input] }
   0x1   :  { %12 = vsyncpa [#allocation3], 0 }
   0x2 LB: > { %s3 = smov 0 }
   0x3   : > { %p4_p1 = scmp.ge.s32.totalorder %s36_s25, 3 }
   0x4 LB: >> { %v5 = vlaneseq }
   0x5   : >> { %p6_p2 = scmp.ge.s32.totalorder %s7_s8, 3 /* loop exit test */ }
   0x6   : > { %v2 = vld [vmem:[%s1]]  ;;  %473 = sbr.rel (!%p6_p2) target = $region130 }
   0x7   : > { %p9_p3 = scmp.ge.s32.totalorder %s2_s2, 7 /* loop exit test */ }
   0x8   :  { %s9 = sld [smem:[#a]]  ;;  %26 = sbr.rel (!%p9_p3) target = $region1 }
   0x9   :  { %27 = vsyncpa [#allocation3], 1 }
"""


def test_bodies_of_loops_count_as_often_as_they_run():
  # Three around a grid of 7 - 2 programs, each of four and three times three.
  assert bundles.bundles(SCHEDULE) == 3 + 5 * (4 + 3 * 3)
  # The outer loop's test may come earlier, and depend on the inner one's.
  test = '   0x7   : > { %p9_p3 = scmp.ge.s32.totalorder %s2_s2, 7 /* loop exit test */ }\n'
  later = '   0x6   : > { %v2'
  assert test in SCHEDULE and later in SCHEDULE
  moved = test.replace('totalorder', 'totalorder (%p6_p2),').replace(': >', ': >>')
  moved = SCHEDULE.replace(test, '').replace(later, moved + later)
  assert bundles.bundles(moved) == 3 + 5 * (3 + 3 * 4)


def test_table():
  row = dict(topology='v5e:1x1', shape=[4, 1568, 6, 64], cycles=90_000, bytes=2e6)
  rows = [
    row | dict(implementation='xla', bundles={}),
    row | dict(implementation='pallas', bundles={'forward_kernel': 10_000, 'backward_kernel': 600}),
    dict(row, topology='v4:2x2x1', implementation='mapped', error='too large'),
  ]
  assert bundles.table(rows).splitlines()[-2:] == [
    '| v5e | 4 x 1,568 x 6 x 64 | 90 (2) |  | 101 (2) |',
    '| v4 | 4 x 1,568 x 6 x 64 |  | not compiled |  |',
  ]


def test_rows_grow_by_each_implementation_of_each_shape(monkeypatch):
  monkeypatch.setattr(bundles, 'count', lambda *_: dict(cycles=2e3, bytes=1e6, bundles={}))
  steps = list(bundles.benchmark_bundles(topologies=['v5e:1x1', 'v6e:1x1']))
  count = len(bundles.SHAPES) * len(bundles.IMPLEMENTATIONS)
  assert [len(rows) for rows in steps] == list(range(1, 2 * count + 1))
  assert bundles.table(steps[-1]).count('| 2 (1) | 2 (1) | 2 (1) |') == 2 * len(bundles.SHAPES)


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_the_kernels_of_a_chip_that_is_not_here():
  found = bundles.count(bundles.ATTENTION, 'v5e:1x1', 'pallas', '[8, 160, 16, 64]')
  assert set(found['bundles']) == {'forward_kernel', 'backward_kernel'}
  # A program for each of 8 clips and 8 pairs of heads.
  assert all(300 < n / (8 * 8) < 3000 for n in found['bundles'].values()), found


SEARCH = """
import json
import jax, jax.numpy as jnp
from vmae_jax import sharding
from vmae_jax.motion.inverse_search import inverse_search
from vmae_jax.planning.program import read_cycles
from vmae_jax.planning.slices import slice_devices

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_enable_compilation_cache', False)
mesh = sharding.make_mesh(devices=slice_devices('v5e:1x1')[:1])
clip = jax.ShapeDtypeStruct((1, 3, 64, 64, 3), jnp.float32, sharding=sharding.batch_sharding(mesh))
with jax.set_mesh(mesh):
  search = jax.jit(lambda clip: inverse_search(clip, pairs=((0, 1), (1, 2))))
  text = search.lower(clip).compile().as_text()
others = '\\n'.join(x for x in text.splitlines() if 'tpu_custom_call' not in x)
print(json.dumps({'cycles': [sum(read_cycles(x).values()) for x in (text, others)]}))
"""


@pytest.mark.slow
@started.NEEDS_LIBTPU
def test_estimate_counts_the_search_for_flow_as_its_schedules_do():
  found = bundles.count(SEARCH)
  whole, others = found['cycles']
  assert whole - others == pytest.approx(found['bundles']['search_kernel'], rel=0.03)
