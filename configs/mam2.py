"""MAM2: masked appearance (codes of a frozen VQGAN) and motion (frame differences).

Paper: Song et al., It Takes Two: Masked Appearance-Motion Modeling for Self-supervised Video
Transformer Pre-training, arXiv 2210.05234. Its authors have published no code.

  python -m vmae_jax.convert vqgan_gumbel_f8_8192.ckpt --out=tokenizers/gumbel_f8.safetensors
  python -m vmae_jax.pretrain --config=configs/mam2.py:b,k400 --workdir=runs/mam2_b_k400 \
    --config.data.train=lists/k400_train.txt \
    --config.tokenizer.path=tokenizers/gumbel_f8.safetensors

Arguments: SIZE,DATASET with SIZE in tiny s b l h giant, DATASET in k400 ssv2 ucf101 few; `demo`,
`videos`, `smoke` as in videomae.py, which also has all values that are not named here. The
tokenizer is one of taming-transformers' VQGANs, or one trained on your own videos:

  python -m vmae_jax.train_tokenizer --videos=lists/k400_train.txt --out=tokenizers/own.safetensors

From the paper: an encoder, a regressor and two separate decoders; VQGAN codes as appearance;
RGB differences as motion, the best of the targets it tried; 400 epochs on K400.
From Context Autoencoder, on which it builds: the blocks of regressor and decoders, 4 of each with
the encoder's width, layer scales that start at 0.1, alignment with the encoder's own latents with
weight 2.
Our choice, as the paper's details were not available: tube masks and VideoMAE's recipe; codes of
the first frame of each time slot; differences of consecutive frames over a fixed scale; a weight
of 1 for motion; 400 epochs on the other sets, too (small ones, such as UCF101, may need more). Only
a random fifth of the masked tokens is regressed, aligned and decoded (decoder_masking), because
with all of them a step costs as much as seven VideoMAE steps.

The paper also tried optical flow in place of differences:
--config.heads.motion.target=optical_flow, with the estimator motion.name (for `demo`, `videos` and
`smoke` add --config.heads.motion.options.scale=2, as their scale is for differences). Without
alignment and the cost of its latents: --config.regressor.alignment_weight=0. Other widths:
--config.regressor.width=512 --config.regressor.heads=8, and c.decoders as in trackmae.py.

Cost of a step, ViT-B, in GFLOP a clip (16 x 224 x 224, 160 visible tokens), and over VideoMAE's:

  decoder_masking.ratio    tokens    without tokenizer    with Gumbel f8 (264 a clip)
  none                      1,408     1,414  (7.0)            1,678  (8.3)
  0.5                         704       679  (3.3)              943  (4.7)
  0.75                        352       366  (1.8)              630  (3.1)
  0.8 (default)               282       308  (1.5)              572  (2.8)
  0.875                       176       224  (1.1)              488  (2.4)

VQGAN f16 at 224 costs 847 a clip. Counted by `Method.flops` (VideoMAE: 203). Measured on a CPU
(tests/benchmark): the default takes 2.39 times as long as a VideoMAE step with Gumbel f8, and 1.37
times with a very small tokenizer; for ViT-S 3.84 and 1.14, as the tokenizer does not shrink.
Expected after fine-tuning (the abstract, ViT-B, top-1): K400 82.3, SSv2 71.3, UCF101 91.5,
HMDB51 62.5.
Measured here: the demo's frozen encoder, attentive probe, made-up clips, mean of five seeds:
63.7 of 100 on motions and 15.7 on looks; untrained 58.0 and 15.1 (vmae_jax/compare).
"""

from configs import videomae
from vmae_jax.models.sizes import SIZES


def get_config(arg=None):
  c = videomae.get_config(arg, file='configs/mam2.py')
  c.method = 'mam2'
  c.epochs = c.epochs and 400.0
  c.regressor.name = 'latent'
  c.model.decoder_width = SIZES[c.model.size]['width']
  c.model.decoder_heads = SIZES[c.model.size]['heads']
  c.model.decoder_depth = 4
  c.decoder_masking.name, c.decoder_masking.ratio = 'random', 0.8
  small = arg in ('demo', 'videos', 'smoke')
  if small:  # Ours: masks from which a small model learns sooner, and a scale for strong motion.
    c.masking.name = 'per_slot'
    c.model.decoder_depth = c.regressor.depth = 1 if arg == 'demo' else 2
    if arg == 'demo':  # With an alignment weight of 2, so small an encoder ends at chance.
      c.decoder_masking.ratio, c.regressor.alignment_weight = 0.5, 0.1
    else:
      c.decoder_masking.name = 'none'
  if arg == 'smoke':
    c.tokenizer.path = 'untrained'
  with c.heads.unlocked():
    c.heads = dict(
      appearance=dict(
        target='codes',
        options=dict(frames='first'),
        loss='cross_entropy',
        weight=1.0,
        decoder='appearance_decoder',
      ),
      motion=dict(
        target='frame_difference',
        options=dict(normalise='global', scale=0.12) if small else dict(normalise='global'),
        loss='mse',
        weight=1.0,
        decoder='motion_decoder',
      ),
    )
  return c
