"""Does motion help? Studies for `python -m vmae_jax.compare`.

  python -m vmae_jax.compare configs/compare.py:demo --workdir=runs/study

A study has `arms` (name -> a run's config), `baseline` (the arm that the others are compared with),
`seeds`, `measures` (arguments of `vmae_jax.compare.measures.Measures`), `finetuning` (name -> a
config to fine-tune each run with) and, for arms that predict codes, `tokenizer`. Here `demo` has
one seed and `full` has all. `frozen` is `full` without fine-tuning; `full` in the same workdir adds
it to these runs. `gate` is only the baseline and the same model untrained: run it first, since
other arms mean nothing unless the baseline is better. For your own data, change data.train of the
arms, and LABELS, which are lists of the same videos with different labels.
"""

import ml_collections

from configs import finetune, mam2, mgmae, mme, motionmae, videomae
from vmae_jax.errors import lookup

SET = 'frames=8,size=24'
LABELS = {
  label: (
    f'synthetic:train,{SET},label={label},clips=2304',
    f'synthetic:val,{SET},label={label},clips=1152',
  )
  for label in ('motion', 'look')
}
SEEDS = (1, 2, 3, 4, 5)
SPEEDS = (25, 50, 100, 150, 200)  # In per cent; 100 is 0.9 to 2.4 pixels a frame.
MOTIONS = f'synthetic:val,{SET},label=motion,clips=1152,speed={{}}'


def get_config(arg='demo'):
  c = ml_collections.ConfigDict()
  c.arms = {'pixels': videomae.get_config('demo')} if arg == 'gate' else arms()
  for config in c.arms.values():
    config.log.pictures_every_steps = config.steps
    config.checkpoint.every_steps = config.checkpoint.keep_every_steps = config.steps // 2
  c.baseline = 'pixels'
  # Without seed 0, with which the demo's settings were chosen.
  seeds = {'demo': (1,), 'gate': (100, 101), 'frozen': SEEDS, 'full': SEEDS}
  c.seeds = lookup(seeds, arg, 'configs/compare.py')
  c.measures = dict(
    labels=LABELS,
    probes=('knn', 'linear', 'attentive'),
    epochs=60,
    rates=(5e-3, 3e-3, 1e-3),
    order_gap=('motion',),
    held_out={'motion': [(f'{x} % of the speed', MOTIONS.format(x / 100)) for x in SPEEDS]},
    arrow=False,  # For your own data: synthetic clips played backwards look like others of the set.
  )
  c.finetuning = {
    f'{label} of {clips} clips': classifier(label, clips)
    for label in LABELS
    for clips in (82, 819, 8192)  # 1 %, 10 % and all clips.
    if arg != 'frozen'
  }
  c.tokenizer = dict(videos=f'synthetic:train,{SET}', factor=4, codes=256)
  c.tokenizer.update(size=24, steps=400, batch=64, stride=2, seed=0)
  return c


def classifier(label, clips):
  """A config of fine-tuning with the labels of this number of clips."""
  c = finetune.get_config('demo')
  c.data.train = f'synthetic:train,{SET},label={label},clips={clips}'
  c.data.val = f'synthetic:val,{SET},label={label},clips=1152'
  c.batch_size, c.steps = 16, 800
  # Chosen with 8,192 clips labelled by motion, from `pixels` and MotionMAE of seed 0, which reached
  # 56 and 72 %.
  c.optimizer.base_lr, c.optimizer.layer_decay = 1.6e-2, 1.0
  c.optimizer.warmup_epochs = 50 * c.batch_size / clips
  c.test.every_epochs, c.test.segments = 0.0, 1
  c.checkpoint.every_steps = c.steps
  return c


def arms():
  """The methods' demos, with the same encoder, data, batches and schedule; controls; crossovers."""
  twice = motionmae.get_config('demo')
  twice.heads.motion = twice.heads.pixels.copy_and_resolve_references()
  other = motionmae.get_config('demo')
  other.heads.motion.other_clip = True
  flow = motionmae.get_config('demo')
  flow.heads.motion.target, flow.heads.motion.options = 'optical_flow', {}
  guided = motionmae.get_config('demo')
  guided.masking = mgmae.get_config('demo').masking
  tubes = motionmae.get_config('demo')
  tubes.masking = videomae.get_config('demo').masking
  return {
    'pixels': videomae.get_config('demo'),
    'MotionMAE': motionmae.get_config('demo'),
    'MAM2': mam2.get_config('demo'),
    'MME': mme.get_config('demo'),
    'MGMAE': mgmae.get_config('demo'),
    'pixels and flow': flow,
    'pixels and differences, tubes': tubes,
    'pixels and differences, guided masks': guided,
    'differences of another clip': other,  # A control: the same scale and cost, no information.
    'pixels twice': twice,  # A control: a second head without another target.
  }
