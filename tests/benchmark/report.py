"""On which machine, when and with which software something was measured."""

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import av
import psutil

PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'grain', 'av', 'numpy', 'torch', 'transformers', 'torchcodec'),
  *('opencv-python', 'opencv-python-headless', 'libtpu'),
)


def describe() -> dict:
  """Machine, its load, date, versions of what is installed and the commit."""
  versions = {'python': platform.python_version(), 'ffmpeg of av': av.ffmpeg_version_info}
  for name in PACKAGES:
    try:
      versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      versions[name] = None
  return {
    'machine': {
      'cpu': _cpu_model(),
      'cores': psutil.cpu_count(),
      'memory_bytes': psutil.virtual_memory().total,
      'system': platform.platform(),
    },
    'load_average': psutil.getloadavg()[0],  # Of the last minute: what else ran.
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'versions': versions,
    'commit': _commit(),
  }


def _cpu_model() -> str:
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:  # Only Linux has it.
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
  """The commit of this checkout, with -dirty after it if files were changed since."""
  describe = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
  try:
    done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
  except OSError:  # There is no git.
    return None
  return done.stdout.strip() or None
