"""tpu_pod.sh and tpu_host.sh: dry runs, and the ways of a run on made-up slices."""

import shutil
import signal
import subprocess
import threading

import pytest

from tests import started
from tests.launch.shell import LAUNCH, bash, command

POD = ('--name=pod', '--zone=here', '--type=v5litepod-16', '--wait=0')
RUN = ('--', 'pretrain', '--config=configs/videomae.py:b,k400', '--workdir=/runs/a b')


def test_pod_dry_run():
  code, out, told = bash(LAUNCH / 'tpu_pod.sh', *POD, '--spot', '--delete', '--dry-run', *RUN)
  assert code == 0, told
  create, copy, install, start, follow, delete = out.splitlines()[:4] + [
    '\n'.join(out.splitlines()[4:-1]), out.splitlines()[-1]
  ]  # fmt: skip
  assert 'queued-resources create pod --node-id=pod --accelerator-type=v5litepod-16' in create
  assert '--runtime-version=v2-alpha-tpuv5-lite --spot --zone=here' in create
  assert 'tpu-vm scp' in copy and '--worker=all' in copy
  assert 'bash\\ launch/tpu_host.sh' in install and '--worker=all' in install
  assert 'vmae_jax.pretrain' in start and '--distributed' in start and '--worker=all' in start
  assert 'run.log' in follow and '--worker=0' in follow
  assert 'queued-resources delete pod' in delete


# Answers as gcloud does, from files: `states` and `codes` have a line for each question, the
# last of which stays. All that is asked for is noted.
GCLOUD = """
cd "$FAKE"
next() { head -n 1 "$1"; [ "$(wc -l < "$1")" -lt 2 ] || sed -i 1d "$1"; }
printf '%s\\n' "${*//$'\\n'/ }" >> asked
case "$*" in
  *'tpu-vm describe'*) next states | grep -v NONE || exit 1 ;;
  *'queued-resources describe'*) echo ACTIVE ;;
  *'! -e run.code'*) exit 1 ;;
  *'tail -n +1'*)
    echo 'step 1' >&2
    code="$(next codes)"
    [ "$code" != lost ] || exit 255
    echo "$code"
    ;;
esac
"""


def pod(tmp_path, states, codes, *more):
  command(tmp_path / 'bin', 'gcloud', GCLOUD)
  (tmp_path / 'states').write_text('\n'.join(states) + '\n')
  (tmp_path / 'codes').write_text('\n'.join(codes) + '\n')
  arguments = (*POD, *more, *RUN)
  code, _, told = bash(LAUNCH / 'tpu_pod.sh', *arguments, path=tmp_path / 'bin', FAKE=str(tmp_path))
  return code, told, (tmp_path / 'asked').read_text().splitlines()


def count(asked, *words):
  return sum(all(word in line for word in words) for line in asked)


def test_pod_makes_a_slice_and_runs(tmp_path):
  code, told, asked = pod(tmp_path, ['NONE', 'CREATING', 'READY'], ['0'], '--delete')
  assert code == 0 and '== done' in told and 'step 1' in told
  assert count(asked, 'queued-resources create') == 1 == count(asked, 'setsid')
  assert count(asked, 'queued-resources delete') == 1


def test_pod_uses_what_is_there(tmp_path):
  code, _, asked = pod(tmp_path, ['READY'], ['0'])
  assert code == 0 and count(asked, 'create') == 0 == count(asked, 'delete')
  assert count(asked, 'setsid') == 1


def test_pod_starts_again_after_preemption(tmp_path):
  states = ['READY', 'PREEMPTED', 'NONE', 'READY']
  code, told, asked = pod(tmp_path, states, ['lost', '75', '0'])
  assert code == 0 and 'connection is lost' in told and 'starting again' in told
  assert count(asked, 'queued-resources delete') == 1 == count(asked, 'queued-resources create')
  assert count(asked, 'setsid') == 3


# A slice of one host that is this machine: commands run here, in a home of their own.
ONE_HOST = """
for argument in "$@"; do
  case "$argument" in
    --command=*) cd "$FAKE/home" && HOME="$FAKE/home" exec bash -c "${argument#*=}" ;;
    *.tgz) cp "$argument" "$FAKE/home" 2>/dev/null ;;
  esac
done
case "$*" in *'tpu-vm describe'*) echo READY ;; esac
"""
PYTHON = """
case "$*" in *' pip '*) exit ;; esac
printf '<%s>' "$@"
[ -n "$JAX_COMPILATION_CACHE_DIR" ] && echo " step 1 of 1" && sleep 1
exit 0
"""


def test_pod_without_what_it_needs_starts_nothing(tmp_path):
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  code_folder = tmp_path / 'home' / 'vmae_jax'
  failing = 'case "$*" in *" pip install "*) echo no such package >&2; exit 1 ;; esac\n'
  command(code_folder / '.venv' / 'bin', 'python', failing + PYTHON)
  arguments = (*POD, '--setup=false || touch mounted', *RUN)
  code, _, told = bash(LAUNCH / 'tpu_pod.sh', *arguments, path=tmp_path / 'bin', FAKE=str(tmp_path))
  assert code == 2 and told.count('no such package') == 3
  assert told.splitlines()[-1].startswith('error: pod could not be set up, three times in a row')
  assert not (code_folder / 'run.log').exists() and not (code_folder / 'mounted').exists()


# Notes what it is asked, and makes environments whose Python is PYTHON.
UV = """
echo "uv $*" >> "$HOME/asked"
folder="${@: -1}/bin"
mkdir -p "$folder" && cp "$HOME/python" "$folder/python"
"""


