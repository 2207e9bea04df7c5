"""MGM: one hidden block that moves with the motion vectors of the video's codec.

Paper: Fan et al., Motion-Guided Masking for Spatiotemporal Representation Learning, ICCV 2023,
arXiv 2308.12962. Its code is not public.

  python -m vmae_jax.pretrain --config=configs/mgm.py:b,k400 --workdir=runs/mgm_b_k400 \
    --config.data.train=lists/k400_train.txt

Arguments as in videomae.py, which also has all values that are not named here.

From the paper (abstract, introduction): the mask follows the codec's motion vectors over time, and
pixels are predicted. The paper compares with random masks of 90 %, which it says hide too much.
Our choice, as the rest of the text was not available: 75 % hidden, as one rectangle that starts
where things move and follows them (vmae_jax/masking/moving_block.py); how vectors with several
references, blocks without vectors, and steps between the frames of a clip are handled
(vmae_jax/motion/codec.py).

Decoders give vectors for H.264, MPEG-1, 2, 4 and H.263, but not for H.265, VP9, AV1, pictures and
TFDS. In clips without vectors the block does not move. In the log, `codec_clips` is the share of
clips that have vectors, and `codec_cells` the share of their grids' cells that have one.
`prepare --shards` encodes all videos with H.264. Clips of the synthetic set are encoded, too.
--config.motion.name=inverse_search estimates motion instead.

Cost of a step, ViT-B, in GFLOP a clip (counted): 336, as with tubes of 75 % (tubes of 90 %: 203).
Expected after fine-tuning, ViT-B: K400 80.8 (800 epochs) and 81.7 (1600), from a later paper's
table; the abstract says up to 1.3 points above earlier work on K400 and SSv2. Here: not trained at
this size yet.
"""

from configs import videomae


def get_config(arg=None):
  c = videomae.get_config(arg, file='configs/mgm.py')
  c.method = 'mgm'
  c.masking.name, c.masking.ratio = 'moving_block', 0.75
  c.motion.name = 'codec'
  return c
