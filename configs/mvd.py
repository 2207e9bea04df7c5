"""MVD: the tokens of two frozen teachers, one of images and one of videos.

Paper: Wang et al., Masked Video Distillation, CVPR 2023, arXiv 2212.04500, and its released code.

  python -m vmae_jax.pretrain --config=configs/mvd.py:b,k400_image --workdir=runs/images_b \
    --config.data.train=lists/k400_train.txt
  python -m vmae_jax.pretrain --config=configs/mvd.py:b,k400 --workdir=runs/mvd_b_k400 \
    --config.data.train=lists/k400_train.txt \
    --config.teachers.video.path=videomae_b_k400_1600.pth --config.teachers.image.path=runs/images_b

Arguments as in videomae.py, which also has all values that are not named here, and ARGUMENT_image
to train an image teacher: a masked autoencoder of single frames. A teacher is any run, or a
checkpoint of another implementation, with the same patches. A teacher that was trained on single
frames sees the first frame of each time slot.

From the paper: tube masks of 90 %. Each teacher has its own decoder, 2 blocks of the encoder's
width, which predicts the teacher's last tokens after its last LayerNorm; smooth L1, 1:1; 400
epochs, a learning rate that ends at 1e-4 for 1,024 clips.
Our choice: no drop path (0.1 there), VideoMAE's positions in the student, no bias between encoder
and decoder. The paper's image teacher, MAE's own image weights, cannot be loaded (class token,
two-dimensional positions): the paper's results are with another teacher.

Cost of a step, ViT-B from B, in GFLOP a clip (counted): 1,095, of which 361 are the video teacher
and 280 the image teacher, as both see all tokens (VideoMAE: 203).
Expected after fine-tuning (the authors' model zoo, top-1): B from B, 400 epochs: SSv2 72.5, K400
82.7; B from L: 73.7, 83.4; L from L, 800 epochs: 76.7, 86.4. Here: not trained at this size yet.
"""

from configs import videomae
from vmae_jax.config import TEACHER
from vmae_jax.models.sizes import SIZES

IMAGE = '_image'


def get_config(arg=None):
  of_images = (arg or '').endswith(IMAGE)
  arg = arg and arg.removesuffix(IMAGE)
  c = videomae.get_config(arg, file='configs/mvd.py')
  if of_images:
    c.method, c.data.frames, c.model.patch = 'mvd_image', 1, (1, *c.model.patch[1:])
    c.masking.ratio = 0.75
    return c
  c.method = 'mvd'
  c.epochs = c.epochs and 400.0
  c.optimizer.base_min_lr = 2.5e-5  # Times 4: 1e-4.
  c.model.decoder_width = SIZES[c.model.size]['width']
  c.model.decoder_heads = SIZES[c.model.size]['heads']
  c.model.decoder_depth = 2
  c.teachers = {name: dict(TEACHER) for name in ('image', 'video')}
  if arg == 'smoke':
    c.teachers.image.path = c.teachers.video.path = 'untrained'
  with c.heads.unlocked():
    c.heads = {
      name: dict(
        target='features',
        options=dict(teacher=name, layers=(-1,)),
        loss='smooth_l1',
        weight=1.0,
        decoder=f'{name}_decoder',
      )
      for name in c.teachers
    }
  return c
