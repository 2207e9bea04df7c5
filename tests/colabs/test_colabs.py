"""The notebooks run from top to bottom, and are as they should be in the repository."""

import importlib.util
import os
import re
import sys
import types

import nbformat
import pytest

from tests.colabs import store
from tests.colabs.store import COLABS, read
from tests.hurry import XLA_FLAGS
from tests.interchange import peer

# The order in which they are listed.
NAMES = 'released_model tour_of_motion pretrain_small finetune_and_export segment_a_video'.split()


def execute(notebook, folder, monkeypatch, *, smoke='1', without=()):
  """Runs all cells without the stored outputs; returns what they printed and how many drew.

  What they show is of the same kinds as what is stored, but for the cells `without`.
  """
  cache = os.environ['JAX_COMPILATION_CACHE_DIR']
  for key in [key for key in os.environ if key.startswith(('JAX_', 'XLA_'))]:
    monkeypatch.delenv(key)
  path = os.pathsep.join([str(COLABS.parent), *filter(None, [os.environ.get('PYTHONPATH')])])
  given = {
    'VMAE_SMOKE': smoke,
    'PYTHONPATH': path,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': XLA_FLAGS,
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'True',  # Compiling is nearly all of the time.
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JUPYTER_PLATFORM_DIRS': '1',
    'IPYTHONDIR': str(folder / '.ipython'),
  }
  for key, value in given.items():
    monkeypatch.setenv(key, value)
  stored = store.kinds(notebook)
  store.execute(store.strip(notebook), folder)
  found = store.kinds(notebook)
  for name in without:
    del stored[name], found[name]
  assert found == stored
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
  text = ''.join(output.text for output in outputs if output.output_type == 'stream')
  return text, len(store.pictures(notebook))


def given(notebook, **settings):
  """Sets variables of the cell of settings."""
  cell = next(cell for cell in notebook.cells if cell.id == 'settings')
  for name, value in settings.items():
    cell.source, count = re.subn(rf"(?m)^{name} = '[^']*'", f"{name} = '{value}'", cell.source)
    assert count == 1
  return notebook


def test_all_are_known_and_listed_in_this_order():
  assert sorted(path.stem for path in COLABS.glob('*.ipynb')) == sorted(NAMES)
  for page in COLABS / 'README.md', COLABS.parent / 'README.md':
    listed = re.findall(r'\]\((?:colabs/)?(\w+)\.ipynb\)', page.read_text())
    assert list(dict.fromkeys(listed)) == NAMES


def test_media_of_the_repository_are_small():
  """Each picture below 200 KB, all together, those of the notebooks with them, below 5 MB."""
  root = COLABS.parent
  files = [*root.glob('tests/fixtures/**/*.png'), *root.glob('tests/fixtures/**/*.jpg')]
  sizes = [path.stat().st_size for path in files]
  sizes += [len(picture) for name in NAMES for picture in store.pictures(read(name))]
  assert len(sizes) > 15 and max(sizes) < store.LARGEST and sum(sizes) < 5_000_000


