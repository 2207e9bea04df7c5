"""Common parts of the entry points: absl flags, one-line errors, exit codes.

    from vmae_jax import cli
    RUN = cli.define_run('configs/videomae.py')

    def main(argv): ...

    if __name__ == '__main__':
      cli.run(main)

Exit codes: 0 done, 2 a mistake of the user's (one line on stderr), 74 something that may come
back is unavailable, such as a store, room on a disk or another process of the run (one line; start
the same command again), 75 asked to stop, and saved what there was to save (start the same command
again to go on), 130 interrupted with Ctrl-C; a bug gives Python's stack trace and 1.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from vmae_jax import peers, storage
from vmae_jax.config_file import drop_heads, find_config, load_config, look_up
from vmae_jax.errors import (
  EXIT_INTERRUPTED,
  EXIT_PREEMPTED,
  EXIT_UNAVAILABLE,
  EXIT_USER_ERROR,
  Preempted,
  Unavailable,
  UserError,
  is_outage,
  may_pass,
  suggest,
)
from vmae_jax.runs import stop

flags.disclaim_key_flags()  # Flags that functions here define belong to the verb that calls them.


def _parse(argv: list[str]) -> list[str]:
  argv = [_with_file(arg) for arg in argv]
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


def _expand_home(arg: str) -> str:
  """Expands ~ in --NAME=~/PATH, where shells do not; returns other arguments as they are."""
  name, _, value = arg.partition('=')
  expand = name.startswith('-') and value.startswith('~/')
  return f'{name}={os.path.expanduser(value)}' if expand else arg


def _with_file(arg: str) -> str:
  """--config=SPEC with the path of the config file; other arguments as they are."""
  given = re.fullmatch(r'(--?config=)(.+)', arg)
  return given[1] + find_config(given[2]) if given and 'config' in flags.FLAGS else arg


def _config_values(argv: list[str]) -> dict[str, Any]:
  """For each --config.KEY=VALUE: the value of the config file.

  ml_collections, which loads the file again, reports a missing file only when the config is
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
  """Raises a UserError for arguments that are not flags, such as one with a forgotten `--`."""
  if argv[1:]:
    raise UserError(f'{argv[1]!r} is not a flag: values are given as --NAME=VALUE.')


def one_checkpoint(argv: list[str]) -> str:
  """The path of the checkpoint, which must be the only argument that is not a flag."""
  if len(argv) != 2:
    raise UserError(
      'give one checkpoint: a run, one of its checkpoints/STEP, or a model of transformers or .pth.'
    )
  from vmae_jax.hub import local_path

  return local_path(argv[1])


def values(*given: flags.FlagHolder) -> dict[str, Any]:
  """Name -> value of flags."""
  return {flag.name: flag.value for flag in given}


def need(*needed: flags.FlagHolder) -> None:
  """Raises a UserError for a flag without a value."""
  for flag in needed:
    if not flag.value:
      raise UserError(f'give --{flag.name}: {flags.FLAGS[flag.name].help}')


def here(path: str, flag: str = 'out') -> Path:
  """A flag's path; a UserError if it is in a bucket, which Path would take for a local folder."""
  if storage.is_remote(path):
    raise UserError(f'--{flag}={path}: this verb only writes to a disk: copy the files from there.')
  return Path(path)


def check_file(out: str | Path) -> None:
  """Raises a UserError, before hours of work, if --out cannot be written as a file."""
  if storage.is_remote(str(out)):
    return
  out = Path(out)
  if out.is_dir() or not os.access(out.parent, os.W_OK):
    raise UserError(f'--out={out}: give the name of a file, in a folder that can be written to.')


def define_weights() -> flags.FlagHolder[str]:
  """Defines --weights."""
  text = 'Weights of a run: params or ema; by default the moving average (EMA) if there is one.'
  return flags.DEFINE_string('weights', '', text)


def define_clip() -> tuple[flags.FlagHolder, ...]:
  """Defines --frames, --stride and --sampling; None: as in training, where that is known."""
  stride = 'Distance between the frames of a clip, in video frames.'
  sampling = 'dense: frames at the stride; segment: one frame from each of equal segments.'
  return (
    flags.DEFINE_integer('frames', None, 'Frames in a clip.', lower_bound=1),
    flags.DEFINE_integer('stride', None, stride, lower_bound=1),
    flags.DEFINE_string('sampling', None, sampling),
  )


def define_config(file: str = 'configs/videomae.py') -> Callable[[], ml_collections.ConfigDict]:
  """Defines --config, with `file` as example; returns a function that returns the config."""
  config = config_flags.DEFINE_config_file(
    'config',
    None,
    f'FILE:ARGUMENT, such as {file}:b,k400; configs of the package also by name alone.',
    # `_parse` and the config's defaults refuse unknown keys; blocks called options are open.
    lock_config=False,
    accept_new_attributes=True,
  )

  def value() -> ml_collections.ConfigDict:
    if config.value is None:
      raise UserError(f'give --config=FILE:ARGUMENT, such as --config={file}:demo.')
    return drop_heads(config.value)

  return value


def define_run(file: str) -> Callable[[list[str]], tuple[ml_collections.ConfigDict, str]]:
  """Defines --config, of which `file` is an example, --workdir and --distributed.

  Returns:
    A function that returns config and workdir. It also joins the processes of the run, so it
    must be called before anything touches a device.
  """
  config = define_config(file)
  workdir = flags.DEFINE_string('workdir', None, 'Folder of the run: checkpoints, logs, results.')
  distributed = flags.DEFINE_bool(
    'distributed',
    False,
    'Joins the processes of a TPU pod, a Slurm job or a Kubernetes job, or those that '
    'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name, into one run.',
  )

  def values(argv: list[str]) -> tuple[ml_collections.ConfigDict, str]:
    refuse_arguments(argv)
    found = config()
    if not workdir.value:
      raise UserError('give --workdir=DIR, a folder for checkpoints, logs and results.')
    if distributed.value:
      peers.join()
    return found, workdir.value

  return values


def run(
  main: Callable[[list[str]], None], *, absl_flags: bool = True, trains: bool = False
) -> None:
  """Runs `main(argv)` and exits with the code above.

  Args:
    main: Takes the program's name and the arguments that are not flags.
    absl_flags: False: `main` takes all arguments.
    trains: Whether the verb can resume: SIGTERM then lets it save its state.
  """
  if trains:
    stop.heed()
  try:
    if absl_flags:
      app.define_help_flags()
    argv = [_expand_home(arg) for arg in sys.argv]
    main(_parse(argv) if absl_flags else argv)
  except Preempted as e:  # All processes of a run, after the same step.
    print(f'stopped: {e}', file=sys.stderr)
    sys.exit(EXIT_PREEMPTED)
  except KeyboardInterrupt:
    _fail(EXIT_INTERRUPTED, 'stopped: interrupted')
  except UserError as e:
    if may_pass(e.__cause__):
      _fail(EXIT_UNAVAILABLE, f'unavailable: {e}')
    _fail(EXIT_USER_ERROR, f'error: {e}')
  except Exception as e:
    if isinstance(e, Unavailable) or (isinstance(e, OSError) and is_outage(e)):
      _fail(EXIT_UNAVAILABLE, f'unavailable: {e}')
    if peers.joined():
      peers.fail(e)
    raise


def _fail(code: int, line: str) -> NoReturn:
  if peers.joined():
    peers.leave(code, line)
  print(line, file=sys.stderr)
  sys.exit(code)
