"""transformers' VideoMAE in PyTorch: float32 on CPU, bfloat16 autocast on a GPU.

As many tokens are visible as in ours, AdamW is fused, and as many threads compute as ours has.
"""

import numpy as np

from tests.benchmark import contenders
from vmae_jax.models import flops
from vmae_jax.models.decoder import Output
from vmae_jax.models.sizes import SIZES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torch(work: str, size: str, batch: int, *, compiled: bool = False) -> contenders.Ready:
  """Pre-training with tube masks, fine-tuning (both with AdamW) or inference, from uint8 clips."""
  import torch
  import transformers

  torch.set_num_threads(contenders.threads())
  gpu = torch.cuda.is_available()
  device = 'cuda' if gpu else 'cpu'
  config = _config(size, pretraining=work == 'pretrain')
  if work == 'pretrain':
    model = transformers.VideoMAEForPreTraining(config)
  else:
    model = transformers.VideoMAEForVideoClassification(config)
  model = model.to(device).train(work != 'inference')
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
  )
  video = torch.from_numpy(contenders.video(batch))
  mean, std = (torch.tensor(x, device=device).view(1, 1, 3, 1, 1) for x in (MEAN, STD))
  rng = np.random.default_rng(0)
  slots, places = contenders.FRAMES // 2, (contenders.SIZE // 16) ** 2
  hidden = int(0.9 * places)  # 176 of 196, as `vmae_jax.masking.random.tube` hides.

  def more():
    """What the model gets beside clips."""
    if work == 'pretrain':
      tubes = np.stack([np.tile(rng.permutation(places) < hidden, slots) for _ in range(batch)])
      return {'bool_masked_pos': torch.from_numpy(tubes).to(device)}
    return {'labels': torch.arange(batch, device=device)} if work == 'finetune' else {}

  call = torch.compile(model) if compiled else model

  def run():
    clip = video.to(device).permute(0, 1, 4, 2, 3).float() / 255
    with (
      torch.autocast(device, torch.bfloat16, enabled=gpu),
      torch.set_grad_enabled(model.training),
    ):
      out = call((clip - mean) / std, **more())
    if model.training:
      out.loss.backward()
      optimizer.step()
      optimizer.zero_grad(set_to_none=True)
    else:
      out.logits.softmax(-1)
    if gpu:
      torch.cuda.synchronize()

  def peak():
    return torch.cuda.max_memory_allocated() if gpu else contenders.host_peak()

  about = {
    'version': f'torch {torch.__version__}, transformers {transformers.__version__}',
    'device': torch.cuda.get_device_name() if gpu else 'cpu',
    'threads': torch.get_num_threads(),
    'clip_flops': _clip_flops(work, size, visible=slots * (places - hidden), masked=slots * hidden),
  }
  return contenders.Ready(run, peak, about)


def torch_compiled(work: str, size: str, batch: int) -> contenders.Ready:
  """The same under torch.compile."""
  return torch(work, size, batch, compiled=True)


def _clip_flops(work: str, size: str, *, visible: int, masked: int) -> int:
  """Of a step for one clip, from this model's own tokens, counted as ours are."""
  encoder, patch_values = SIZES[size], 2 * 16 * 16 * 3
  if work == 'pretrain':
    forward = flops.autoencoder_flops(
      encoder=encoder,
      decoder=encoder['decoder'],
      heads={'pixels': Output('decoder', patch_values)},
      visible=visible,
      masked=masked,
      patch_values=patch_values,
    )
  else:
    n, width = visible + masked, encoder['width']
    forward = 2 * n * patch_values * width + 2 * width * contenders.CLASSES
    forward += encoder['depth'] * flops.block_flops(n=n, width=width, mlp=encoder['mlp'])
  return forward if work == 'inference' else flops.training_flops(forward)


def _config(size: str, *, pretraining: bool):
  import transformers

  encoder = SIZES[size]
  decoder = encoder['decoder']
  return transformers.VideoMAEConfig(
    num_frames=contenders.FRAMES,
    image_size=contenders.SIZE,
    hidden_size=encoder['width'],
    num_hidden_layers=encoder['depth'],
    num_attention_heads=encoder['heads'],
    intermediate_size=encoder['mlp'],
    decoder_hidden_size=decoder['width'],
    decoder_num_hidden_layers=decoder['depth'],
    decoder_num_attention_heads=decoder['heads'],
    decoder_intermediate_size=decoder['mlp'],
    use_mean_pooling=not pretraining,
    num_labels=contenders.CLASSES,
  )
