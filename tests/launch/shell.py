"""Launch files run as a user runs them, among commands that are made up."""

import os
import shutil
import subprocess

from tests import started

LAUNCH = started.ROOT / 'launch'


def bash(*command, cwd=started.ROOT, path=None, **env):
  env = {'PATH': os.environ['PATH'], 'HOME': '/home/me'} | env
  if path:
    env['PATH'] = f'{path}:{env["PATH"]}'
  done = subprocess.run(
    ['bash', *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
  )
  return done.returncode, done.stdout, done.stderr


def command(folder, name, script):
  """A command that the scripts find before the real one."""
  folder.mkdir(exist_ok=True, parents=True)
  (folder / name).write_text(f'#!/usr/bin/env bash\n{script}\n')
  (folder / name).chmod(0o755)


def repository(folder):
  """launch/ in what the scripts need of the repository, where they may write; has no .venv."""
  shutil.copytree(LAUNCH, folder / 'launch')
  for name in (
    'requirements.txt',
    'vmae_jax/cli.py',
    'vmae_jax/pretrain.py',
    'configs/videomae.py',
  ):
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(started.ROOT / name, folder / name)
  subprocess.run(['git', 'init', '-q', folder], check=True)
  return folder / 'launch'
