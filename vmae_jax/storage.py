"""Files on this machine and in `gs://` and `s3://` buckets, which fsspec reads.

Remote files are read whole or by ranges of bytes, with a few attempts; no copies are kept on the
disk. Every function takes paths of both kinds and raises an OSError with a message of one line.
"""

import codecs
import errno
import io
import os
import posixpath
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from vmae_jax.errors import UserError, is_outage
from vmae_jax.patience import NoAnswer, ask_all

ATTEMPTS = 4
PAUSE = 0.5  # Seconds before the second attempt; doubled before each further one.
# Errors that remain at another attempt.
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
LOG_IN = (
  'log in (gcloud auth application-default login; for s3:// aws configure) or open the bucket'
)
LIBRARIES = {'gs': 'gcsfs', 'gcs': 'gcsfs', 's3': 's3fs'}  # Each brings fsspec.


def is_remote(path: str) -> bool:
  return '://' in path


def absolute(path: str) -> str:
  """The absolute form of a path; a / at its end stays."""
  if is_remote(path):
    return path
  return os.path.join(os.path.abspath(path), '') if path.endswith('/') else os.path.abspath(path)


def join(folder: str, path: str) -> str:
  """The path itself if it is absolute, else within the folder; both may be local or remote."""
  if is_remote(path):
    return path
  path = os.path.join(folder, path)
  if is_remote(path) and ('/./' in path or '/../' in path):  # Buckets have no such folders.
    scheme, _, rest = path.partition('://')
    return f'{scheme}://{posixpath.normpath(rest)}{"/" * path.endswith("/")}'
  return path


def _filesystem(path: str) -> Any:
  protocol = path.partition('://')[0]
  try:
    import fsspec

    if protocol in ('gs', 'gcs'):  # As Orbax does: what other hosts write must be seen at once.
      fsspec.config.conf.setdefault('gs', {}).setdefault('use_listings_cache', False)
    return fsspec.filesystem(protocol)
  except ImportError as e:
    what = LIBRARIES.get(protocol, 'fsspec and its library for this protocol')
    raise UserError(f'{path} cannot be opened: pip install {what} ({e}).') from e
  except ValueError as e:  # An unknown protocol, or options of the environment that are wrong.
    raise UserError(f'{path} cannot be opened: {e}') from e


def _attempt(path: str, function: Callable[[Any], Any]) -> Any:
  """Calls `function(filesystem)`, again where the network may have been to blame."""
  fs, pause = _filesystem(path), PAUSE
  for attempt in range(1, ATTEMPTS + 1):
    try:
      return function(fs)
    except FINAL as e:
      raise type(e)(e.errno, _line(e), path) from e
    except Exception as e:  # Each library has errors of its own.
      if 'redential' in type(e).__name__ or getattr(e, 'code', None) == 401:
        raise OSError(None, f'{_line(e)}; {LOG_IN}', path) from e
      if attempt == ATTEMPTS:
        busy = is_outage(e) or getattr(e, 'errno', None) == errno.EBUSY  # s3fs: slow down.
        number = errno.ETIMEDOUT if busy else None
        raise OSError(number, f'{_line(e)}, asked {ATTEMPTS} times', path) from e
    time.sleep(pause * random.uniform(0.5, 1.5))  # So that hosts do not all ask at once.
    pause *= 2


def _line(e: Exception) -> str:
  text = getattr(e, 'strerror', None) or str(e)
  return ' '.join(f'{type(e).__name__}: {text}'.split())[:200]


def _kind(path: str) -> str:
  """fsspec's type: 'file', 'directory', or '' if there is nothing."""
  try:  # fsspec's isfile and isdir return False after any error.
    return _attempt(path, lambda fs: fs.info(path)['type'])
  except FileNotFoundError:
    return ''