@pytest.mark.parametrize('there', ['uv', 'pip', 'nothing'])
def test_tpu_host_without_a_new_python(there, tmp_path):
  """As on TPU VMs, where python3 is 3.10."""
  (tmp_path / 'launch').mkdir()
  for name in ('launch/common.sh', 'launch/tpu_host.sh', 'requirements.txt'):
    (tmp_path / name).write_text((started.ROOT / name).read_text())
  bin_ = tmp_path / 'bin'
  bin_.mkdir()
  for name in ('bash', 'cat', 'cksum', 'cp', 'dirname', 'mkdir', 'rm', 'touch', 'tr'):
    (bin_ / name).symlink_to(shutil.which(name))
  command(tmp_path / 'local', 'uv', UV)
  command(tmp_path, 'python', PYTHON)
  if there == 'uv':
    shutil.copy(tmp_path / 'local/uv', bin_)
  installs = 'mkdir -p "$HOME/.local/bin" && cp "$HOME/local/uv" "$HOME/.local/bin"'
  installs = installs if there == 'pip' else 'echo no network >&2; exit 1'
  asked_pip = f'echo "pip $*" >> "$HOME/asked"; {installs}'
  command(bin_, 'python3', f'case "$*" in *" pip install "*) {asked_pip} ;; *) exit 1 ;; esac')
  code, _, told = bash(tmp_path / 'launch/tpu_host.sh', HOME=str(tmp_path), PATH=str(bin_))
  asked = (tmp_path / 'asked').read_text().splitlines()
  if there == 'nothing':
    assert code == 2 and 'no network' in told and 'neither Python 3.11 or newer nor uv' in told
    return
  assert code == 0, told
  assert asked[0].startswith('pip -m pip install' if there == 'pip' else 'uv venv')
  assert asked[-1] == f'uv venv --quiet --seed --python 3.12 {tmp_path}/.venv'
  # Done once.
  assert bash(tmp_path / 'launch/tpu_host.sh', HOME=str(tmp_path), PATH=str(bin_))[0] == 0
  assert (tmp_path / 'asked').read_text().splitlines() == asked


def test_pod_commands_run(tmp_path):
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  code_folder = tmp_path / 'home' / 'vmae_jax'
  command(code_folder / '.venv' / 'bin', 'python', PYTHON)
  arguments = (*POD, '--setup=false || touch mounted', *RUN)
  code, out, told = bash(
    LAUNCH / 'tpu_pod.sh', *arguments, path=tmp_path / 'bin', FAKE=str(tmp_path)
  )
  assert code == 0, told
  log = (code_folder / 'run.log').read_text()
  assert '<-m><vmae_jax.pretrain><--distributed>' in log and '<--workdir=/runs/a b>' in log
  assert 'step 1 of 1' in log and log in told  # Shown, too.
  assert (code_folder / 'run.code').read_text() == '0\n' and (code_folder / 'mounted').exists()
  # The code has been copied.
  assert (code_folder / 'vmae_jax' / 'cli.py').read_text() == (
    started.ROOT / 'vmae_jax' / 'cli.py'
  ).read_text()


@pytest.mark.parametrize('stays', [False, True])
def test_pod_waits_for_the_run_before(stays, tmp_path):
  """One that has been told to stop is still saving; one that hangs is ended."""
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  command(
    tmp_path / 'bin', 'timeout', f'exec {shutil.which("timeout")} 3 "${{@:2}}"'
  )  # In place of 300 s.
  code_folder = tmp_path / 'home' / 'vmae_jax'
  command(code_folder / '.venv' / 'bin', 'python', PYTHON)
  script = f'sleep {60 if stays else 1}; date +%s.%N > {tmp_path}/ended; : vmae_jax'
  before = subprocess.Popen(['bash', '-c', script], start_new_session=True)
  (code_folder / 'run.pid').write_text(f'{before.pid}\n')
  (code_folder / 'run.code').write_text('75\n')
  watch = threading.Thread(target=before.wait)  # Else it would stay, as a zombie.
  watch.start()
  code, _, told = bash(LAUNCH / 'tpu_pod.sh', *POD, *RUN, path=tmp_path / 'bin', FAKE=str(tmp_path))
  watch.join(timeout=60)
  assert code == 0, told
  assert 'step 1 of 1' in (code_folder / 'run.log').read_text()
  if stays:
    assert before.returncode == -signal.SIGKILL and not (tmp_path / 'ended').exists()
  else:
    ended = float((tmp_path / 'ended').read_text())
    assert before.returncode == 0 and ended < (code_folder / 'run.log').stat().st_mtime


@pytest.mark.parametrize('exit_code', ['1', '2'])
def test_pod_stops_at_mistakes(exit_code, tmp_path):
  code, told, asked = pod(tmp_path, ['READY'], [exit_code])
  assert code == 2 and f'ended with exit code {exit_code}' in told
  assert count(asked, 'setsid') == 1


@pytest.mark.parametrize(
  'arguments, part',
  [
    (POD, 'give a verb'),
    (('--name=a', '--zone=b', *RUN), 'give --name, --zone and --type'),
    (('--nmae=a', *RUN), '--nmae=a is not known'),
    ((*POD[:2], '--type=v9-8', '--dry-run', *RUN), '--type=v9-8: no system is known'),
  ],
)
def test_pod_mistakes(arguments, part):
  code, _, told = bash(LAUNCH / 'tpu_pod.sh', *arguments)
  assert code == 2 and part in told and told.count('\n') == 1
