"""Tables out of the benchmark's JSON files, for the terminal and for README.md.

  python -m vmae_jax.benchmark.tables README.md vmae_jax/benchmark/results/*.json

In the Markdown file, what stands between a line `<!-- benchmark NAME -->` and the next
`<!-- end -->` is replaced by the tables of that command's newest result, and where, when and
with what they were measured.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmae_jax import cli
from vmae_jax.benchmark import (
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
from vmae_jax.errors import UserError, lookup


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
BLOCK = re.compile(r'(<!-- benchmark (?P<name>\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
PEERS = ('jax', 'libtpu', 'torch', 'transformers', 'opencv-python-headless', 'torchcodec')


def fill(text: str, reports: list[dict]) -> str:
  """The text with its tables made anew.

  Args:
    text: Markdown with marked places.
    reports: What the benchmark wrote; of several with a command's result the newest counts.

  Raises:
    UserError: a place names no command, or one that no report has.
  """

  def block(match):
    name = match['name']
    table = lookup(TABLES, name, 'benchmark')
    there = [report for report in reports if name in report['results']]
    if not there:
      raise UserError(f'none of the files has a result of the command {name}.')
    report = max(there, key=lambda report: report['date'])
    return f'{match[1]}\n{table(report["results"][name])}\n\n{origin(name, report)}\n\n{match[3]}'

  return BLOCK.sub(block, text)


def origin(name: str, report: dict) -> str:
  """Where, when and with what something was measured, in one line."""
  machine, versions = report['machine'], report['versions']
  there = ', '.join(f'{peer} {versions[peer]}' for peer in PEERS if versions.get(peer))
  return (
    f'`benchmark {name}`, {report["date"][:10]}, {machine["cores"]} cores of {machine["cpu"]}; '
    f'{there}; load of the machine at the start {report["load_average"]:.1f}'
  )


def main(argv: list[str]) -> None:
  if len(argv) < 3:
    raise UserError('give a Markdown file and the JSON files: see --help.')
  markdown, *files = (Path(name) for name in argv[1:])
  if missing := [str(path) for path in (markdown, *files) if not path.is_file()]:
    raise UserError(f'there is no file {missing[0]}.')
  reports = []
  for path in files:
    try:
      reports.append(json.loads(path.read_text()))
      reports[-1]['results'], reports[-1]['date']
    except (ValueError, KeyError, TypeError) as e:
      raise UserError(f'{path} was not written by vmae_jax.benchmark.') from e
  markdown.write_text(fill(markdown.read_text(), reports))


if __name__ == '__main__':
  cli.run(main)