def read(path: str, start: int | None = None, end: int | None = None) -> bytes:
  """The bytes of a file, or those from `start` to before `end`."""
  if is_remote(path):
    data = _attempt(path, lambda fs: fs.cat_file(path, start=start, end=end))
  else:
    with open(path, 'rb') as f:
      f.seek(start or 0)
      data = f.read(-1 if end is None else end - (start or 0))
  if end is not None and len(data) != end - (start or 0):
    raise OSError(None, f'{len(data)} bytes came instead of {end - (start or 0)}', path)
  return data


def read_text(path: str) -> str:
  """The text of a file with its line ends as they are; an OSError if it is not in UTF-8."""
  data = read(path)
  with suppress(UnicodeDecodeError):
    if b'\0' not in data:
      return data.decode('utf-8-sig')  # Without the byte-order mark of Windows.
  utf16 = ', but in UTF-16' * data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  raise OSError(None, f'it is not in UTF-8{utf16}: save it as UTF-8', path)


def read_lines(path: str) -> list[str]:
  """The lines of a text file, split at newlines alone, as names may contain other separators."""
  return read_text(path).replace('\r\n', '\n').replace('\r', '\n').split('\n')


def read_failure(path: str) -> OSError | None:
  """The error of reading a whole local file; None if it can be read, or is remote.

  It tells a failing disk from a damaged file, for which other libraries raise the same error.
  """
  if is_remote(path) or not os.path.isfile(path):
    return None
  try:
    with open(path, 'rb') as f:
      while f.read(1 << 24):
        pass
  except OSError as e:
    return e


def write(path: str, data: bytes) -> None:
  """Writes a file so that others see either all of it or nothing."""
  if is_remote(path):  # An object appears once it is complete.
    _attempt(path, lambda fs: fs.pipe_file(path, data))
    return
  folder, name = os.path.split(path)
  part = os.path.join(folder, f'.{name}.partial')  # Hidden, so that listings leave it out.
  with open(part, 'wb') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  os.replace(part, path)


def write_text(path: str, text: str) -> None:
  """Writes text in UTF-8, see `write`."""
  write(path, text.encode())


def create(path: str, data: bytes) -> None:
  """Writes a new file; of several processes that do so at once all but one get FileExistsError."""
  if is_remote(path):
    _attempt(path, lambda fs: fs.pipe_file(path, data, mode='create'))
    return
  with open(path, 'xb') as f:
    try:
      f.write(data)
      f.flush()
    except OSError:  # A full disk would leave an empty file.
      os.remove(path)
      raise


def touch(path: str, data: bytes) -> None:
  """Renews the `stamp` of a file that holds `data`."""
  if is_remote(path):
    write(path, data)
  else:
    os.utime(path)


def stamp(path: str) -> str:
  """A text that differs after each change of a file."""
  if is_remote(path):
    return _attempt(path, lambda fs: fs.ukey(path))
  return str(os.stat(path).st_mtime_ns)


def video_file(path: str) -> str | io.BytesIO:
  """What `Video` opens: the path of a local file, the bytes of a remote one."""
  return io.BytesIO(read(path)) if is_remote(path) else path


def stream(path: str) -> Any:
  """What PyAV opens to read in pieces: the path of a local file, or a remote file, opened."""
  return _attempt(path, lambda fs: fs.open(path, 'rb')) if is_remote(path) else path


def is_file(path: str) -> bool:
  return _kind(path) == 'file' if is_remote(path) else os.path.isfile(path)


def is_folder(path: str) -> bool:
  """Whether there is such a folder; in a bucket: whether anything lies below it."""
  return _kind(path) == 'directory' if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
  """Bytes of a file or, if the path ends in /, of all files directly inside a folder."""
  if path.endswith('/'):
    return sum(sizes(path).values())
  return _attempt(path, lambda fs: fs.size(path)) if is_remote(path) else os.path.getsize(path)


