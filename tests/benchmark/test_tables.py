"""Tables in Markdown files, made from stored results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmae_jax.benchmark import tables
from vmae_jax.errors import UserError

ROOT = Path(__file__).parents[2]
TEXT = 'a\n<!-- benchmark checkpoint -->\nold\n<!-- end -->\nb\n'


def _report(date, seconds):
  row = dict(size='b', rounds=3, bytes=2e9, blocked=seconds, saved=2.0, restored=3.0)
  machine = dict(cpu='Abacus', cores=2)
  versions = {'jax': '0.10.2', 'torch': None}
  return dict(
    date=date, machine=machine, versions=versions, load_average=0.25, results={'checkpoint': [row]}
  )


def test_the_newest_result_replaces_what_is_between_the_marks():
  reports = [_report('2026-11-20T01:00', 0.5), _report('2026-11-21T01:00', 0.75)]
  filled = tables.fill(TEXT, reports)
  assert filled.startswith('a\n<!-- benchmark checkpoint -->\n')
  assert filled.endswith('\n<!-- end -->\nb\n')
  assert '| ViT-B | 2.00 | 0.75 | 2.00 | 3.00 |' in filled and 'old' not in filled
  origin = '2026-11-21, 2 cores of Abacus; jax 0.10.2; load of the machine at the start 0.2'
  assert origin in filled
  assert tables.fill(filled, reports) == filled


def test_mistakes():
  with pytest.raises(UserError, match="benchmark: there is no 'chekpoint'. Did you mean"):
    tables.fill(TEXT.replace('checkpoint', 'chekpoint'), [])
  with pytest.raises(UserError, match='none of the files has a result of the command checkpoint'):
    tables.fill(TEXT, [])


def test_every_command_has_a_table():
  # In a process of its own: entry points define flags.
  code = 'from vmae_jax.benchmark import __main__ as main, tables\n'
  code += 'assert set(tables.TABLES) == set(main.COMMANDS)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_readme_is_made_from_the_stored_results():
  files = (ROOT / 'vmae_jax/benchmark/results').glob('*.json')
  text = (ROOT / 'README.md').read_text()
  assert tables.fill(text, [json.loads(path.read_text()) for path in files]) == text
