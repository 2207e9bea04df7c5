"""The table of what fits which slice: which rows are compiled, kept and told."""

import pytest

from tests.benchmark import fits
from vmae_jax.errors import UserError

VERSIONS = {'jax': '1', 'libtpu': '2'}
ALL_REDUCE = {'all-reduce': dict(operations=6, runs=31, bytes=48_000_000, sent=96e6)}


def answer(**more):
  """What a process that compiled a step says."""
  return {
    **dict(device='TPU', devices=256, mesh=dict(data=256, fsdp=1, tensor=1), batch_size=1024),
    **dict(model=dict(remat='none'), fits=True, resharded=0, compile_seconds=90.0),
    'program': fits.PROGRAM,
    **dict(memory={'all': 3 * 2**29, 'limit': 2**34}, collectives=ALL_REDUCE),
    **more,
  }


@pytest.fixture
def compiled(monkeypatch):
  """What was compiled, in order; each fits."""
  asked = []

  def compile_alone(method, size, topology, settings, folder):
    asked.append((method, size, topology))
    return answer()

  monkeypatch.setattr(fits, 'compile_alone', compile_alone)
  monkeypatch.setattr(fits, '_versions', lambda topology: VERSIONS)
  return asked


def benchmark(*, methods=('videomae', 'mme'), sizes=('s', 'h'), topologies=('v5e:2x2',), kept=()):
  growing = fits.benchmark_fits(
    methods=list(methods), sizes=list(sizes), topologies=list(topologies), kept=list(kept)
  )
  return list(growing)


def test_rows_grow_one_by_one(compiled, capsys):
  steps = benchmark()
  assert [len(rows) for rows in steps] == [1, 2, 3, 4]
  assert compiled == [(m, s, 'v5e:2x2') for s in 'sh' for m in ('videomae', 'mme')]
  rows = steps[-1]
  assert [row['settings'] for row in rows] == [fits.LOOP] * 2 + [{'mesh.fsdp': 16}] * 2
  assert len({row['config'] for row in rows}) == 4 and rows[0]['versions'] == VERSIONS
  printed = capsys.readouterr().out.splitlines()
  assert printed[0] == (
    '1 of 4: videomae, size s, on v5e:2x2, data 256, 1,024 clips, remat none: 1.50 of 16.00 GiB, '
    'fits; all-reduce 31 times, 96 MB sent by each; compiled in 90 s'
  )


def test_what_is_there_is_not_compiled_again(compiled):
  rows = benchmark()[-1]
  compiled.clear()
  assert benchmark(kept=rows)[-1] == rows and not compiled
  # Others join them.
  more = benchmark(kept=rows, topologies=('v4:2x2x1',), sizes=('s',))[-1]
  assert compiled == [(m, 's', 'v4:2x2x1') for m in ('videomae', 'mme')] and len(more) == 6


def test_how_a_run_is_watched_is_no_reason_to_compile_again(compiled, monkeypatch):
  rows = benchmark()[-1]
  compiled.clear()
  monkeypatch.setitem(fits.SETTINGS, 's', fits.LOOP | {'log.profile': 9, 'probe.batch_size': 3})
  assert benchmark(kept=rows)[-1] == rows and not compiled


def test_what_changed_or_failed_is_compiled_again(compiled, monkeypatch):
  rows = benchmark()[-1]
  compiled.clear()
  rows[1] = rows[1] | {'error': 'killed'}
  monkeypatch.setitem(fits.SETTINGS, 'h', {'mesh.fsdp': 8})
  benchmark(kept=rows)
  assert [key[:2] for key in compiled] == [('mme', 's'), ('videomae', 'h'), ('mme', 'h')]
  compiled.clear()
  with monkeypatch.context() as patch:  # The same config compiles to another program.
    patch.setattr(fits, 'PROGRAM', fits.PROGRAM + 1)
    benchmark(kept=rows, sizes=('s',))
  assert len(compiled) == 2
  compiled.clear()
  others = [row | {'versions': VERSIONS | {'jax': '0'}} for row in rows]
  assert len(benchmark(kept=others, sizes=('s',))[-1]) == 2 == len(compiled)


def test_a_process_that_fails_loses_its_row(tmp_path):
  row = fits.compile_alone('nothing', 'b', 'local', {}, tmp_path)
  assert row['error'].startswith('error: there is no config file') and list(row) == ['error']
  row |= dict(method='nothing', size='b', topology='local')
  assert fits.describe(row).startswith('nothing, size b, on local: FAILED: error: there is no')


def test_slices_need_libtpu(monkeypatch):
  def version(name):
    if name == 'libtpu':
      raise fits.metadata.PackageNotFoundError(name)
    return '1'

  monkeypatch.setattr(fits.metadata, 'version', version)
  with pytest.raises(UserError, match=r'libtpu is not installed: pip install "jax\[tpu\]"'):
    benchmark()
  assert fits._versions('local') == {'jax': '1'}
  assert fits._versions('h200:8') == {'jax': '1', 'jax-cuda13-plugin': '1'}


def test_gpus_have_batches_of_their_own(compiled):
  row = benchmark(methods=('mme',), sizes=('l',), topologies=('2*h200:8',))[-1][0]
  assert row['settings'] == {'batch_size': 16 * 32, 'mesh.fsdp': 1}


def test_table():
  common = dict(size='b', topology='v5e:16x16', date='2026-11-21T10:00:00+00:00')
  split = answer(mesh=dict(data=16, fsdp=16, tensor=1), collectives=ALL_REDUCE | {'all-gather': {}})
  full = answer(memory={'all': 2**35, 'limit': 2**34}, fits=False, program=fits.PROGRAM - 1)
  rows = [
    full | common | dict(method='mme'),
    answer() | common | dict(method='videomae', topology='2*v5e:4x4'),
    answer() | common | dict(method='videomae'),
    split | common | dict(method='mme', size='h', date='2026-11-22T10:00:00+00:00'),
    common | dict(method='mam2', error='killed'),
  ]
  lines = fits.table(rows).splitlines()
  assert lines[2].split(' | ')[4:6] == ['videomae', 'mme']
  assert lines[4:6] == [
    '| v5e:16x16 | B | data 256, 1,024 clips, remat none | 16.00 | 1.50 | '
    '**32.00*: too much** | all-reduce |',
    '| v5e:16x16 | H | data 16 x fsdp 16, 1,024 clips, remat none | 16.00 |  | 1.50 | '
    'all-gather, all-reduce |',
  ]
  assert lines[6].startswith('| 2*v5e:4x4 | B |')
  assert lines[-1].startswith('4 compiled, 3 fit, 4 send nothing but sums')
  assert lines[-1].endswith('; 2026-11-21 to 2026-11-22; *: an earlier program')
  (last,) = [line for line in fits.table(rows[3:4]).splitlines() if 'send nothing but' in line]
  assert last.endswith('; 2026-11-22 to 2026-11-22')


def test_operations_that_no_step_needs_are_told():
  gathers = {'all-gather': {}, 'all-to-all': {}}
  assert fits.unexpected(answer(collectives=gathers)) == {'all-gather', 'all-to-all'}
  split = answer(mesh=dict(data=2, fsdp=8, tensor=1), collectives=gathers)
  assert fits.unexpected(split) == {'all-to-all'}
