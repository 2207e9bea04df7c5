"""Kernels that a compiled program calls, and how often."""

from vmae_jax.planning.program import read_kernels

PROGRAM = """HloModule jit_step

%body (p: f32[8]) -> f32[8] {
  %a.1 = (bf16[8]{0}, u8[0]{0}) custom-call(%p), custom_call_target="__cudnn$fmhaSoftmax"
  %b.1 = f32[8]{0} custom-call(%p), custom_call_target="ConcatBitcast"
  %g.1 = f32[8]{0} custom-call(%p), custom_call_target="__cublas$lt$matmul"
}

%condition (p: f32[8]) -> pred[] {
  ROOT %more = pred[] compare(%p, %p), direction=NE
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %a.2 = (bf16[8]{0}, u8[0]{0}) custom-call(%p), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %loop = f32[8] while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_kernels_in_loops_count_as_often_as_they_run():
  assert read_kernels(PROGRAM) == {'__cublas$lt$matmul': 12, '__cudnn$fmhaSoftmax': 13}
