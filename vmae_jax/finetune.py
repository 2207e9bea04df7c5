"""Fine-tunes a pre-trained encoder as a classifier of videos, and tests it.

  python -m vmae_jax.finetune --config=configs/finetune.py:b,k400 --workdir=runs/b_k400_ft \
    --config.init_from=runs/b_k400 \
    --config.data.train=lists/k400_train.txt --config.data.val=lists/k400_val.txt

`init_from` is a run or checkpoint of vmae_jax, a folder of transformers, or a .pth or .safetensors
file of the official code. For classes of your own add --config.data.classes=0, which counts those
of data.train. With --config.epochs=0 a fine-tuned model is tested without training. Any value of
the config can be set with --config.KEY=VALUE. The same command continues where an earlier one
stopped, also within the test. On several hosts start it on each with --distributed.
"""

from vmae_jax import cli

RUN = cli.define_run('configs/finetune.py')


def main(argv):
  config, workdir = RUN(argv)
  from vmae_jax.training.finetuning import finetune  # Not before: importing it may touch devices.

  finetune(config, workdir)


if __name__ == '__main__':
  cli.run(main, trains=True)
