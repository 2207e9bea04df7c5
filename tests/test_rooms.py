"""The rooms of the package: what may import what, and how large they may be."""

import ast

import pytest

from tests.started import ROOT

# From low to high. A file imports its own room and what stands before it.
ORDER = """
errors types chips cores patience storage hub lock peers sharding
models frozen motion masking data config config_file config_finetuning targets method
visualize runs interchange evaluation training trained prepare planning compare
""".split()
PACKAGE = ROOT / 'vmae_jax'
FILES = sorted(PACKAGE.rglob('*.py'))
VERBS = {path.stem for path in PACKAGE.glob('*.py')} - set(ORDER) - {'__init__'}


def room_of(path):
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path):
  """Rooms and files of the package that a file imports, in functions, too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == 'vmae_jax':
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('vmae_jax.'):
      yield node.module.split('.')[1]
    elif isinstance(node, ast.Import):
      names = [alias.name.split('.') for alias in node.names]
      yield from (name[1] for name in names if name[0] == 'vmae_jax' and len(name) > 1)


def test_every_room_has_its_place():
  rooms = {room_of(path) for path in FILES} - VERBS - {'__init__'}
  assert rooms == set(ORDER)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_what_stands_above_it(path):
  room = room_of(path)
  verb = room in VERBS or path.name == '__main__.py'
  if room == '__init__' or verb:
    return
  above = [name for name in imported(path) if ORDER.index(room) < ORDER.index(name)]
  assert above == []


def test_verbs_import_no_other_verb():
  helpers = {'cli'}
  for path in FILES:
    if path.parent == PACKAGE and path.stem in VERBS - helpers:
      assert not (set(imported(path)) & VERBS) - helpers, path


@pytest.mark.parametrize(
  'room', sorted({p.parent for p in FILES} - {PACKAGE}), ids=lambda path: path.name
)
def test_a_room_has_at_most_15_files(room):
  assert sum(path.name != '__init__.py' for path in room.glob('*.py')) <= 15


def test_no_file_is_longer_than_350_lines():
  files = [
    path for name in ('vmae_jax', 'configs', 'tests') for path in (ROOT / name).rglob('*.py')
  ]
  assert {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 350} == {}
