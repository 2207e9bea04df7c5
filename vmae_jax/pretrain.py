"""Pre-trains a video masked autoencoder.

  python -m vmae_jax.pretrain --config=configs/videomae.py:b,k400 --workdir=runs/b_k400 \
    --config.data.train=lists/k400_train.txt

Any value of the config can be set with --config.KEY=VALUE. The same command continues where
an earlier one stopped. On several hosts start the same command on each with --distributed.
"""

from vmae_jax import cli

RUN = cli.define_run('configs/videomae.py')


def main(argv):
  config, workdir = RUN(argv)
  from vmae_jax.training.pretraining import train  # Not before: importing it may touch devices.

  train(config, workdir)


if __name__ == '__main__':
  cli.run(main, trains=True)
