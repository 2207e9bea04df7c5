"""Fine-tuning as a classifier of videos, and the multi-view test.

  python -m vmae_jax.finetune --config=configs/finetune.py:b,k400 --workdir=runs/b_k400_ft \
    --config.init_from=runs/b_k400 \
    --config.data.train=lists/k400_train.txt --config.data.val=lists/k400_val.txt

Arguments: SIZE,DATASET with SIZE in tiny s b l h giant, DATASET in

  k400 ssv2 ucf101      VideoMAE's, after its longest pre-training (1600, 2400, 3200 epochs)
  k400_800 ssv2_800     VideoMAE's for ViT-B after 800 epochs, without repeated augmentation
  k400_mgmae ssv2_mgmae                       MGMAE's
  k400_mme ssv2_mme ucf101_mme hmdb51_mme     MME's, after pre-training on K400

or a word: `demo` (the synthetic set, minutes on a laptop), `videos` (a few videos of your own),
`smoke` (seconds). With SIZE,DATASET the number of classes is DATASET's: for your own data add
--config.data.classes=0, which counts the classes of data.train.

MotionMAE and MAM2 have published no recipe; MotionMAE tests UCF101 with 10 x 3 views. VideoMAE has
no script for HMDB51. If a paper has no recipe for a size, its recipe for ViT-B is used.

Numbers in RECIPES are as in the papers' scripts: videos in a step, the learning rate for 256 of
them, epochs over the videos; `recipe` converts them to clips. MME's scripts give the batch only for
SSv2: here K400 has VideoMAE's 384, UCF101 and HMDB51 have 128.

As in the released code: the frames of a clip (data.sampling: 'linspace', or 'segment' for SSv2),
the views of the test, initial values of the classifier, and the resizing of frames to 224 x 224
(data.resampling). 'bilinear' interpolates between the four nearest pixels, of the crop in training
(as F.interpolate) and of the whole frame in validation and test (as cv2.resize, shorter side to
224); pixels are equal to within one level of 255. 'antialiased', the default of other configs,
averages when it shrinks frames. Its clips are smoother, on average 0.4 (176 x 144) to 3.4 levels
(480 x 368) away from 'bilinear' in a test, and weights fine-tuned with 'bilinear' do not expect it.

Our choices, which differ from the released code: validation uses the middle clip; mixing ratios are
drawn for each clip; SSv2's training segments cover the whole video (there the last 0 to 15 frames,
the rest of a division by 16, are left out, and a video shorter than 16 frames is a still); no video
of an epoch is dropped (there are epochs x floor(videos / batch) steps: 0.02 % fewer for K400 with
384 videos, 0.7 % for UCF101, 3 % for HMDB51); the last weights are tested, as choosing the best
ones would need the test videos.

Expected (the authors' model zoos, ViT-B, top-1): VideoMAE K400 81.5, SSv2 70.8, UCF101 91.3; MGMAE
K400 81.8, SSv2 72.3; MME, pre-trained on K400: K400 81.8, SSv2 71.5, UCF101 96.5, HMDB51 78.0.
"""

from vmae_jax import config as base
from vmae_jax import config_finetuning

# Recipe -> size -> what differs from config_finetuning.default(); sizes not given are as 'b'.
RECIPES = {
  'k400': {
    's': dict(videos=384, repeats=2, lr=5e-4, epochs=150),
    'b': dict(videos=384, repeats=2, lr=5e-4, epochs=75),
    'l': dict(videos=128, repeats=2, lr=2e-3, epochs=35),
    'h': dict(videos=512, repeats=2, lr=1e-3, min_lr=1e-5, epochs=50, drop_path=0.2, dropout=0.5),
  },
  'k400_800': {'b': dict(videos=512, repeats=1, lr=1e-3, epochs=100)},
  'k400_mgmae': {'b': dict(videos=512, repeats=2, lr=7e-4, epochs=90)},
  'k400_mme': {'b': dict(videos=384, repeats=2, lr=1e-3, epochs=75, segments=7, crop=0.25)},
  'ssv2': {
    's': dict(videos=384, repeats=2, lr=1e-3, epochs=40, layer_decay=0.7),
    'b': dict(videos=384, repeats=2, lr=5e-4, epochs=30),
  },
  'ssv2_800': {'b': dict(videos=512, repeats=1, lr=5e-4, epochs=50)},
  'ssv2_mgmae': {'b': dict(videos=256, repeats=2, lr=2e-3, epochs=25, layer_decay=0.65)},
  'ssv2_mme': {'b': dict(videos=448, repeats=2, lr=5e-4, epochs=30, crop=0.25)},
  'ucf101': {
    'b': dict(
      **dict(videos=128, repeats=2, lr=5e-4, min_lr=1e-5, epochs=100),
      **dict(layer_decay=0.7, drop_path=0.2, dropout=0.5),
    ),
  },
  'ucf101_mme': {'b': dict(videos=128, repeats=2, lr=1e-3, epochs=100, segments=10, crop=0.25)},
  'hmdb51_mme': {'b': dict(videos=128, repeats=2, lr=1e-3, epochs=100, segments=10, crop=0.25)},
}
CLASSES = {'k400': 400, 'ssv2': 174, 'ucf101': 101, 'hmdb51': 51}


