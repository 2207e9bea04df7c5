"""Config files: finding and loading one, and looking up the keys that a command line changes."""

import difflib
import glob
import importlib.util
import os
import re
import runpy
import sys
import traceback
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import ml_collections

from vmae_jax.errors import UserError, suggest

# The folder of configs: beside the package in the repository, inside an installed package.
_BESIDE, _INSIDE = (Path(__file__).parents[i] / 'configs' for i in (1, 0))
CONFIGS = _INSIDE if _INSIDE.is_dir() else _BESIDE


def find_config(spec: str) -> str:
  """`FILE` or `FILE:ARGUMENT` with the path of the file; a UserError if there is none.

  A file that does not exist is looked for among those of the package, by its name: videomae,
  videomae.py or configs/videomae.py.
  """
  file, colon, argument = spec.partition(':')
  ours = CONFIGS / f'{file.removeprefix("configs/").removesuffix(".py")}.py'
  if not os.path.isfile(file) and ours.parent == CONFIGS and ours.is_file():
    return f'{ours}{colon}{argument}'
  if not os.path.isfile(file):
    there = glob.glob(os.path.join(glob.escape(os.path.dirname(file)), '*.py'))
    there += sorted(path.stem for path in CONFIGS.glob('*.py'))
    close = difflib.get_close_matches(file, there, n=1)
    hint = f' Did you mean {close[0]}?' if close else ' It is given as --config=FILE:ARGUMENT.'
    raise UserError(f'there is no config file {file!r} (looked in {os.getcwd()}).{hint}')
  return spec


def load_config(spec: str) -> ml_collections.ConfigDict:
  """The config that `get_config` of `FILE` or `FILE:ARGUMENT` returns; see `find_config`.

  Raises:
    UserError: there is no such file or argument, or the file has a mistake.
  """
  file, *argument = find_config(spec).split(':', 1)
  _import_beside(file)
  try:
    config = runpy.run_path(file)['get_config'](*argument)
  except UserError:
    raise
  except Exception as e:  # Whatever it is, the file is the user's.
    lines = [x.lineno for x in traceback.extract_tb(e.__traceback__) if x.filename == file]
    where = f'{file}, line {lines[-1]}' if lines else file
    raise UserError(f'{where}: {type(e).__name__}: {_reason(e)}') from e
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f'{file}: get_config returns no ConfigDict: start from config.default().')
  return config


def _import_beside(file: str) -> None:
  """Makes `from configs import NAME` find files beside a config file, and those of the package.

  ml_collections, which loads the file again, then finds them, too.
  """
  if 'configs' not in sys.modules:
    spec = ModuleSpec('configs', None, is_package=True)
    sys.modules['configs'] = importlib.util.module_from_spec(spec)
  folders = os.path.dirname(os.path.abspath(file)), str(CONFIGS)
  sys.modules['configs'].__path__ = list(dict.fromkeys(folders))


def _reason(e: Exception) -> str:
  """An error's message in one line, without the whole config that ml_collections adds."""
  while e.args and isinstance(e.args[0], Exception):
    e = e.args[0]
  text = str(e.args[0] if e.args else e)
  text = re.sub(r'(?s) Other fields present: .*?(\nDid you mean [^\n]*)?$', r'\1', text)
  return ' '.join(text.split())


def look_up(config: ml_collections.ConfigDict, key: str) -> Any:
  """The value of a key such as `model.patch`; a UserError if there is no such key.

  Blocks called `options` take any key, and None is returned for a new one: their keys are checked
  where the function that takes them is known.
  """
  node, path = config, []
  for name in key.split('.'):
    block = '.'.join(path)
    if not isinstance(node, ml_collections.ConfigDict):
      raise UserError(f'--config.{key}: {block} is a value, {node!r}, and has no keys below it.')
    if name not in node:
      if path and path[-1] == 'options':
        return None
      raise UserError(f'--config.{key}: {block or "it"} has no key {name!r}.{suggest(name, node)}')
    node = node[name]
    path.append(name)
  return node


def drop_heads(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config without heads whose target is `none`, by which the command line drops them."""
  heads, decoders = config.get('heads', {}), config.get('decoders', {})
  before = {head.get('decoder') for head in heads.values()}
  for name in [name for name, head in heads.items() if head.get('target') == 'none']:
    del heads[name]
  for name in (before - {head.get('decoder') for head in heads.values()}) & set(decoders):
    del decoders[name]
  return config
