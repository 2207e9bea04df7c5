"""The launch files: syntax, dry runs, and the demo, step by step."""

import re
import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

from tests import started
from tests.launch.shell import LAUNCH, bash, command
from vmae_jax.runs.run_dir import prepare_run_dir

SCRIPTS = [
  *('common.sh', 'local.sh', 'measure.sh', 'slurm.sbatch'),
  *('tpu_host.sh', 'tpu_pod.sh', 'xla_flags.sh'),
]


@pytest.mark.parametrize('name', SCRIPTS)
def test_syntax(name):
  assert bash('-n', LAUNCH / name) == (0, '', '')


@pytest.mark.parametrize('name', ['common.sh', 'local.sh', 'tpu_pod.sh', 'xla_flags.sh'])
def test_runs_on_macos(name):
  """Whose bash is 3.2, and whose tar, sed, xargs and date are not GNU's."""
  code = [line for line in (LAUNCH / name).read_text().splitlines() if line.lstrip()[:1] != '#']
  newer = (
    r'mapfile|readarray|declare -[An]|local -[An]|wait -n|&>>|\|&|\$\{\w+(,,|\^\^|@)|\[-\d+\]'
    r'|=~ [^"$]|\$\{\w+\[@\]:|ignore-failed-read|xargs -\w*[rd]|sed -\w*i|date -[dr]'
    r'|readlink -f|tail --pid'
  )
  assert [line for line in code if re.search(newer, line)] == []
  # Arrays that may be empty: with set -u they are unset there.
  empty = set(re.findall(r'\b(\w+)=\(\)', '\n'.join(code))) - {'run'}
  for array in empty:
    bare = re.findall(rf'.*(?<!\+)"\$\{{{array}\[@\]\}}".*', '\n'.join(code))
    assert bare == []


