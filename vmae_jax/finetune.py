"""Fine-tunes a pre-trained encoder as a classifier of videos, and tests it.

  python -m vmae_jax.finetune --config=configs/finetune.py:b,k400 --workdir=runs/b_k400_ft \
    --config.init_from=runs/b_k400 \
    --config.data.train=lists/k400_train.txt --config.data.val=lists/k400_val.txt

`init_from` is a run or checkpoint of vmae_jax, a folder of transformers, or a .pth or
.safetensors file of the official code. With --config.epochs=0 a fine-tuned model is tested
without training. Any value of the config can be set with --config.KEY=VALUE. The same command
goes on where an earlier one stopped, also within the test. On several hosts start it on each
with --distributed.
"""

from absl import flags
from ml_collections import config_flags

from vmae_jax import cli, peers
from vmae_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'FILE:ARGUMENT, such as configs/finetune.py:b,k400',
  # `cli` and the config's defaults refuse unknown keys.
  lock_config=False,
  accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: checkpoints, logs, results.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Joins the processes of a TPU pod, a Slurm job or a Kubernetes job, or those that '
  'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name, into one run.',
)


def main(argv):
  cli.refuse_arguments(argv)
  if _CONFIG.value is None:
    raise UserError('give --config=FILE:ARGUMENT, such as --config=configs/finetune.py:demo.')
  if not _WORKDIR.value:
    raise UserError('give --workdir=DIR, a folder for checkpoints, logs and results.')
  if _DISTRIBUTED.value:
    peers.join()
  from vmae_jax.training.finetuning import finetune  # After `initialize`: it may touch devices.

  finetune(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
  cli.run(main, trains=True)
