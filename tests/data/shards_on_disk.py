"""Shards that tests make, without processes."""

from pathlib import Path

from vmae_jax.prepare import __main__ as prepare
from vmae_jax.prepare import prepare_shards
from vmae_jax.prepare.encoding import Encoding


def at_once(function, tasks, **_):
  """Stands in for `run_all`: no processes."""
  for task in tasks:
    yield task, function(task)


def make(out, videos, **options):
  options = (
    dict(about={}, classes=('a', 'b'), encoding=Encoding(), workers=1, seconds=60.0) | options
  )
  return prepare_shards.write_shards(videos, out, **options)


def contents(folder: Path) -> dict[str, bytes]:
  """Every file below a folder."""
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main(*arguments):
  """The command `prepare`."""
  prepare.main(['prepare', *map(str, arguments)])
