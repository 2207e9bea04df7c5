"""The table, and small steps of what is measured."""

import pytest

from tests.benchmark import contenders, step, torch_contenders
from vmae_jax.models.sizes import SIZES


def test_table():
  row = dict(seconds=2.0, clips_per_second=1.0, teraflops_per_second=0.1234, peak_bytes=3e9)
  result = dict(work='finetune', size='b', batch=2, rounds=5, gigaflops_a_clip=123.4)
  result['contenders'] = {'vmae_jax': row, 'torch': row | {'seconds': 4.0, 'peak_bytes': 4e9}}
  result['ratios'] = {'torch': {'time': 0.5, 'memory': 0.75}}
  text = step.table(result)
  assert text.startswith('ViT-B, fine-tuning, 400 classes, 2 clips')
  assert '| vmae_jax | 2.000 | 1.00 | 0.123 | 3.00 | 1.00 | 1.00 |' in text
  assert '| torch | 4.000 | 1.00 | 0.123 | 4.00 | 0.50 | 0.75 |' in text


QUICK = [  # Two of the three are compiled in a third of the time.
  pytest.param(work, marks=pytest.mark.slow if work == 'pretrain' else ()) for work in step.WORK
]


@pytest.mark.parametrize('work', QUICK)
def test_ours(work, monkeypatch):
  ready = _small(monkeypatch, contenders.vmae_jax, work)
  assert ready.peak() > 1e6
  # By hand: 32 tokens of 1,536 values; in pre-training the encoder sees 4 of them.
  patches, blocks, head = 2 * 1536 * 64, 2 * 2 * (4 * 64**2 + 2 * 64 * 128), 2 * 64 * 400
  forward = 32 * (patches + blocks + 2 * 2 * 2 * 32 * 64) + head
  shown = 4 * (patches + blocks + 2 * 2 * 2 * 4 * 64 + 2 * 64 * 32)
  decoded = 32 * 2 * (4 * 32**2 + 2 * 32 * 32 + 2 * 32 * 128) + 28 * 2 * 32 * 1536
  by_hand = {
    'pretrain': 3 * (shown + decoded),
    'finetune': 3 * forward,
    'inference': forward,
  }
  assert ready.about['clip_flops'] == by_hand[work]


@pytest.mark.full
@pytest.mark.parametrize('work', QUICK)
def test_transformers(work, monkeypatch):
  ours = _small(monkeypatch, contenders.vmae_jax, work).about
  ready = _small(monkeypatch, torch_contenders.torch, work)
  assert ready.peak() > 1e6 and ready.about['device'] == 'cpu'
  assert ready.about['threads'] == ours['threads']
  assert ours['clip_flops'] == ready.about['clip_flops']  # As many tokens are visible and hidden.


def _small(monkeypatch, make, work):
  """A contender with clips of 4 x 64 x 64 and a thin model, after a step."""
  monkeypatch.setattr(contenders, 'FRAMES', 4)
  monkeypatch.setattr(contenders, 'SIZE', 64)
  decoder = dict(width=32, depth=1, heads=2, mlp=128)
  monkeypatch.setitem(SIZES, 'tiny', dict(width=64, depth=2, heads=2, mlp=128, decoder=decoder))
  ready = make(work, 'tiny', 2)
  ready.run()
  return ready
