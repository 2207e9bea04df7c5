"""Processes of a run that differ in code, config or data say so and do not start."""

import socket
import subprocess
import sys

import pytest

from tests import started
from vmae_jax.config_file import load_config
from vmae_jax.data.sources import Entry, FileSource, open_source
from vmae_jax.errors import UserError
from vmae_jax.runs.agreement import check_same, check_same_data, describe, describe_data

CONFIG = load_config(started.SMOKE)
FILES = FileSource((Entry('/a/data/1.mp4', 0), Entry('/a/data/x/2.mp4', 1)))


def changed(**values):
  return describe(CONFIG, FILES) | {'host': 'other'} | values


def test_the_same_everywhere():
  check_same([describe(CONFIG, FILES)] * 3)


def test_a_difference_names_key_and_processes():
  usual = describe(CONFIG, FILES) | {'host': 'usual'}
  with pytest.raises(UserError) as error:
    check_same([usual, changed(jax='0.1'), usual, usual, changed(jax='0.1')])
  told = str(error.value)
  assert told.startswith('the 5 processes of this run differ: jax is 0.1 in process 1 (other), 4 (')
  assert f'but {usual["jax"]} in process 0 (usual)' in told and '\n' not in told


def test_one_key_more_is_a_difference():
  with pytest.raises(UserError, match='config new is 1 in process 1 .*, but absent in process 0'):
    check_same([changed(), changed(**{'config new': '1'})])


def test_only_some_of_many_differences_are_listed():
  about = changed()
  other = {key: 'z' for key in about}
  with pytest.raises(UserError, match='; and [0-9]+ more. Start all') as error:
    check_same([about, other, about])
  assert str(error.value).count(' in process 1') == 6


def test_what_is_compared():
  about = describe(CONFIG, FILES)
  config = CONFIG.copy_and_resolve_references()
  config.optimizer.base_lr = 1.0
  other = describe(config, FILES)
  assert {key for key in about if about[key] != other[key]} == {'config optimizer.base_lr'}
  config = CONFIG.copy_and_resolve_references()
  config.data.root, config.data.threads = '/mnt/elsewhere', 3
  assert describe(config, FILES) == about  # These may differ between hosts.
  for entries in (
    FILES.entries[::-1],
    (FILES.entries[0], FILES.entries[1]._replace(label=2)),
    (FILES.entries[0], FILES.entries[1]._replace(start=3)),
    (FILES.entries[0], FILES.entries[1]._replace(path='/a/data/x/3.mp4')),
  ):
    other = describe(CONFIG, FileSource(entries))
    assert {key for key in about if about[key] != other[key]} == {'list of videos'}
  moved = FileSource(tuple(e._replace(path=f'/b{e.path}') for e in FILES.entries))
  assert describe(CONFIG, moved) == about
  mixed = FileSource((Entry('gs://bucket/1.mp4', 0), Entry('/a/2.mp4', 1)))
  assert describe(CONFIG, mixed)['list of videos'] != about['list of videos']
  assert {'grain', 'av', 'libtpu', 'array-record'} <= about.keys()
  synthetic = describe(CONFIG, open_source('synthetic:train'))
  assert synthetic['number of videos'] != about['number of videos']


def test_other_data_at_a_resume_are_refused_or_logged(caplog):
  before = describe_data(FILES)
  moved = FileSource(tuple(e._replace(path=f'/b{e.path}') for e in FILES.entries))
  assert not check_same_data(before, describe_data(moved), changed=False)
  assert not check_same_data({}, before, changed=False)  # An older checkpoint.
  more = describe_data(FileSource((*FILES.entries, Entry('/a/data/3.mp4', 0))))
  with pytest.raises(UserError, match='number of videos was 2, is 3; list of videos was ') as error:
    check_same_data(before, more, changed=False)
  assert 'data.changed=True' in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='grain was 0.1, is '):
    check_same_data(before | {'grain': '0.1'}, before, changed=False)
  assert not caplog.records
  assert check_same_data(before, more, changed=True)
  assert 'number of videos was 2, is 3' in caplog.text


def test_the_code_is_compared(monkeypatch, tmp_path):
  from vmae_jax.runs import agreement

  (tmp_path / 'training').mkdir()
  monkeypatch.setattr(agreement, '__file__', str(tmp_path / 'training' / 'agreement.py'))
  codes = []
  for name, text in (('a.py', 'x = 1'), ('a.py', 'x = 2'), ('b.py', 'x = 2'), ('c.txt', '')):
    (tmp_path / name).write_text(text)
    codes.append(agreement._code())
  assert len(set(codes)) == 3 and codes[2] == codes[3]  # Other files are not code.


PROGRAM = """
import sys
from vmae_jax import cli, peers
from vmae_jax.config_file import load_config

def main(argv):
  peers.join()
  from vmae_jax.data.sources import open_source
  from vmae_jax.runs.agreement import check_agreement

  config = load_config(argv[1])
  config.data.root = argv[3]  # May differ; it also makes the messages differ in length.
  check_agreement(config, open_source('synthetic:train'))
  config.batch_size = int(argv[2])
  check_agreement(config, open_source('synthetic:train'))
  print('agreed')

cli.run(main, absl_flags=False)
"""


@pytest.mark.parametrize('sizes', [(8, 8), (8, 1600)], ids=['agree', 'differ'])
def test_two_processes(sizes):
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  children = []
  for i, size in enumerate(sizes):
    env = started.environment(
      JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=i
    )
    command = [sys.executable, '-c', PROGRAM, started.SMOKE, str(size), 'x' * (1 + 5 * i)]
    children.append(
      subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
      )
    )
  outputs = [child.communicate(timeout=300)[0] for child in children]
  codes = [child.returncode for child in children]
  if sizes[0] == sizes[1]:
    assert codes == [0, 0] and all('agreed' in text for text in outputs), outputs
    return
  assert codes == [2, 2], outputs
  for text in outputs:
    assert 'config batch_size is 1600 in process 1' in text and 'but 8 in process 0' in text
