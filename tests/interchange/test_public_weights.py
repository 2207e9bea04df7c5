"""A user's way from public weights through a run to PyTorch, command by command."""

import subprocess
import sys

import numpy as np
import pytest

from tests import started
from tests.data.clips_on_disk import write_video
from vmae_jax.interchange import selfcheck
from vmae_jax.interchange.convert import convert
from vmae_jax.interchange.runs import load_run


def save_public(path):
  """A folder of transformers as one downloads it, with random weights and small sizes."""
  import torch
  import transformers

  sizes = dict(image_size=32, patch_size=8, num_frames=8, hidden_size=128, num_hidden_layers=4)
  sizes |= dict(num_attention_heads=4, intermediate_size=512, decoder_num_attention_heads=4)
  sizes |= dict(decoder_hidden_size=128, decoder_num_hidden_layers=2, decoder_intermediate_size=512)
  torch.manual_seed(0)
  config = transformers.VideoMAEConfig(**sizes, use_mean_pooling=False)
  transformers.VideoMAEForPreTraining(config).save_pretrained(path)


@pytest.mark.full
def test_public_weights_to_a_run_and_the_run_to_transformers(tmp_path):
  """Three commands of a user: a folder of transformers in, pre-training, and out again."""
  import torch
  import transformers

  save_public(tmp_path / 'public')
  report = convert(tmp_path / 'public', tmp_path / 'ours', to='orbax')
  assert 'public in transformers: largest difference' in report
  assert 'the eps is 1e-12, as config.json says' in report
  started.run(
    tmp_path / 'run',
    *(f'init_from={tmp_path / "ours"}', 'steps=2', 'model.eps=1e-12', 'log.pictures=1'),
    env=started.environment(),
  )
  report = convert(tmp_path / 'run', tmp_path / 'out', to='huggingface')
  assert 'out in transformers: largest difference' in report
  params, info = load_run(tmp_path / 'run')
  assert not np.array_equal(
    params['encoder']['embed']['kernel'],
    load_run(tmp_path / 'ours')[0]['encoder']['embed']['kernel'],
  )
  # What anyone loads is what was trained.
  model, loading = transformers.VideoMAEForPreTraining.from_pretrained(
    tmp_path / 'out', output_loading_info=True
  )
  assert not any(loading.values())
  model.decoder.norm.eps = 1e-12
  video = torch.from_numpy(selfcheck.fixed_clip(info).transpose(0, 1, 4, 2, 3).copy())
  hidden = torch.from_numpy(selfcheck.fixed_mask(info))[None]
  with torch.no_grad():
    theirs = model.eval()(video, bool_masked_pos=hidden).logits.numpy()
  ours = selfcheck.our_outputs(params, info)['pixels']
  assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.full
@pytest.mark.slow
def test_public_weights_are_fine_tuned_and_go_back(tmp_path):
  """The README's three commands, as a user types them: in, fine-tuned, out."""
  import torch
  import transformers

  save_public(tmp_path / 'public')
  overrides = ['steps=2', 'model.eps=1e-12', 'mixing.chance=0.0', 'test.crops=1']
  for i in range(6):
    write_video(tmp_path / f'{i}.mp4', frames=12)
  (tmp_path / 'list.txt').write_text(''.join(f'{i}.mp4 {i % 3}\n' for i in range(6)))
  overrides += [f'data.{part}={tmp_path}/list.txt' for part in ('train', 'val')]
  overrides.append(f'init_from={tmp_path}/weights')
  for command in (
    ['convert', tmp_path / 'public', '--to=orbax', f'--out={tmp_path}/weights'],
    ['finetune', f'--config={started.ROOT}/configs/finetune.py:smoke', f'--workdir={tmp_path}/run']
    + [f'--config.{x}' for x in overrides],
    ['convert', tmp_path / 'run', '--to=huggingface', f'--out={tmp_path}/export'],
  ):
    done = subprocess.run(
      [sys.executable, '-m', f'vmae_jax.{command[0]}', *map(str, command[1:])],
      env=started.environment(),
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    if command[0] == 'finetune':
      assert '100.0% of the encoder' in done.stdout
  model, loading = transformers.VideoMAEForVideoClassification.from_pretrained(
    tmp_path / 'export', output_loading_info=True
  )
  assert not any(loading.values()) and model.config.num_labels == 3
  params, info = load_run(tmp_path / 'run')
  model.fc_norm.eps = info['eps']
  video = selfcheck.fixed_clip(info)
  with torch.no_grad():
    theirs = model.eval()(torch.from_numpy(video.transpose(0, 1, 4, 2, 3).copy())).logits.numpy()
  ours = selfcheck.our_outputs(params, info)['logits']
  assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
