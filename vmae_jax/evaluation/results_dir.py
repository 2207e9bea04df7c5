"""The folder of results: what it was made with, so that nothing else is mixed into it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmae_jax.errors import UserError
from vmae_jax.runs.run_dir import write_atomically

SETTINGS = 'settings.json'


def claim(out: Path, settings: Mapping[str, Any]) -> None:
  """Makes the folder of results, or checks that what is in it was made in the same way.

  Raises:
    UserError: it holds other files, results of other settings, or cannot be written to.
  """
  path = out / SETTINGS
  try:
    out.mkdir(parents=True, exist_ok=True)
    if path.exists():
      there = json.loads(path.read_text(encoding='utf-8'))
      here = json.loads(json.dumps(settings))
      names = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
      if names:
        told = '; '.join(f'{k} was {there.get(k)}, is {here.get(k)}' for k in names[:5])
        raise UserError(f'{path}: results there are of other settings: {told}. Give another --out.')
    elif foreign := sorted(p.name for p in out.iterdir() if not p.name.startswith('.')):
      raise UserError(
        f'--out={out} holds {foreign[0]!r} and no {SETTINGS}: give a new or an empty folder.'
      )
    else:
      write_atomically(path, json.dumps(settings, indent=2, sort_keys=True) + '\n')
  except OSError as e:
    raise UserError(f'--out={out}: {e.strerror}; give a folder that can be written to.') from e
  except ValueError as e:
    raise UserError(f'{path} is damaged ({e}): give another --out.') from e