def sizes(folder: str) -> dict[str, int]:
  """Names and sizes of all files directly inside a folder."""
  if not is_remote(folder):
    with os.scandir(folder) as entries:
      return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
  found = _attempt(folder, lambda fs: fs.ls(folder, detail=True))
  return {os.path.basename(x['name']): x['size'] or 0 for x in found if x['type'] == 'file'}


def names(folder: str) -> list[str]:
  """Names of the files and folders directly inside a folder, sorted."""
  if not is_remote(folder):
    return sorted(os.listdir(folder))

  def find(fs: Any) -> set[str]:
    # Consoles write an empty object for a folder, which is listed with the folder's own name.
    own = fs._strip_protocol(folder).rstrip('/')
    return {name.rstrip('/') for name in fs.ls(folder, detail=False)} - {own}

  return sorted(map(os.path.basename, _attempt(folder, find)))


def missing(paths: Sequence[str], *, seconds: float) -> tuple[list[str], list[str]]:
  """Looks for files and, where a path ends in /, for folders.

  Returns:
    The paths that do not exist, and those for which no answer came within `seconds`.

  Raises:
    Unavailable: too many gave no answer.
  """

  def exists(path: str) -> bool:
    try:
      return is_folder(path) if path.endswith('/') else is_file(path)
    except PermissionError:  # Some buckets answer so for files that do not exist.
      return False

  answers: list[tuple[str, Any]] = []
  for first in range(0, len(paths), 100_000):  # Each pending look-up takes 2 KB.
    chunk = paths[first : first + 100_000]
    answers += zip(chunk, ask_all(exists, chunk, seconds=seconds), strict=True)
  silent = [path for path, answer in answers if isinstance(answer, NoAnswer)]
  return [path for path, answer in answers if answer is False], silent


def walk(folder: str) -> Iterator[str]:
  """Paths of all files below a folder, relative to it, in any order.

  Names that begin with a . are left out, and so are links to a folder that contains the link.
  """
  if not is_remote(folder):
    yield from _walk(folder, '', ())
    return

  def find(fs: Any) -> list[str]:
    top = fs._strip_protocol(folder).rstrip('/') + '/'
    return [path.removeprefix(top) for path in fs.find(folder)]

  yield from (path for path in _attempt(folder, find) if '/.' not in f'/{path}')


def _walk(folder: str, below: str, around: tuple[tuple[int, int], ...]) -> Iterator[str]:
  stat = os.stat(folder)
  here = stat.st_dev, stat.st_ino
  if here in around:
    return
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith('.'):
        continue
      if entry.is_dir():
        yield from _walk(entry.path, f'{below}{entry.name}/', (*around, here))
      elif '.' not in entry.name and entry.is_symlink() and not entry.is_file():
        raise FileNotFoundError(errno.ENOENT, 'a link that leads nowhere', entry.path)
      else:
        yield f'{below}{entry.name}'


def put(file: str | os.PathLike, path: str) -> None:
  """Moves a local file to a path, where others see all of it or nothing."""
  if is_remote(path):
    _attempt(path, lambda fs: fs.put_file(os.fspath(file), path))
    os.remove(file)
  else:
    os.replace(file, path)


def fetch(path: str, file: str) -> None:
  """Copies a file to a local path."""
  if is_remote(path):
    _attempt(path, lambda fs: fs.get_file(path, file))
  else:
    shutil.copyfile(path, file)


def move(path: str, new: str) -> None:
  """Moves a file or folder within its disk or bucket."""
  if is_remote(path):
    _attempt(path, lambda fs: fs.mv(path, new, recursive=True))
  else:
    os.replace(path, new)


def remove(path: str) -> None:
  """Removes a file, or a folder and all that it contains, if it exists."""
  if not is_remote(path):
    with suppress(FileNotFoundError):
      shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
  elif _kind(path):
    _attempt(path, lambda fs: fs.rm(path, recursive=True))


def make_folder(path: str) -> None:
  """Makes a folder if it does not exist; not in a bucket, which has none."""
  if not is_remote(path):
    os.makedirs(path, exist_ok=True)
