"""Shards that tests make, without processes."""

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
