"""What the entry points share: absl flags, one-line errors, exit codes.

    from vmae_jax import cli
    CONFIG = config_flags.DEFINE_config_file('config', None, '...')

    def main(argv): ...

    if __name__ == '__main__':
      cli.run(main)

Exit codes: 0 done, 2 a mistake of the user's (one line on stderr), 74 something that may come
back is unavailable, such as a store or room on a disk (one line; start the same command again),
75 preempted after saving (start the same command again to go on), 130 interrupted with Ctrl-C; a
bug gives Python's stack trace and 1.
"""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from vmae_jax.config_file import load_config, look_up
from vmae_jax.errors import Unavailable, UserError, is_outage, suggest

EXIT_USER_ERROR = 2
EXIT_UNAVAILABLE = 74  # EX_IOERR.
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: job managers may requeue on it.
EXIT_INTERRUPTED = 130


class Preempted(Exception):
  """The run was told to stop, has saved its state and can be started again."""


def _parse(argv: list[str]) -> list[str]:
  there = _config_values(argv)
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as e:
    groups = flags.FLAGS.flags_by_module_dict().items()
    own = [f.name for module, group in groups if not module.startswith('absl.') for f in group]
    known = [name for name in own if not name.startswith('config.')]
    raise UserError(f'there is no flag --{e.flagname}.{suggest(e.flagname, known)}') from e
  except flags.Error as e:
    text = ' '.join(str(e).split())
    if key := re.match(r'flag --config\.([\w.]+)=', text):
      value = ' '.join(repr(there[key[1]]).split())
      text += f'; give a value like the one that the config has, {value}.'
    raise UserError(text) from e


def _config_values(argv: list[str]) -> dict[str, Any]:
  """For each --config.KEY=VALUE: what the config file has there.

  ml_collections, which loads the file again, tells a missing file only when the config is
  used, a wrong key without the right ones, and a mistake in the file on many lines.
  """
  keys = [m[1] for arg in argv[1:] if (m := re.match(r'--?(?:no)?config\.([^=]+)', arg))]
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--config', '-config', nargs='?')
  spec = parser.parse_known_args(argv[1:])[0].config
  if 'config' not in flags.FLAGS or not (spec or keys):
    return {}
  if not spec:
    raise UserError(f'--config.{keys[0]} changes a config: give --config=FILE:ARGUMENT, too.')
  config = load_config(spec)
  return {key: look_up(config, key) for key in keys}


def refuse_arguments(argv: list[str]) -> None:
  """Raises a UserError for what is no flag, lest a forgotten -- change nothing silently."""
  if argv[1:]:
    raise UserError(f'{argv[1]!r} is no flag: values are given as --NAME=VALUE.')


def join_processes() -> None:
  """Joins the processes of one run; call it before anything touches a device.

  JAX finds the others on TPU pods, under Slurm and under Open MPI. Elsewhere each process is
  told by JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and
  JAX_PROCESS_ID. With absl's --only_check_args the verb ends here with 0, which says that its
  flags and config can be read.

  Raises:
    Unavailable: the first device of JAX_PLATFORMS is not there. JAX itself takes the CPU where
      cuda is asked for and no /dev/nvidia* is seen.
  """
  if flags.FLAGS.is_parsed() and flags.FLAGS.only_check_args:
    sys.exit()
  import jax  # Not above: entry points' worker processes need none.

  count, index = os.environ.get('JAX_NUM_PROCESSES'), os.environ.get('JAX_PROCESS_ID')
  try:
    jax.distributed.initialize(num_processes=count and int(count), process_id=index and int(index))
  except ValueError as e:
    raise UserError(f'--distributed: {str(e).splitlines()[0]}') from e
  asked = (jax.config.jax_platforms or 'cpu').split(',')[0]
  reason = 'JAX sees none and would compute on the CPU'
  try:
    there = jax.default_backend()
  except RuntimeError as e:
    there, reason = 'cpu', str(e).splitlines()[0]
  if asked != 'cpu' and there == 'cpu':
    raise Unavailable(f'JAX_PLATFORMS asks for {asked} on {platform.node()}: {reason}.')


def run(main: Callable[[list[str]], None], *, absl_flags: bool = True) -> None:
  """Runs `main(argv)` and exits with the code above.

  Args:
    main: Gets the program's name and what is no flag.
    absl_flags: False leaves flags to `main`, which gets them all.
  """
  try:
    if absl_flags:
      app.define_help_flags()
    main(_parse(sys.argv) if absl_flags else sys.argv)
  except UserError as e:
    print(f'error: {e}', file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
  except Unavailable as e:
    print(f'unavailable: {e}', file=sys.stderr)
    sys.exit(EXIT_UNAVAILABLE)
  except Preempted as e:
    print(f'stopped: {e}', file=sys.stderr)
    sys.exit(EXIT_PREEMPTED)
  except OSError as e:
    if not is_outage(e):
      raise
    print(f'unavailable: {e}', file=sys.stderr)
    sys.exit(EXIT_UNAVAILABLE)
  except KeyboardInterrupt:
    print('stopped: interrupted', file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
