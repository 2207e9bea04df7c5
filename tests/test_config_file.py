"""Where config files are found: in a checkout, and for an installed package."""

import subprocess
import sys
import tomllib

import pytest

from tests.started import ROOT
from vmae_jax.config_file import find_config
from vmae_jax.errors import UserError

PACKAGE = ROOT / 'vmae_jax'


def test_every_folder_of_the_package_is_installed():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']
  folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob('*.py')}
  rooms = {'.'.join(folder.parts) for folder in folders}
  assert set(settings['packages']) == rooms | {'vmae_jax.configs'}
  assert settings['package-dir'] == {'vmae_jax.configs': 'configs'}


@pytest.fixture
def installed(tmp_path):
  """A folder for PYTHONPATH, with the files that pip would install."""
  package = tmp_path / 'site' / 'vmae_jax'
  package.mkdir(parents=True)
  for path in PACKAGE.iterdir():
    (package / path.name).symlink_to(path)
  (package / 'configs').symlink_to(ROOT / 'configs')
  return tmp_path


def run(place, *arguments):
  environment = {'PYTHONPATH': str(place / 'site'), 'PATH': '/usr/bin:/bin'}
  command = [sys.executable, *arguments]
  return subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)


def test_configs_of_the_installed_package_are_found_by_name(installed):
  """Also what they import of each other, beside a folder of the user's that is called configs."""
  (installed / 'configs').mkdir()
  own = 'from configs import mam2\n\ndef get_config(arg):\n  return mam2.get_config(arg)\n'
  (installed / 'configs' / 'own.py').write_text(own)
  (installed / 'elsewhere.py').write_text(own)
  specs = ('mam2', 'mam2.py', 'configs/mam2.py', 'configs/own.py', 'elsewhere.py')
  program = (
    'from vmae_jax.config_file import load_config\n'
    f'print(*[load_config(f"{{x}}:smoke").method for x in {specs}])'
  )
  done = run(installed, '-c', program)
  assert done.stdout.split() == ['mam2'] * 5, done.stderr


def test_a_verb_takes_a_config_by_name_and_a_key_of_it(installed):
  given = ['--config=mam2:smoke', '--config.batch_sice=3', '--workdir=w']
  done = run(installed, '-m', 'vmae_jax.pretrain', *given)
  assert done.returncode == 2 and "Did you mean 'batch_size'?" in done.stderr


def test_files_come_first_and_typos_are_told(tmp_path, monkeypatch):
  assert find_config('videomae:b,k400') == f'{ROOT}/configs/videomae.py:b,k400'
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'videomae.py').touch()
  assert find_config('videomae.py:demo') == 'videomae.py:demo'
  with pytest.raises(UserError, match="no config file 'vidomae' .* Did you mean videomae?"):
    find_config('vidomae:demo')
  with pytest.raises(UserError, match='no config file'):
    find_config('../vmae_jax/cli:demo')
