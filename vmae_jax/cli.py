"""What the entry points share: absl flags, one-line errors, exit codes.

    from vmae_jax import cli
    CONFIG = config_flags.DEFINE_config_file('config', None, '...')

    def main(argv): ...

    if __name__ == '__main__':
      cli.run(main)

Exit codes: 0 done, 2 a mistake of the user's (one line on stderr), 75 preempted after
saving (start the same command again to go on), 130 interrupted with Ctrl-C; a bug gives
Python's stack trace and 1.
"""

import os
import sys
from collections.abc import Callable

from absl import app, flags

from vmae_jax.errors import UserError, suggest

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: job managers may requeue on it.
EXIT_INTERRUPTED = 130


class Preempted(Exception):
  """The run was told to stop, has saved its state and can be started again."""


def _parse(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as e:
    known = [name for name in flags.FLAGS if not name.startswith('config.')]
    raise UserError(f'there is no flag --{e.flagname}.{suggest(e.flagname, known)}') from e
  except flags.Error as e:
    raise UserError(str(e).replace('\n', ' ')) from e
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    # ml_collections reports unknown and ill-typed --config.x=y in these ways.
    text = e.args[0] if e.args else e
    raise UserError(str(text).strip().split('\n')[0]) from e


def join_processes() -> None:
  """Joins the processes of one run; call it before anything touches a device.

  JAX finds the others on TPU pods, under Slurm and under Open MPI. Elsewhere each process is
  told by JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID.
  """
  import jax  # Not above: entry points' worker processes need none.

  count, index = os.environ.get('JAX_NUM_PROCESSES'), os.environ.get('JAX_PROCESS_ID')
  try:
    jax.distributed.initialize(num_processes=count and int(count), process_id=index and int(index))
  except ValueError as e:
    raise UserError(f'--distributed: {str(e).splitlines()[0]}') from e


def run(main: Callable[[list[str]], None]) -> None:
  """Parses the flags, runs `main(argv)` and exits with the code above."""
  app.define_help_flags()
  try:
    argv = _parse(sys.argv)
    main(argv)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
  except Preempted as e:
    print(f'stopped: {e}', file=sys.stderr)
    sys.exit(EXIT_PREEMPTED)
  except KeyboardInterrupt:
    print('stopped: interrupted', file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
