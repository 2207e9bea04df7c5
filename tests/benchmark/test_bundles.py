"""Bundles counted in a schedule of the form that libtpu writes, by hand."""

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
