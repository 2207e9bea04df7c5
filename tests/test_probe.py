"""The probe's entry point, from videos to its table."""

import json
import subprocess
import sys

import jaxtyping

from tests import started
from tests.data.clips_on_disk import write_video
from tests.fresh_run import save_fresh_run


def test_all_probes_of_a_run(tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  save_fresh_run(tmp_path / 'run')
  for i in range(4):
    write_video(tmp_path / f'{i}.mp4', frames=12, height=32, width=32)
  lines = [f'{i % 4}.mp4 {i % 2}\n' for i in range(20)]
  (tmp_path / 'train.txt').write_text(''.join(lines))
  (tmp_path / 'val.txt').write_text(''.join(lines[:6]))
  command = [sys.executable, '-m', 'vmae_jax.probe', '--checkpoint=run', '--train=train.txt']
  command += ['--val=val.txt', '--probes=knn,linear_plain,attentive', '--epochs=1']
  command += ['--batch_size=10', '--cache_gb=0']
  environment = started.environment()
  done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  titles = 'k-NN top-1  linear without BatchNorm top-1  attentive top-1'
  assert done.stdout.splitlines()[0].strip() == titles
  found = json.loads((tmp_path / 'run' / 'probe.json').read_text())
  assert found['clips'] == {'train': 20, 'val': 6} and found['largest_class'] == 0.5
  for row in found['accuracy'].values():
    assert list(row) == ['knn', 'linear_plain', 'attentive']
    assert all(0 <= result['top1'] <= 1 for result in row.values())
    assert row['attentive']['best_top1'] >= row['attentive']['top1']
