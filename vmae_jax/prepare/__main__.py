"""Prepares data: `python -m vmae_jax.prepare COMMAND --help`.

Commands:
  synthetic --out=data/motion: the synthetic set, video files and lists to train from.
  kinetics400, kinetics600, kinetics700, ssv2, ucf101, hmdb51, davis2017, folder SOURCE --out=DIR:
    writes lists of a downloaded data set, whose videos are anywhere below SOURCE. With --shards it
    also encodes the videos for fast reading, with --cut it cuts films into clips. If it is killed,
    the same command continues.
  upgrade FOLDER: rewrites shards of an earlier version.
"""

import argparse
from pathlib import Path
from typing import NoReturn

from vmae_jax import cli
from vmae_jax.data.synthetic import CLIPS, OPTIONS
from vmae_jax.errors import UserError
from vmae_jax.prepare.prepare_set import add_commands
from vmae_jax.prepare.shard_sets import upgrade
from vmae_jax.prepare.synthetic_set import write_set


class _Parser(argparse.ArgumentParser):
  """Reports mistakes in one line, as all entry points do."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message} (see {self.prog} --help)')


# Option of `synthetic` -> its default and its help.
_OPTIONS = {
  'train': (CLIPS['train'], 'clips to train on'),
  'val': (CLIPS['val'], 'clips to evaluate on'),
  'frames': (OPTIONS['frames'][0], 'frames a clip'),
  'size': (OPTIONS['size'][0], 'height and width'),
  'speed': (OPTIONS['speed'][0], 'factor of all motion'),
  'detail': (OPTIONS['detail'][0], "the background's finest waves in a frame"),
  'moving': (OPTIONS['moving'][0], 'share of the clips that move at all'),
  'seed': (0, 'of the whole set'),
  'workers': (None, 'processes'),
}


def _synthetic(args: argparse.Namespace) -> None:
  try:
    written = write_set(args.out, **{name: getattr(args, name) for name in _OPTIONS})
  except OSError as e:
    raise UserError(f'--out={args.out} cannot be written: {e.strerror or e}.') from e
  print(f'{"wrote" if written else "kept, as it is complete:"} {args.out}')


def _upgrade(args: argparse.Namespace) -> None:
  done = upgrade(args.folder.rstrip('/'))
  print(f'{"upgraded" if done else "kept, as it is of this version:"} {args.folder}')


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(prog='python -m vmae_jax.prepare', description='Prepares data.')
  commands = parser.add_subparsers(required=True, metavar='COMMAND')
  command = commands.add_parser(
    'synthetic',
    help='write the synthetic set',
    description='Writes the synthetic set: 12 motions, which no single frame tells, by 12 looks.',
  )
  command.set_defaults(function=_synthetic)
  command.add_argument('--out', type=Path, required=True, help='folder to write')
  for name, (default, text) in _OPTIONS.items():
    text += f' ({"one a processor" if default is None else default})'
    kind = float if isinstance(default, float) else int
    command.add_argument(f'--{name}', type=kind, default=default, help=text)
  command = commands.add_parser('upgrade', help='rewrite shards of an earlier version')
  command.set_defaults(function=_upgrade)
  command.add_argument('folder', metavar='FOLDER', help='folder of shards: DIR/SPLIT')
  add_commands(commands)
  return parser


def main(argv: list[str]) -> None:
  args = _parser().parse_args(argv[1:])
  args.function(args)


if __name__ == '__main__':
  cli.run(main, absl_flags=False)
