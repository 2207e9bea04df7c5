"""The notebooks run from top to bottom, and are as they should be in the repository."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / 'colabs').glob('*.ipynb'))
NAMES = ['finetune_and_export', 'pretrain_small', 'segment_a_video', 'tour_of_motion']


def read(name):
  return nbformat.read(ROOT / 'colabs' / f'{name}.ipynb', as_version=4)


def execute(notebook, folder, monkeypatch, *, smoke='1'):
  """Runs all cells in a kernel of its own; returns what they printed and how many drew."""
  cache = os.environ['JAX_COMPILATION_CACHE_DIR']
  for key in [key for key in os.environ if key.startswith(('JAX_', 'XLA_'))]:
    monkeypatch.delenv(key)
  path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
  given = {
    'VMAE_SMOKE': smoke,
    'PYTHONPATH': path,
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'True',  # Compiling is nearly all of the time.
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JUPYTER_PLATFORM_DIRS': '1',
    'IPYTHONDIR': str(folder / '.ipython'),
  }
  for key, value in given.items():
    monkeypatch.setenv(key, value)
  client = NotebookClient(
    notebook,
    timeout=600,
    kernel_name='python3',
    resources={'metadata': {'path': str(folder)}},
  )
  client.execute()
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
  text = ''.join(output.text for output in outputs if output.output_type == 'stream')
  mimes = [mime for output in outputs for mime in output.get('data', {})]
  return text, sum(mime.startswith('image/') for mime in mimes)


def test_there_are_four():
  assert [path.stem for path in PATHS] == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_form(name):
  """Short, no outputs, valid, the same installation in all, and no training code of its own."""
  notebook = read(name)
  nbformat.validate(notebook)
  assert len(notebook.cells) < 30
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids) and all(re.fullmatch(r'[a-z-]+', i) for i in ids)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
  assert code[0].id == 'install' and code[1].id == 'settings'
  install = read(NAMES[0]).cells[1].source
  assert code[0].source == install and 'pip install' in install and 'git+https://' in install
  others = '\n'.join(cell.source for cell in code[1:])
  assert '# @param' in others and 'VMAE_SMOKE' in others
  for own in ('optax', 'jax.grad', 'value_and_grad', 'flags', 'subprocess'):
    assert own not in others
  assert notebook.cells[0].cell_type == 'markdown' and notebook.cells[0].source.startswith('# ')


def test_installation_does_nothing_where_the_package_is(tmp_path):
  """The cell as Python, in a folder without a checkout above."""
  from IPython.core.inputtransformer2 import TransformerManager

  source = TransformerManager().transform_cell(read(NAMES[0]).cells[1].source)
  assert 'get_ipython' in source

  def refuse():
    raise AssertionError('it would install')

  before = list(sys.path)
  folder = os.getcwd()
  os.chdir(tmp_path)
  try:
    exec(compile(source, 'install', 'exec'), {'get_ipython': refuse})
  finally:
    os.chdir(folder)
  assert sys.path == before


def test_tour_of_motion(tmp_path, monkeypatch):
  text, pictures = execute(read('tour_of_motion'), tmp_path, monkeypatch)
  assert '4 time slots of 4 x 4 tokens' in text and 'codes in use' in text
  assert pictures == 8
  assert (tmp_path / 'runs' / 'tour.gif').read_bytes()[:4] == b'GIF8'


def pretrain(methods, tmp_path, monkeypatch):
  notebook = read('pretrain_small')
  cell = next(cell for cell in notebook.cells if cell.id == 'settings')
  cell.source, count = re.subn(r"(?m)^METHOD = 'all'", f"METHOD = '{methods}'", cell.source)
  assert count == 1
  _, pictures = execute(notebook, tmp_path, monkeypatch)
  table = (tmp_path / 'runs' / 'pretrain_small_2_48' / 'table.md').read_text()
  return table, pictures


@pytest.mark.slow
def test_pretrain_small(tmp_path, monkeypatch):
  """One of the five, the one with a second network: a tokenizer, trained before it."""
  table, pictures = pretrain('mam2', tmp_path, monkeypatch)
  rows = [line.split('|')[1:3] for line in table.splitlines()[4:6]]
  names = [tuple(cell.strip() for cell in row) for row in rows]
  assert names == [('mam2', 'pre-trained'), ('mam2', 'untrained')]
  assert '48 training and 12 held-out clips' in table
  assert pictures == 1 + 1 + 2


@pytest.mark.slow
def test_pretrain_all(tmp_path, monkeypatch):
  table, pictures = pretrain('all', tmp_path, monkeypatch)
  assert table.count('untrained') == 10  # Of motions and of looks.
  assert pictures == 1 + 1 + 9


def test_finetune_and_export(tmp_path, monkeypatch):
  """With PyTorch where it is installed, as in a full run: the exported logits are equal."""
  torch = None not in map(importlib.util.find_spec, ('torch', 'transformers'))
  text, pictures = execute(
    read('finetune_and_export'), tmp_path, monkeypatch, smoke='torch' if torch else '1'
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


def test_segment_a_video(tmp_path, monkeypatch):
  text, pictures = execute(read('segment_a_video'), tmp_path, monkeypatch)
  found = dict(re.findall(r'(?m)^(.+?) +J (\d\.\d\d) ', text))
  assert list(found) == ['pre-trained', 'untrained', 'left where it was', 'truth']
  assert found['truth'] == '1.00' and float(found['left where it was']) > 0.3
  assert pictures == 3
  folder = tmp_path / 'runs' / 'segment_a_video'
  assert len(list((folder / 'masks').glob('*.png'))) == 4
  assert (folder / 'segmented.mp4').read_bytes()[4:8] == b'ftyp'
