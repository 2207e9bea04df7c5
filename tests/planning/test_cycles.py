"""Cycles read from a program in the form that libtpu prints."""

from vmae_jax.planning.cycles import read_cycles


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


def test_parts_with_loops_as_often_as_they_run_and_fusions_once():
  assert list(read_cycles(PROGRAM).items()) == [
    ('decoder, attention', 360),
    ('motion_decoder, rest', 17),
    ('encoder, rest', 13),
    ('optimizer, rest', 11),
    ('masks, targets, loss', 7),
    ('decoder, mlp', 5),
  ]


def test_other_compilers_tell_none():
  assert read_cycles('ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %p = f32[8]{0} copy(%p)\n}') == {}
