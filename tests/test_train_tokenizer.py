"""The command that trains a tokenizer, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmae_jax.frozen.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
SHORT = dict(videos='synthetic:train', size=8, factor=2, codes=8, steps=3, batch=64)


def run(*words, **options):
  arguments = [f'--{name}={value}' for name, value in (SHORT | options).items()]
  return subprocess.run(
    [sys.executable, '-m', 'vmae_jax.train_tokenizer', *arguments, *words],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )


def test_a_short_training(tmp_path):
  """All files are written; a seed gives the same file; a file is not replaced by accident."""
  first = tmp_path / 'new' / 'a.safetensors'
  done = run(out=first)
  assert done.returncode == 0, done.stderr
  figures = json.loads(done.stdout)
  assert json.loads(first.with_suffix('.json').read_text()) == figures
  assert figures['codes'] == 8 and figures['frames_evaluated'] == 512
  assert 0 < figures['mean_absolute_error'] < 0.3
  assert 1 <= figures['perplexity'] <= figures['codes_used'] <= 8
  assert np.asarray(Image.open(first.with_suffix('.png'))).ndim == 3
  model = load_tokenizer(first).model
  assert (model.factor, model.codes) == (2, 8)

  again = run(out=first)
  assert again.returncode == 2 and 'a.safetensors is there already' in again.stderr
  before = first.read_bytes()
  assert run('--overwrite', out=first).returncode == 0
  assert first.read_bytes() == before


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(size=9), '--size=9: it must be a multiple of --factor=2'),
    (dict(batch=6), '--batch=6: it must be a multiple of 4'),
    (dict(videos='synthetic:x'), 'synthetic:train'),
    (dict(videos=''), 'give --videos'),
  ],
)
def test_mistakes(options, message, tmp_path):
  out = tmp_path / 'a.safetensors'
  done = run(**{'out': out} | options)
  assert done.returncode == 2 and message in done.stderr, done.stderr
  assert done.stderr.count('\n') == 1 and not out.exists()
