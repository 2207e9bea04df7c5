"""Compares methods under the same conditions: arms x seeds of a study, with intervals.

  python -m vmae_jax.compare configs/compare.py:demo --workdir=runs/study

Trains and measures all missing runs, one after the other, and writes results.json, results.md and
figures. The same command continues after a stop. On a cluster, use one job for each run: `--list`
prints the names of the runs, and `--only=ARM,SEED` does one of them, as in

  python -m vmae_jax.compare configs/compare.py:demo --workdir=DIR \
    --only=$(python -m vmae_jax.compare configs/compare.py:demo --list | \
      sed -n $((SLURM_ARRAY_TASK_ID + 1))p)
"""

import argparse

from vmae_jax import cli
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser('python -m vmae_jax.compare', description=__doc__.split('\n')[0])
  parser.add_argument(
    'study', metavar='STUDY', help='FILE:ARGUMENT, such as configs/compare.py:demo'
  )
  parser.add_argument('--workdir', help='folder for runs and results')
  parser.add_argument('--only', metavar='ARM,SEED', help='do only this run')
  parser.add_argument('--list', action='store_true', help='print the names of all runs and exit')
  args = parser.parse_args(argv[1:])
  from vmae_jax.compare.study import Study, run_study

  study = Study(load_config(args.study))
  if args.list:
    print('\n'.join(f'{arm},{seed}' for arm, seed in study.runs()))
    return
  if args.workdir is None:
    raise UserError('give --workdir=DIR, a folder for runs and results.')
  run_study(study, cli.here(args.workdir, 'workdir'), only=args.only)


if __name__ == '__main__':
  cli.run(main, absl_flags=False, trains=True)
