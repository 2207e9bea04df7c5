"""The entry point that prepares data."""

import subprocess
import sys

import pytest

from vmae_jax.errors import UserError
from vmae_jax.prepare import __main__ as prepare


def run(*arguments):
  command = [sys.executable, '-m', 'vmae_jax.prepare', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_synthetic(tmp_path):
  out = tmp_path / 'new' / 'motion'
  arguments = ('synthetic', f'--out={out}', '--train=12', '--val=2', '--frames=2', '--size=16')
  first = run(*arguments)
  assert first.returncode == 0, first.stderr
  assert first.stdout == f'wrote {out}\n'
  assert '14/14' in first.stderr  # The progress bar.
  assert len((out / 'train.txt').read_text().splitlines()) == 12
  prepare.main(['prepare', *arguments])  # Kept: else it would raise.


def test_keeps_a_complete_set(tmp_path, capsys):
  arguments = ['prepare', 'synthetic', f'--out={tmp_path}/a', '--train=1', '--val=1', '--workers=1']
  prepare.main(arguments)
  prepare.main(arguments)
  assert capsys.readouterr().out.splitlines()[1].startswith('kept')


def test_mistakes_are_reported_in_one_line():
  done = run('synthetic', '--out=never', '--size=33')
  assert done.returncode == 2
  assert done.stderr.startswith('error: size is 33') and done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'COMMAND'),
    (['sintetic'], 'sintetic'),
    (['synthetic'], '--out'),
    (['synthetic', '--out=a', '--trian=3'], '--trian=3'),
    (['synthetic', '--out=a', '--train=many'], 'many'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(UserError, match=message):
    prepare.main(['prepare', *arguments])


def test_help(capsys):
  with pytest.raises(SystemExit) as exit_:
    prepare.main(['prepare', 'synthetic', '--help'])
  assert exit_.value.code == 0
  assert '8192' in capsys.readouterr().out
