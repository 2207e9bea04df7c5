"""V-JEPA: predicts the latents of the model's own moving average, with masks of blocks.

Paper: Bardes et al., Revisiting Feature Prediction for Learning Visual Representations from Video,
2024, arXiv 2404.08471, and its released code.

  python -m vmae_jax.pretrain --config=configs/vjepa.py:l,k400 --workdir=runs/vjepa_l_k400 \
    --config.data.train=lists/k400_train.txt

Arguments as in videomae.py, which also has all values that are not named here.

From the paper: masks of blocks, 8 of 15 % or 2 of 70 % of the picture, about 90 % hidden (section
3.2); a predictor of 12 blocks of width 384 (3.3); the targets are the last tokens of the moving
average for the whole clip, each normalised; L1 (3.1). From the release: as many heads in the
predictor as in the encoder; an EMA decay that rises linearly from 0.998 to 0.9996 (the first four
fifths of a line to 1); gradients clipped to a norm of 10; a peak learning rate of 6.25e-4 and a
final one of 1e-6 for 3,072 clips; AdamW's b2 0.999; weight decay 0.04.
Our choice: one kind of block for each clip and visit (vmae_jax/masking/blocks.py); a constant
weight decay (0.04 to 0.4 there); a warm-up from 0 (2e-4 there); one mask token (one for each kind
of block there); no horizontal flips (half of the clips there); from VideoMAE the crops, batch size,
positions, initial values, a projection without bias and the length in epochs (there 90,000 steps of
3,072 clips, from a mix of 2 million videos); gradients of encoder and predictor are clipped
together and from the start.

`rank_latents` in the log is the effective rank of the targets: if it falls towards 0, the targets
collapse, and the loss falls with them. Everything that reads the run uses the moving average
(`init_weights`).

Cost of a step, ViT-B, in GFLOP a clip (counted): 785, of which 361 are the moving average, which
sees all tokens (VideoMAE: 203).
Expected of the frozen encoder, attentive probe (the paper, ViT-L, its data): K400 80.8, SSv2 69.5.
Here: not trained at this size yet.
"""

from configs import videomae
from vmae_jax.config import TEACHER
from vmae_jax.models.sizes import SIZES


def get_config(arg=None):
  c = videomae.get_config(arg, file='configs/vjepa.py')
  c.method = 'vjepa'
  masks(c, arg)
  latents(c, arg, teacher='average')
  c.teachers.average = dict(TEACHER, path='average')
  c.optimizer.ema, c.optimizer.ema_end = 0.998, 0.9996
  c.optimizer.clip_norm, c.optimizer.b2, c.optimizer.weight_decay = 10.0, 0.999, 0.04
  if arg not in ('demo', 'videos', 'smoke'):
    c.optimizer.base_lr, c.optimizer.base_min_lr = 6.25e-4 / 12, 1e-6 / 12
  else:
    c.optimizer.ema, c.optimizer.ema_end = 0.98, 0.996  # Averages a tenth as many steps.
  return c


def masks(c, arg):
  c.masking.name = 'blocks'
  c.masking.ratio = 0.75 if arg in ('demo', 'videos', 'smoke') else 0.9


def latents(c, arg, *, teacher):
  if arg not in ('demo', 'videos', 'smoke'):
    c.model.decoder_width, c.model.decoder_depth = 384, 12
    c.model.decoder_heads = SIZES[c.model.size]['heads']
  with c.heads.unlocked():
    c.heads = dict(
      latents=dict(
        target='features',
        options=dict(teacher=teacher, layers=(-1,), normalise='token'),
        loss='l1',
        weight=1.0,
        decoder='predictor',
      ),
    )
