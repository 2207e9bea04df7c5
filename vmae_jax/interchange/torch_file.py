"""Files of `torch.save`, read without PyTorch and without running any code in them.

A pickle names functions and classes that its reader calls. Here every name, except for those that
make tensors, becomes an inert object that keeps its contents and does nothing.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vmae_jax.errors import UserError

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # Of files before release 1.6, which are not zip archives.
_ZIP_HEADER = 30


class Inert(dict):
  """An object whose class is not loaded; `state` is its stored state."""

  name = ''
  state: Any = None

  def __init__(self, *_, **__):
    super().__init__()

  def __setstate__(self, state):
    self.state = state

  def __call__(self, *_, **__):
    return Inert()

  def _nothing(self, *_):
    """Stands for the methods by which a pickle fills lists and sets."""

  append = extend = add = _nothing
  __hash__ = object.__hash__


def read_torch_file(path: Path) -> tuple[Any, list[str]]:
  """The object in a file of any release of PyTorch, and the names of its `Inert` classes.

  Tensors are arrays whose values are read when they are used.

  Raises:
    UserError: it is damaged, compressed, or no such file.
  """
  try:
    with open(path, 'rb') as file:
      if not zipfile.is_zipfile(file):
        file.seek(0)
        return _read_old(file, path)
      with zipfile.ZipFile(file) as archive:
        records = {info.filename.partition('/')[2]: info for info in archive.infolist()}
        if any(info.compress_type for info in records.values()):
          raise UserError('it is a compressed archive, which PyTorch never writes')
      return _read_zip(file, path, records)
  except UserError as e:
    raise UserError(f'{path}: {e}: get the file again.') from e
  except Exception as e:  # Damaged files raise errors of many classes.
    raise UserError(
      f'{path} is no PyTorch checkpoint or a damaged one ({type(e).__name__}): get it again.'
    ) from e


class _Reader(pickle.Unpickler):
  """Turns tensors into arrays, and everything else into inert objects."""

  def __init__(self, file: io.BufferedIOBase, storage):
    super().__init__(file)
    self._storage = storage
    self._inert: dict[str, type] = {}
    self._known = {
      'collections.OrderedDict': OrderedDict,
      'torch._utils._rebuild_tensor_v2': lambda *x: _tensor(*x[:4]),
      'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
      'torch._utils._rebuild_parameter_with_state': lambda tensor, *_: tensor,
      'torch._tensor._rebuild_from_type_v2': lambda make, _, args, __: make(*args),
    }

  def find_class(self, module: str, name: str) -> Any:
    full = f'{module}.{name}'
    if full in self._known:
      return self._known[full]
    if full not in self._inert:  # New classes for each file, as a pickle may set their attributes.
      self._inert[full] = type(name.rpartition('.')[2], (Inert,), {'name': full})
    return self._inert[full]

  def persistent_load(self, pid: tuple) -> Any:
    _, kind, key, _, count, *view = pid
    dtype = _DTYPES.get(getattr(kind, 'name', '').rpartition('.')[2])
    return Inert() if dtype is None else self._storage(str(key), np.dtype(dtype), count, *view)

  @property
  def classes(self) -> list[str]:
    """Names of the inert classes, without the modules that are in every file of PyTorch."""
    usual = ('torch', 'numpy', 'collections', 'argparse', '_codecs')
    return sorted(name for name in self._inert if name.partition('.')[0] not in usual)


def _tensor(storage: Any, offset: int, shape: tuple, strides: tuple) -> Any:
  """A view of a storage, or an inert object if the storage is of an unknown kind."""
  if isinstance(storage, Inert):
    return Inert()
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  count = math.prod(shape)
  if min((offset, *shape, *strides)) < 0 or (
    count and (last >= len(storage) or count > len(storage))
  ):
    raise UserError('a tensor claims more values than are stored')
  if not count:
    return np.empty(shape, storage.dtype)
  strides = [s * storage.itemsize for s in strides]
  return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)


def _read_zip(file: io.BufferedIOBase, path: Path, records: dict) -> tuple[Any, list[str]]:
  # Mapped, so that no tensor is loaded before its shape has been checked.
  whole = np.memmap(path, np.uint8, 'c')

  def record(name):
    start = records[name].header_offset
    header = bytes(whole[start : start + _ZIP_HEADER])  # Its end: lengths of name and extra field.
    start += _ZIP_HEADER + sum(struct.unpack('<HH', header[26:]))
    return whole[start : start + records[name].file_size]

  def storage(key, dtype, count):
    return _values(record(f'data/{key}'), dtype, count)

  reader = _Reader(io.BytesIO(record('data.pkl')), storage)
  if 'byteorder' in records and bytes(record('byteorder')) != b'little':
    raise UserError('saved by a big-endian machine, and only little-endian files can be read')
  return reader.load(), reader.classes


def _read_old(file: io.BufferedIOBase, path: Path) -> tuple[Any, list[str]]:
  """Reads four pickles (magic, version, machine, object), names of storages, and their values."""
  storages = {}

  def storage(key, dtype, count, view=None):
    if key not in storages:
      left = path.stat().st_size - sum(x.nbytes for x in storages.values())
      storages[key] = np.zeros(_checked(count * dtype.itemsize, left), np.uint8)
    start, count = (0, count) if view is None else view[1:]
    return _values(storages[key][start * dtype.itemsize :], dtype, count)

  if _Reader(file, storage).load() != _OLD_MAGIC:
    raise ValueError
  for _ in range(2):
    _Reader(file, storage).load()
  reader = _Reader(file, storage)
  found = reader.load()
  for key in _Reader(file, storage).load():
    file.read(8)  # The number of values, which the object has said.
    if file.readinto(storages[key]) != len(storages[key]):
      raise EOFError
  return found, reader.classes


def _values(data: np.ndarray, dtype: np.dtype, count: int) -> np.ndarray:
  return data[: _checked(count * dtype.itemsize, len(data))].view(dtype)


def _checked(size: int, most: int) -> int:
  if not 0 <= size <= most:
    raise UserError('a tensor claims more values than are stored')
  return size
