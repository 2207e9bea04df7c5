"""SALT: predicts the latents of a frozen encoder that was trained on pixels, with masks of blocks.

Paper: Rethinking JEPA: Compute-Efficient Video SSL with Frozen Teachers, arXiv 2509.24317. Its code
is not public, and the paper's details were not available: this follows the abstract.

  python -m vmae_jax.pretrain --config=configs/salt.py:s,k400_teacher --workdir=runs/salt_teacher \
    --config.data.train=lists/k400_train.txt
  python -m vmae_jax.pretrain --config=configs/salt.py:b,k400 --workdir=runs/salt_b_k400 \
    --config.data.train=lists/k400_train.txt --config.teachers.pixels.path=runs/salt_teacher

Arguments as in videomae.py, which also has all values that are not named here, and
ARGUMENT_teacher for the first stage, which reconstructs pixels.

From the abstract: two stages, no moving average, V-JEPA's masks in both, small teachers suffice.
Our choice: V-JEPA's predictor, loss and normalisation (vjepa.py) for the second stage; VideoMAE's
decoder and normalised pixels for the first; VideoMAE's recipe in both.

Cost of a step of the second stage, ViT-B from B, in GFLOP a clip (counted): 785, of which 361 are
the teacher, which sees all tokens (VideoMAE: 203).
Expected: above V-JEPA 2 at equal FLOPs (the abstract). Here: not trained at this size yet.
"""

from configs import videomae, vjepa
from vmae_jax.config import TEACHER

STAGE_1 = '_teacher'


def get_config(arg=None):
  first = (arg or '').endswith(STAGE_1)
  arg = arg and arg.removesuffix(STAGE_1)
  c = videomae.get_config(arg, file='configs/salt.py')
  c.method = 'salt'
  vjepa.masks(c, arg)
  if not first:
    vjepa.latents(c, arg, teacher='pixels')
    c.teachers.pixels = dict(TEACHER, path='untrained' if arg == 'smoke' else '')
  return c