@pytest.mark.parametrize('name', NAMES)
def test_form(name):
  """Short, valid, the same installation in all, and no training code of its own.

  What they show is stored, with nothing of the machine where they ran.
  """
  notebook = read(name)
  nbformat.validate(notebook)
  assert len(notebook.cells) < 30
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids) and all(re.fullmatch(r'[a-z-]+', i) for i in ids)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert all(cell.execution_count is None for cell in code)
  assert store.pictures(notebook)
  assert all(cell.outputs == store.shown(cell) for cell in code)
  assert not re.search(r'/(home|root|work|tmp|Users)/', nbformat.writes(notebook))
  assert code[0].id == 'install' and code[1].id == 'settings'
  install = read('tour_of_motion').cells[1].source
  assert code[0].source == install and 'pip install' in install
  others = '\n'.join(cell.source for cell in code[1:])
  assert '# @param' in others and 'VMAE_SMOKE' in others
  for own in ('optax', 'jax.grad', 'value_and_grad', 'flags', 'subprocess'):
    assert own not in others
  assert notebook.cells[0].cell_type == 'markdown' and notebook.cells[0].source.startswith('# ')


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Runs the cell of installation as Python, in a folder without a checkout above."""
  from IPython.core.inputtransformer2 import TransformerManager

  source = read(NAMES[0]).cells[1].source
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr('shutil.which', lambda name: None)

  def run(where=''):
    called = []
    shell = types.SimpleNamespace(run_line_magic=lambda *line: called.append(line))
    text = TransformerManager().transform_cell(source.replace("SOURCE = ''", f'SOURCE = {where!r}'))
    exec(compile(text, 'install', 'exec'), names := {'get_ipython': lambda: shell})
    return [(magic, line.format_map(names)) for magic, line in called]  # As IPython does.

  return run


def test_installation_does_nothing_where_the_package_is(install):
  before = list(sys.path)
  assert install() == [] and sys.path == before


def test_installation_is_from_the_checkout_or_from_where_it_is_told(install, tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit, match='set SOURCE above'):
    install()
  address = 'https://example.org/vmae_jax'
  assert install(address) == [('pip', f'install -q jax git+{address}')]
  monkeypatch.setattr('shutil.which', lambda name: f'/bin/{name}')  # A GPU.
  assert install(str(tmp_path)) == [('pip', f'install -q jax[cuda13] {tmp_path}')]
  plugin = {'jax_cuda12_plugin': True, 'jax': True}
  monkeypatch.setattr(importlib.util, 'find_spec', plugin.get)
  assert install(address) == [('pip', f'install -q jax[cuda12] git+{address}')]
  (tmp_path / 'vmae_jax').mkdir()
  (tmp_path / 'colabs').mkdir()
  monkeypatch.chdir(tmp_path / 'colabs')
  assert install() == [('pip', f'install -q jax[cuda12] {tmp_path}')]
  assert sys.path[0] == str(tmp_path)


def test_released_model(tmp_path, monkeypatch):
  """With a folder of transformers, as it would come from the Hub; clips are made."""
  folder = peer.write_folder(tmp_path / 'videomae', 'pretraining')
  notebook = given(read('released_model'), CHECKPOINT=folder)
  text, pictures = execute(notebook, tmp_path, monkeypatch)
  assert '2 blocks of width 32, clips of (4, 32, 32)' in text and pictures == 5
  assert text.count('hidden, off by') == 2 and '88% hidden' in text
  assert re.search(r'of neighbours have the same motion \(of all clips: 8%\)', text)


def test_tour_of_motion(tmp_path, monkeypatch):
  text, pictures = execute(read('tour_of_motion'), tmp_path, monkeypatch)
  assert '4 time slots of 4 x 4 tokens' in text and 'codes in use' in text
  assert pictures == 8
  assert (tmp_path / 'runs' / 'tour.gif').read_bytes()[:4] == b'GIF8'


def pretrain(notebook, tmp_path, monkeypatch, **options):
  _, pictures = execute(notebook, tmp_path, monkeypatch, **options)
  table = (tmp_path / 'runs' / 'pretrain_small_2_48' / 'table.md').read_text()
  return table, pictures


@pytest.mark.slow
def test_pretrain_small(tmp_path, monkeypatch):
  table, pictures = pretrain(read('pretrain_small'), tmp_path, monkeypatch)
  rows = [line.split('|')[1:3] for line in table.splitlines()[4:8]]
  names = [tuple(cell.strip() for cell in row) for row in rows]
  both = ('pre-trained', 'untrained')
  assert names == [(method, which) for method in ('videomae', 'motionmae') for which in both]
  assert '48 training and 12 held-out clips' in table
  assert pictures == 1 + 1 + 3


@pytest.mark.slow
def test_pretrain_all(tmp_path, monkeypatch):
  notebook = given(read('pretrain_small'), METHOD='all')
  table, pictures = pretrain(notebook, tmp_path, monkeypatch, without=('pictures',))
  assert table.count('untrained') == 10  # Of motions and of looks.
  assert pictures == 1 + 1 + 9


@pytest.mark.slow
def test_finetune_and_export(tmp_path, monkeypatch):
  """With PyTorch where it is installed, as in a full run: the exported logits are equal."""
  torch = None not in map(importlib.util.find_spec, ('torch', 'transformers'))
  text, pictures = execute(
    read('finetune_and_export'),
    tmp_path,
    monkeypatch,
    smoke='torch' if torch else '1',
    without=() if torch else ('theirs',),
  )
  assert '100.0% of the encoder' in text and pictures == 1
  assert 'read back: every value is equal' in text and 'in JAX: ' in text
  assert ('left out: a test without PyTorch' in text) == (not torch)
  if not torch:
    return
  largest = re.search(r'largest difference of the logits: (\S+)', text)
  assert float(largest[1]) < 1e-5
  said = re.search(r'in JAX: (\w+);', text)[1]
  assert f'in PyTorch: {said}\n' in text


@pytest.mark.slow
def test_segment_a_video(tmp_path, monkeypatch):
  text, pictures = execute(read('segment_a_video'), tmp_path, monkeypatch)
  found = dict(re.findall(r'(?m)^(.+?) +J (\d\.\d\d) ', text))
  assert list(found) == ['pre-trained', 'untrained', 'left where it was', 'truth']
  assert found['truth'] == '1.00' and float(found['left where it was']) > 0.3
  assert pictures == 3
  folder = tmp_path / 'runs' / 'segment_a_video'
  assert len(list((folder / 'masks').glob('*.png'))) == 4
  assert (folder / 'segmented.mp4').read_bytes()[4:8] == b'ftyp'
