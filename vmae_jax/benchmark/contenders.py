"""Processes that `vmae_jax.benchmark.step` runs: one step for each line on standard input."""

import json
import pathlib
import resource
import sys
import time

import numpy as np

from vmae_jax.models.sizes import SIZES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES, SIZE, TOKENS, VISIBLE = 16, 224, 1568, 160


def _video(batch: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (batch, FRAMES, SIZE, SIZE, 3), np.uint8)


def _host_peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def vmae_jax(size: str, batch: int, *, method: str = 'videomae', overrides: dict | None = None):
  """Our step, as `vmae_jax.pretrain` compiles it, of any method in configs/."""
  import jax

  from vmae_jax.config_file import load_config
  from vmae_jax.training.compose import build_objective
  from vmae_jax.training.optimizer import make_optimizer
  from vmae_jax.training.step import init_state, make_train_step

  root = pathlib.Path(__file__).parents[2]
  sys.path.insert(0, str(root))  # Config files import each other.
  config = load_config(f'{root}/configs/{method}.py:{size},k400')
  config.model.scan = jax.default_backend() == 'cpu'
  config.update_from_flattened_dict(overrides or {})
  objective = build_objective(config)
  optimizer = make_optimizer(
    schedule=lambda _: 1e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.05, clip_norm=0.0
  )
  state = jax.jit(lambda key: init_state(objective.init(key), optimizer, ema=0.0))(
    jax.random.key(0)
  )
  step = jax.jit(
    make_train_step(objective.loss, optimizer, accumulate=1, ema=0.0), donate_argnums=0
  )
  index = np.arange(batch, dtype=np.int32)
  data = {'video': _video(batch), 'epoch': index * 0, 'sample': index, 'repeat': index * 0}
  if objective.window:
    shape = (batch, objective.grid[0], objective.window, *data['video'].shape[2:])
    data['window'] = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
  data |= {'replaced': np.zeros(batch, bool)}

  frozen = jax.device_put(objective.frozen)

  def run():
    nonlocal state
    state, metrics = step(state, data, frozen)
    jax.block_until_ready(state)
    return float(metrics['loss'])

  device = jax.devices()[0]

  def peak():
    stats = device.memory_stats()
    return stats['peak_bytes_in_use'] if stats else _host_peak()

  about = {'version': f'jax {jax.__version__}', 'device': device.device_kind}
  return run, peak, about | {'clip_flops': objective.flops()}


def torch(size: str, batch: int, *, compiled: bool = False):
  """transformers' VideoMAE with AdamW: float32 on CPU, bfloat16 autocast on GPU."""
  import torch
  import transformers

  encoder = SIZES[size]
  decoder = encoder['decoder']
  gpu = torch.cuda.is_available()
  device = 'cuda' if gpu else 'cpu'
  config = transformers.VideoMAEConfig(
    hidden_size=encoder['width'],
    num_hidden_layers=encoder['depth'],
    num_attention_heads=encoder['heads'],
    intermediate_size=encoder['mlp'],
    decoder_hidden_size=decoder['width'],
    decoder_num_hidden_layers=decoder['depth'],
    decoder_num_attention_heads=decoder['heads'],
    decoder_intermediate_size=decoder['mlp'],
    use_mean_pooling=False,
  )
  model = transformers.VideoMAEForPreTraining(config).to(device).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=gpu or None
  )
  model_step = torch.compile(model) if compiled else model
  video = torch.from_numpy(_video(batch))
  mean, std = (torch.tensor(x, device=device).view(1, 1, 3, 1, 1) for x in (MEAN, STD))
  rng = np.random.default_rng(0)

  def tube_masks():
    slots = [np.tile(rng.permutation(196) < 176, 8) for _ in range(batch)]
    return torch.from_numpy(np.stack(slots)).to(device)

  def run():
    clip = video.to(device).permute(0, 1, 4, 2, 3).float() / 255
    with torch.autocast(device, torch.bfloat16, enabled=gpu):
      loss = model_step((clip - mean) / std, bool_masked_pos=tube_masks()).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if gpu:
      torch.cuda.synchronize()
    return loss.item()

  def peak():
    return torch.cuda.max_memory_allocated() if gpu else _host_peak()

  name = torch.cuda.get_device_name() if gpu else 'cpu'
  version = f'torch {torch.__version__}, transformers {transformers.__version__}'
  return run, peak, {'version': version, 'device': name}


def torch_compiled(size: str, batch: int):
  """The same under torch.compile."""
  return torch(size, batch, compiled=True)


def main():
  make = {'vmae_jax': vmae_jax, 'torch': torch, 'torch_compiled': torch_compiled}[sys.argv[1]]
  run, peak, about = make(**json.loads(sys.argv[2]))
  print(json.dumps(about), flush=True)
  for line in sys.stdin:
    if line.strip() == 'memory':
      answer = {'bytes': peak()}
    else:
      start = time.perf_counter()
      loss = run()
      answer = {'seconds': time.perf_counter() - start, 'loss': loss}
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
