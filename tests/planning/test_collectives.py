"""Collectives in stored texts of compiled programs and in programs that are compiled here."""

import pytest

from vmae_jax.planning.program import Collective, read_collectives, summarise

# In the forms that XLA's CPU, GPU and TPU compilers print.
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state = (s32[], f32[8]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%inner_condition (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[], f32[8]) parameter(0)
  ROOT %more = pred[] fusion(%state), kind=kLoop, calls=%compared
}

%compared (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[], f32[8]) parameter(0)
  ROOT %lt = pred[] compare(%state, %state), direction=NE
}

%inner_body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %permute = (bf16[8,4]{1,0:T(8,128)(2,1)}, bf16[8,4]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), channel_id=7, source_target_pairs={{0,1},{1,0}}
  ROOT %done = bf16[8,4]{1,0} collective-permute-done(%permute)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %gathered = f32[64,2]{1,0} all-gather(%x), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %loop = (s32[], f32[8]) while(%x), condition=%inner_condition, body=%inner_body, \
backend_config={"known_trip_count":{"n":"3"}}
}

%all-reduce-scatter.1 (x: f32[16]) -> f32[4] {
  %x = f32[16]{0} parameter(0)
  %whole = f32[16]{0} all-reduce(%x), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, \
to_apply=%add
  ROOT %own = f32[4]{0} dynamic-slice(%whole, %x), dynamic_slice_sizes={4}
}

%part.1 (x: bf16[2]) -> bf16[8] {
  %x = bf16[2]{0} parameter(0)
  ROOT %hidden = bf16[8]{0} all-gather(%x), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}

%part.2 (x: bf16[2]) -> bf16[8] {
  %x = bf16[2]{0} parameter(0)
  ROOT %hidden = bf16[8]{0} all-gather(%x), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %both = (f32[4,3]{1,0:T(8,128)}, /*index=1*/bf16[6]{0}, pred[]) all-reduce(%p, %p), \
channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, to_apply=%add, \
metadata={op_name="jit(step)/transpose(jvp(Model))/dot_general"}
  %started = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), channel_id=4, replica_groups=[2,4]<=[8]
  %ordered = f32[16]{0} all-gather(%p), channel_id=6, replica_groups=mesh['axis_0'=4,'axis_1'=2], \
device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}
  %own = f32[5]{0} reduce-scatter(%p), channel_id=5, replica_groups={}, dimensions={0}
  %first = bf16[8]{0} fusion(%p), kind=kCustom, calls=%part.1
  %second = bf16[8]{0} fusion(%p), kind=kCustom, calls=%part.2
  %scattered = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %loop = (s32[], f32[8]) while(%p), condition=%condition, body=%body
}
"""


def test_every_form():
  found = {c[:4] for c in read_collectives(PROGRAM, devices=8)}
  assert found == {
    ('all-reduce', 4 * 3 * 4 + 6 * 2 + 1, 8, 1),
    ('all-gather', 8 * 4, 4, 1),  # Started: what each has does not count.
    ('all-gather', 16 * 4, 2, 1),  # The devices of a mesh in another order.
    ('reduce-scatter', 5 * 4 * 8, 8, 1),  # No groups: all devices.
    ('all-gather', 8 * 2, 4, 1),  # In two fusions, once.
    ('reduce-scatter', 16 * 4, 4, 1),
    ('all-gather', 64 * 2 * 4, 4, 12),
    ('collective-permute', 8 * 4 * 2, 8, 12 * 3),
  }
  assert len(read_collectives(PROGRAM, devices=8)) == 8


def test_what_a_ring_sends():
  assert Collective('all-reduce', 80, 4, 2).sent == 2 * 2 * 3 / 4 * 80
  assert Collective('all-gather', 80, 4, 1).sent == 60
  assert Collective('reduce-scatter', 80, 4, 3).sent == 180
  assert Collective('collective-permute', 80, 4, 3).sent == 240
  assert Collective('all-reduce', 80, 1, 1).sent == 0


def test_summary():
  rows = summarise(read_collectives(PROGRAM, devices=8))
  assert list(rows) == ['all-gather', 'all-reduce', 'collective-permute', 'reduce-scatter']
  assert rows['all-gather']['operations'] == 4 and rows['all-gather']['runs'] == 15
  assert rows['all-gather']['bytes'] == 32 + 16 + 64 + 12 * 512
  assert rows['collective-permute'] == dict(operations=1, runs=36, bytes=36 * 64, sent=36 * 64.0)


def test_a_loop_of_unknown_length_is_an_error():
  text = PROGRAM.replace('"known_trip_count":{"n":"3"}', '')
  with pytest.raises(ValueError, match='permute is in a loop that does not say'):
    read_collectives(text, devices=8)
  # One without such operations is no matter.
  text = text.replace('collective-permute-start', 'copy-start')
  assert {c.kind for c in read_collectives(text, devices=8)} == {
    'all-reduce',
    'all-gather',
    'reduce-scatter',
  }


def test_unknown_groups_are_an_error():
  with pytest.raises(ValueError, match='in no known form: .*replica_groups=4x2'):
    read_collectives(PROGRAM.replace('replica_groups={}', 'replica_groups=4x2'), devices=8)


def test_text_without_a_program_is_an_error():
  with pytest.raises(ValueError, match='ENTRY'):
    read_collectives('nothing', devices=2)
