"""Does motion help? Studies for `python -m vmae_jax.compare`.

  python -m vmae_jax.compare configs/compare.py:demo --workdir=runs/study

A study has `arms` (name -> a run's config), `baseline` (one of them, which the others are compared
with), `seeds` and `measures` (arguments of `vmae_jax.compare.measures.Measures`). Here `demo` has
one seed, `full` all, and `gate` the baseline alone beside its untrained twin. For data of your own,
change what `shared` calls data.train, and LABELS: any lists of the same videos with other labels
will do.
"""

import ml_collections

from configs import mam2, mgmae, mme, motionmae, videomae

SIZE = 24  # Pixels a side.
SET = f'frames=8,size={SIZE}'
LABELS = {
  label: (
    f'synthetic:train,{SET},label={label},clips=2304',
    f'synthetic:val,{SET},label={label},clips=1152',
  )
  for label in ('motion', 'look')
}


def get_config(arg='demo'):
  c = ml_collections.ConfigDict()
  c.arms = {'pixels': videomae.get_config('demo')} if arg == 'gate' else arms()
  for config in c.arms.values():
    shared(config)
  c.baseline = 'pixels'
  c.seeds = {'demo': (0,), 'gate': (100, 101), 'full': (0, 1, 2, 3, 4)}[arg]
  c.measures = dict(labels=LABELS, order_gap=('motion',), arrow=True)
  return c


def arms():
  """All of them differ from the baseline in masks or in what is predicted, and in nothing else."""
  twice = motionmae.get_config('demo')
  twice.heads.motion = twice.heads.pixels.copy_and_resolve_references()
  return {
    'pixels': videomae.get_config('demo'),
    'MotionMAE': motionmae.get_config('demo'),
    'MAM2': mam2.get_config('demo'),
    'MME': mme.get_config('demo'),
    'MGMAE': mgmae.get_config('demo'),
    'pixels twice': twice,
  }


def shared(c):
  """What all arms share; tuned on other seeds, with the baseline."""
  c.data.train, c.data.size = f'synthetic:train,{SET}', SIZE
  c.model.patch = (2, 4, 4)
  c.masking.ratio = 0.75
  c.steps = 2400
  c.log.pictures_every_steps = c.steps
  c.checkpoint.every_steps = c.checkpoint.keep_every_steps = c.steps // 2
