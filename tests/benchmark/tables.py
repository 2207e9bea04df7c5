"""Makes the tables of README.md out of the JSON files in results/: python -m tests.benchmark.tables

What stands there between a line `<!-- benchmark NAME -->` and the next `<!-- end -->` is replaced
by the tables of that command's newest result, and where, when and with what they were measured.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmark import (
  attention,
  checkpoint,
  decode,
  fits,
  flow,
  followed,
  loader,
  methods,
  scaling,
  step,
)


def _each(table: Callable[[dict], str]) -> Callable[[list[dict]], str]:
  return lambda results: '\n\n'.join(table(result) for result in results)


def _loader(result: dict) -> str:
  return f'{loader.memory_table(result["memory"])}\n\n{loader.speed_table(result["speed"])}'


# Command -> its result, as Markdown.
TABLES: dict[str, Callable[[Any], str]] = {
  'step': _each(step.table),
  'methods': _each(methods.table),
  'attention': attention.table,
  'finetune': _each(step.table),
  'inference': _each(step.table),
  'checkpoint': checkpoint.table,
  'fits': fits.table,
  'scaling': _each(scaling.table),
  'flow': flow.table,
  'masks': followed.table,
  'loader': _loader,
  'decode': _each(decode.table),
}
PAGE = Path(__file__).with_name('README.md')
BLOCK = re.compile(r'(<!-- benchmark (?P<name>\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
PEERS = ('jax', 'libtpu', 'torch', 'transformers', 'opencv-python-headless', 'torchcodec')


def fill(text: str, reports: list[dict]) -> str:
  """The text with its tables made anew; of several results of a command the newest counts."""

  def block(match):
    name = match['name']
    there = [report for report in reports if name in report['results']]
    report = max(there, key=lambda report: report['date'])
    table = TABLES[name](report['results'][name])
    return f'{match[1]}\n{table}\n\n{origin(name, report)}\n\n{match[3]}'

  return BLOCK.sub(block, text)


def stored() -> list[dict]:
  """All results."""
  return [json.loads(path.read_text()) for path in sorted((PAGE.parent / 'results').glob('*.json'))]


def origin(name: str, report: dict) -> str:
  """Where, when and with what something was measured, in one line."""
  machine, versions = report['machine'], report['versions']
  there = ', '.join(f'{peer} {versions[peer]}' for peer in PEERS if versions.get(peer))
  return (
    f'`benchmark {name}`, {report["date"][:10]}, {machine["cores"]} cores of {machine["cpu"]}; '
    f'{there}; load of the machine at the start {report["load_average"]:.1f}'
  )


if __name__ == '__main__':
  PAGE.write_text(fill(PAGE.read_text(), stored()))
