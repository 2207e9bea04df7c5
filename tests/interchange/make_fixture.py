"""Makes tests/fixtures/videomae_tiny.npz from transformers (needs torch and transformers).

PYTHONPATH=. python tests/interchange/make_fixture.py
"""

import pathlib

import numpy as np

from tests.interchange import peer

values = {}
for kind in ('pretraining', 'classification'):
  logits, loss, gradients = peer.torch_results(kind)
  values |= {f'{kind}:logits': logits, f'{kind}:loss': np.float32(loss)}
  values |= {f'{kind}:grad:{name}': peer.summary(g) for name, g in gradients.items()}
path = pathlib.Path(__file__).parents[1] / 'fixtures' / 'videomae_tiny.npz'
np.savez_compressed(path, **values)
print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')