def get_config(arg=None):
  size, variant = base.parse_arg(
    arg,
    words=('demo', 'videos', 'smoke'),
    datasets=(*RECIPES, 'hmdb51'),
    file='configs/finetune.py',
  )
  c = config_finetuning.default()
  if size is None:
    WORDS[variant](c)
    return c
  base.set_size(c, size)
  if size == 'giant':
    c.model.position_grid = (8, 16, 16)
  sizes = RECIPES['hmdb51_mme' if variant == 'hmdb51' else variant]
  papers(c, **sizes.get(size, sizes['b']))
  dataset = variant.split('_')[0]
  c.data.classes = CLASSES[dataset]
  if dataset == 'ssv2':
    # Some classes differ only in left and right. Frames are from the whole video.
    c.data.flip, c.data.sampling, c.test.segments = False, 'segment', 2
  return c


def papers(
  c, *, layer_decay=0.75, drop_path=0.1, dropout=0.0, segments=5, crop=0.08, **batch_and_length
):
  config_finetuning.recipe(c, **batch_and_length)
  c.optimizer.layer_decay = layer_decay
  c.model.drop_path, c.model.dropout = drop_path, dropout
  c.test.segments, c.data.crop_area = segments, (crop, 1.0)
  c.data.sampling, c.data.resampling = 'linspace', 'bilinear'


def demo(c):
  """Ours: the synthetic set's motions, which include directions; small, for two CPU cores."""
  c.model.size = 'demo'
  c.model.scan = True  # Compiles in half the time.
  c.model.patch, c.model.position_grid = (2, 4, 4), (4, 6, 6)
  c.model.drop_path = 0.0
  c.data.train, c.data.val = (f'synthetic:{s},frames=8,size=24' for s in ('train', 'val'))
  c.data.frames, c.data.size, c.data.stride = 8, 24, 1
  c.data.crop, c.data.flip, c.data.repeats = 'centre', False, 1
  c.data.randaugment.operations, c.data.erase = 0, 0.0
  c.mixing.chance = 0.0
  c.batch_size, c.epochs, c.steps = 32, 0.0, 400
  c.optimizer.base_lr, c.optimizer.base_min_lr = 8e-3, 8e-5
  c.optimizer.warmup_epochs, c.optimizer.clip_norm = 0.2, 1.0
  c.test.every_epochs, c.test.segments, c.test.crops = 0.5, 2, 1
  c.test.batch_size = 64
  c.checkpoint.every_steps = 100


def videos(c):
  """Ours: real videos, few and small, on a laptop, with the whole recipe of augmentations."""
  demo(c)
  c.data.train = c.data.val = ''
  c.model.patch = (2, 8, 8)
  c.model.drop_path = 0.1
  c.data.size, c.data.stride, c.data.repeats = 64, 4, 2
  c.model.position_grid = (4, 8, 8)
  c.data.crop, c.data.crop_area = 'resized', (0.25, 1.0)
  c.data.randaugment.operations, c.data.erase = 4, 0.25
  c.mixing.chance = 1.0
  c.batch_size, c.steps = 16, 200
  c.optimizer.base_lr, c.optimizer.warmup_epochs = 1.6e-2, 2.0
  c.test.every_epochs, c.test.segments, c.test.crops = 0.0, 5, 3


def smoke(c):
  """Ours: a few steps with everything switched on, to check that it works."""
  videos(c)
  c.data.train, c.data.val = 'synthetic:train', 'synthetic:val'
  c.data.size, c.data.stride, c.data.flip = 32, 1, False
  c.model.position_grid = (4, 4, 4)
  c.model.dropout = 0.1
  c.steps, c.batch_size = 6, 8
  c.test.segments, c.test.crops, c.test.batch_size = 1, 1, 64
  c.checkpoint.every_steps = 3


WORDS = {'demo': demo, 'videos': videos, 'smoke': smoke}
