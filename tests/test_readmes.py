"""What the READMEs promise: links lead somewhere, commands exist, code runs."""

import ast
import functools
import re
import shlex

import pytest

from tests.started import ROOT
from vmae_jax.config_file import load_config, look_up

SKIPPED = ('.venv', 'node_modules', '.pytest_cache')
PAGES = sorted(
  path for path in ROOT.rglob('*.md') if not set(SKIPPED) & set(path.relative_to(ROOT).parts)
)
VERB = re.compile(r'(?:python -m vmae_jax\.|-- +|slurm\.sbatch )(\w+) ([^\n#]*)')


def name_of(path):
  return str(path.relative_to(ROOT))


def anchors(path):
  """The anchors that GitHub gives the headings of a page."""
  text = re.sub(r'(?s)```.*?```', '', path.read_text())
  for heading in re.findall(r'(?m)^#+ (.*)$', text):
    heading = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    yield re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_links_lead_somewhere(page):
  text = re.sub(r'(?s)```.*?```|`[^`\n]*`', '', page.read_text())
  for target in re.findall(r'\]\(([^)\s]+)\)', text):
    if re.match(r'https?:|mailto:', target):
      continue
    path, _, anchor = target.partition('#')
    found = (page.parent / path).resolve() if path else page
    assert found.exists(), target
    assert not anchor or anchor in anchors(found), target


def test_the_front_page_is_short():
  lines = (ROOT / 'README.md').read_text().splitlines()
  assert len(lines) <= 250
  assert [line for line in lines if len(line) > 120 and not line.startswith('|')] == []


@functools.cache
def flags_of(verb):
  """The flags of a verb, and those that the functions of `cli` that it calls define."""
  if (folder := ROOT / 'vmae_jax' / verb).is_dir():
    sources = [path.read_text() for path in folder.glob('*.py')]
    found = re.findall(r"'--([\w-]+)'", ''.join(sources))
    options = re.findall(r"\('(\w+)', '", ''.join(sources))  # Those of `Encoding`.
    return {*found, *(name.replace('_', '-') for name in options)}
  source = (ROOT / 'vmae_jax' / f'{verb}.py').read_text()
  functions = {
    node.name: ast.unparse(node)
    for node in ast.parse((ROOT / 'vmae_jax' / 'cli.py').read_text()).body
    if isinstance(node, ast.FunctionDef)
  }
  for _ in range(2):  # define_run calls define_config.
    called = [name for name in functions if re.search(rf'\b{name}\(', source)]
    source += ''.join(functions.pop(name) for name in called if name.startswith('define_'))
  return {*re.findall(r"DEFINE_\w+\(\s*'(\w+)'", source), 'help'}


def commands():
  for page in PAGES:
    text = re.sub('<!--.*?-->', '', page.read_text()).replace('\\\n', ' ')
    for verb, rest in VERB.findall(text):
      yield pytest.param(verb, rest, id=f'{name_of(page)}: {verb} {rest[:40]}')
  table = (ROOT / 'README.md').read_text().split('## The verbs')[1].split('\n## ')[0]
  for command in re.findall(r'(?m)^\| \w+ \| (`.*`) \|', table):
    verb, rest = re.match(r'`(\w+) (.*)`', command).groups()
    yield pytest.param(verb, rest.replace('`, `', ' '), id=f'table: {verb}')


@pytest.mark.parametrize('verb, rest', [*commands()])
def test_commands_exist(verb, rest):
  assert any((ROOT / 'vmae_jax' / name).exists() for name in (f'{verb}.py', f'{verb}/__main__.py'))
  rest = re.sub(r'`.*', '', rest) if '`' in rest else rest
  arguments = shlex.split(rest.replace("'", ' '))
  given = dict(
    argument[2:].partition('=')[::2] for argument in arguments if argument.startswith('--')
  )
  unknown = {key for key in given if not key.startswith('config.')} - flags_of(verb)
  assert not unknown
  spec = given.get('config', '')
  if not spec or 'SIZE' in spec or '...' in spec or spec.startswith(('mine', 'my_method')):
    return
  config = load_config(spec)
  for key in given:
    if key.startswith('config.'):
      look_up(config, key.removeprefix('config.'))


def test_the_new_method_of_the_front_page_is_one(tmp_path):
  import jax  # Not above: the other tests are done before it is loaded.

  from vmae_jax.masking import MASKINGS
  from vmae_jax.method.build import build_method
  from vmae_jax.targets import TARGETS

  page = (ROOT / 'README.md').read_text()
  (code,) = re.findall(r'(?s)```python\n(import jax\.numpy.*?)```', page)
  (tmp_path / 'mine.py').write_text(code)
  before = set(MASKINGS), set(TARGETS)  # What the file adds is taken out again.
  try:
    method = build_method(load_config(f'{tmp_path}/mine.py:smoke'))
    params = jax.eval_shape(method.init, jax.random.key(0))
    loss, parts = jax.eval_shape(method.loss, params, method.example(), method.frozen)
    assert loss.shape == () and set(parts) == {'loss_pixels', 'loss_bright'}
    mask = MASKINGS['columns'](jax.random.key(0), None, None, grid=(2, 4, 4), ratio=0.5)
    assert sorted(mask.visible.tolist() + mask.masked.tolist()) == list(range(32))
    assert len({i % 4 for i in mask.visible.tolist()}) == 2
  finally:
    for table, names in zip((MASKINGS, TARGETS), before, strict=True):
      for name in set(table) - names:
        del table[name]


def test_python_in_the_readmes_is_python():
  for page in PAGES:
    for code in re.findall(r'(?s)```python\n(.*?)```', page.read_text()):
      ast.parse(code)
