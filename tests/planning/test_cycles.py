"""Cycles read from a program in the form that libtpu prints."""

import pytest

from vmae_jax.planning.program import read_cycles


def operation(cycles, scope='', more=''):
  return (
    f'  %x.{cycles} = f32[8]{{0:T(128)}} fusion(%p), kind=kLoop, calls=%fused, '
    f'metadata={{op_name="{scope}" stack_frame_id=1}}, backend_config={{"window_config":'
    f'{{"estimated_cycles":"{cycles}","iteration_bounds":["2"]}}{more}}}'
  )


STEP = 'jit(step)/{}(MaskedAutoencoder))/decoder/blocks/closed_call/block.<lambda>/block/'
PROGRAM = f"""HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {{
{operation(1000000)}
}}

%body (p: f32[8]) -> f32[8] {{
{operation(30, STEP.format('jvp') + 'attention/shard_map/while/body/dot_general')}
}}

%endless (p: f32[8]) -> f32[8] {{
{operation(5, STEP.format('transpose(jvp') + 'mlp/fc1/dot_general')}
}}

%condition (p: f32[8]) -> pred[] {{
  ROOT %more = pred[] compare(%p, %p), direction=NE
}}

ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
{operation(7, 'jit(step)/jvp()/div')}
{operation(11, 'jit(step)/jit(_where)/select_n')}
{operation(13, 'jit(step)/jvp(MaskedAutoencoder)/encoder/embed/dot_general')}
{operation(17, 'jit(step)/jvp(RegressedAutoencoder)/motion_decoder/blocks/norm1/reduce_sum')}
  %loop = f32[8] while(%p), condition=%condition, body=%body, \
backend_config={{"known_trip_count":{{"n":"12"}}}}
  %other = f32[8] while(%p), condition=%condition, body=%endless
  ROOT %copy = f32[8]{{0}} copy(%loop)
}}
"""


def test_loops_count_as_often_as_they_run_and_fusions_once():
  assert list(read_cycles(PROGRAM).items()) == [
    ('decoder, attention', 360),
    ('motion_decoder, rest', 17),
    ('encoder, rest', 13),
    ('optimizer, rest', 11),
    ('masks, targets, loss', 7),
    ('decoder, mlp', 5),
  ]


KERNEL = """ENTRY %main (p: f32[8]) -> f32[8] {{
  %jvp_{}.1 = ({}f32[4,6,1,1568]{{3,2,1,0:T(1,128)}}) custom-call(%copy.1, %copy.2), \
custom_call_target="tpu_custom_call", operand_layout_constraints={{bf16[4,1568,384]{{2,1,0}}, \
bf16[4,1568,384]{{2,1,0}}, bf16[4,1568,384]{{2,1,0}}}}, metadata={{op_name="jit(step)/\
jvp(MaskedAutoencoder)/decoder/blocks/block/attention/pallas_call"}}
}}
"""


def test_cycles_of_kernels_are_those_of_their_schedules():
  given = 'bf16[4,1568,384]{2,1,0:T(8,128)(2,1)S(1)}, '
  for kernel, bundles in ('forward_kernel_', 328_617), ('backward_kernel__', 586_979):
    text = KERNEL.format(kernel, given)
    (found,) = read_cycles(text).items()
    assert found == ('decoder, attention', pytest.approx(bundles, rel=0.01))
  # The backward kernel is given the statistics.
  statistics = 'f32[4,6,1,1568]{3,2,1,0:T(1,128)}'
  text = text.replace(statistics, given).replace(
    '{2,1,0}}, meta', f'{{2,1,0}}, {statistics}}}, meta'
  )
  assert text.count(statistics) == 1 and read_cycles(text) == dict([found])


SEARCH = """ENTRY %main (p: f32[8]) -> f32[8] {{
  %search_kernel.3 = (f32[30,2,{n}]{{2,1,0:T(2,128)S(1)}}, f32[30,8,8,{n}]{{3,2,1,0:T(8,128)}}) \
custom-call(%a, %b, %c, %d, %e), custom_call_target="tpu_custom_call", \
operand_layout_constraints={{bf16[30,2,{w},128]{{3,2,1,0}}, bf16[30,2,{w},128]{{3,2,1,0}}, \
f32[30,2,{n}]{{2,1,0}}, f32[2,{n}]{{1,0}}, f32[4,1,{n}]{{2,1,0}}}}, \
metadata={{op_name="jit(step)/jvp()/pallas_call"}}
}}
"""


def test_cycles_of_the_search_for_flow_are_those_of_its_schedules():
  for n, w, bundles in (128, 48, 228_486), (256, 80, 529_446), (768, 128, 1_927_506):
    (found,) = read_cycles(SEARCH.format(n=n, w=w)).items()
    assert found == ('masks, targets, loss', pytest.approx(bundles, rel=0.01))


def test_other_compilers_give_no_cycles():
  assert read_cycles('ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %p = f32[8]{0} copy(%p)\n}') == {}
