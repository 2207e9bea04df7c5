"""The page holds what was measured."""

from tests.benchmark import tables

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


def test_the_page_is_made_from_the_stored_results():
  text = tables.PAGE.read_text()
  assert text.count('<!-- benchmark ') == len(tables.TABLES)
  assert tables.fill(text, tables.stored()) == text