@pytest.mark.full
def test_shellcheck():
  done = subprocess.run(
    [
      Path(sys.executable).with_name('shellcheck'),
      '-x',
      '.ci/run',
      'tests/run.sh',
      *(f'launch/{name}' for name in SCRIPTS),
    ],
    cwd=started.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.full
def test_hadolint():
  hadolint = Path(sys.executable).with_name('hadolint')
  done = subprocess.run([hadolint, LAUNCH / 'Dockerfile'], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', SCRIPTS[1:])
def test_help_is_the_header(name):
  code, out, _ = bash(LAUNCH / name, '--help')
  assert code == 0 and f'launch/{name}' in out and 'set -e' not in out and '#' not in out[:2]


def test_flags_of_gpus():
  code, out, _ = bash(LAUNCH / 'xla_flags.sh', 'gpu', XLA_FLAGS='--xla_dump_to=x')
  assert code == 0
  (lines,) = [out.splitlines()]
  platforms, flags, memory, cache = lines
  assert platforms == 'export JAX_PLATFORMS=cuda\\,cpu'
  assert flags.startswith('export XLA_FLAGS=--xla_dump_to=x') and 'latency_hiding' in flags
  assert memory == 'export XLA_PYTHON_CLIENT_MEM_FRACTION=0.9'
  assert cache == 'export JAX_COMPILATION_CACHE_DIR=/home/me/.cache/vmae_jax'
  # They reach the shell as one value.
  code, out, _ = bash('-c', f'{out}\nprintf "%s" "$XLA_FLAGS"')
  assert out == '--xla_dump_to=x --xla_gpu_enable_latency_hiding_scheduler=true'


def test_flags_that_are_set_stay():
  own = dict(
    XLA_FLAGS='--xla_gpu_enable_latency_hiding_scheduler=false',
    XLA_PYTHON_CLIENT_MEM_FRACTION='0.5',
    JAX_COMPILATION_CACHE_DIR='/c',
    JAX_PLATFORMS='cuda',
  )
  assert bash(LAUNCH / 'xla_flags.sh', 'gpu', **own) == (0, '', '')
  lines = bash(LAUNCH / 'xla_flags.sh', 'tpu', '--config=c', '--workdir=/mnt/a b')[1].splitlines()
  assert lines == [
    'export JAX_PLATFORMS=tpu\\,cpu',
    'export JAX_COMPILATION_CACHE_DIR=/mnt/a\\ b/.compiled',  # Where all hosts see it.
  ]
  told = bash(LAUNCH / 'xla_flags.sh', 'tpu', '--workdir=~/a b')[1]
  assert 'DIR=/home/me/a\\ b/.compiled\n' in told  # No shell replaces that ~.
  told = bash(LAUNCH / 'local.sh', '--videos=~/a b')[2]
  assert told == 'error: --videos=/home/me/a b: there is no such folder.\n'
  lines = bash(LAUNCH / 'xla_flags.sh', 'cpu')[1].splitlines()
  assert len(lines) == 2 and lines[0] == 'export TF_CPP_MIN_LOG_LEVEL=3'
  code, _, told = bash(LAUNCH / 'xla_flags.sh')
  assert code == 2 and told.startswith('error: ') and told.count('\n') == 1


def test_a_folder_with_compiled_programs_alone_is_still_free(tmp_path):
  """JAX makes it before the run's first file may be there."""
  lines = bash(LAUNCH / 'xla_flags.sh', 'cpu', f'--workdir={tmp_path}')[1].splitlines()
  Path(lines[-1].split('=')[1]).mkdir()
  assert len(list(tmp_path.iterdir())) == 1
  config = ml_collections.ConfigDict({'batch_size': 8})
  for _ in range(2):
    prepare_run_dir(tmp_path, config)


@pytest.mark.parametrize('backend', ['cpu', 'gpu', 'gpu without plugin'])
@pytest.mark.parametrize('method', ['mme', 'mam2', 'mvd'])
def test_demo_step_by_step(backend, method, tmp_path):
  """With a Python that only writes down what it is asked."""
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'launch').mkdir()
  for name in ('launch/common.sh', 'launch/local.sh', 'launch/xla_flags.sh', 'requirements.txt'):
    (tmp_path / name).write_text((started.ROOT / name).read_text())
  (tmp_path / f'configs/{method}.py').touch()
  for labels in ('synthetic', 'synthetic/look'):  # Of which the second half of the demo takes some.
    (tmp_path / 'runs/demo' / labels).mkdir(parents=True)
    (tmp_path / 'runs/demo' / labels / 'train.txt').touch()
  asked = tmp_path / 'asked'
  command(
    tmp_path / '.venv/bin',
    'python',
    f'case "$*" in *find_spec*) exit {int("plugin" in backend)} ;; esac\n'
    f'echo "$2 ${{JAX_PLATFORMS:-none}} ${{XLA_FLAGS:-none}} $*" >> {asked}',
  )
  command(tmp_path / 'bin', 'nvidia-smi', f'exit {int(backend == "cpu")}')
  code, out, told = bash(
    tmp_path / 'launch/local.sh',
    f'--method={method}',
    '--steps=7',
    cwd=tmp_path,
    path=tmp_path / 'bin',
  )
  assert code == 0, told
  calls = [line.split(maxsplit=3) for line in asked.read_text().splitlines()]
  calls = [call for call in calls if call[0].startswith('vmae_jax.')]
  verbs = ['prepare', 'check_data', 'pretrain', 'probe', 'probe']
  if method == 'mam2':
    verbs.insert(2, 'train_tokenizer')
  if method == 'mvd':
    verbs[2:2] = ['pretrain', 'pretrain']
  assert [call[0] for call in calls] == [f'vmae_jax.{verb}' for verb in verbs]
  for verb in verbs:
    assert list((started.ROOT / 'vmae_jax').glob(f'{verb}*')), verb
  platform, flags = 'none', 'none'
  if backend == 'gpu':
    platform, flags = 'cuda,cpu', '--xla_gpu_enable_latency_hiding_scheduler=true'
  assert {tuple(call[1:3]) for call in calls} == {(platform, flags)}
  assert ("pip install 'jax[cuda13]'" in told) == (backend == 'gpu without plugin')
  pretrain = next(call[3] for call in reversed(calls) if call[0] == 'vmae_jax.pretrain')
  assert pretrain.count('.path=runs/demo/teacher_') == (2 if method == 'mvd' else 0)
  assert '/synthetic/look/val.txt' in calls[-1][3] and '/probe_look.json' in calls[-1][3]
  assert f'/configs/{method}.py:demo ' in pretrain and ' --config.steps=7' in pretrain
  assert '--config.log.held_out=runs/demo/synthetic/val.txt ' in pretrain
  assert 'Done. In runs/demo/run:' in out
