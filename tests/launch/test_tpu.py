"""tpu_pod.sh and tpu_host.sh: dry runs, and the ways of a run on made-up slices."""

import shutil
import signal
import subprocess
import threading

import pytest

from tests import started
from tests.launch.shell import LAUNCH, bash, command, repository

POD = ('--name=pod', '--zone=here', '--type=v5litepod-16', '--wait=0')
RUN = ('--', 'pretrain', '--config=configs/videomae.py:b,k400', '--workdir=/runs/a b')


@pytest.fixture(scope='module')
def launch(tmp_path_factory):
  """launch/ of a repository without .venv, where flags are not checked: that takes seconds."""
  return repository(tmp_path_factory.mktemp('repository'))


def test_pod_dry_run(launch):
  more = ('--spot', '--delete', '--create=--reserved', '--ssh=--internal-ip', '--dry-run')
  code, out, told = bash(launch / 'tpu_pod.sh', *POD, *more, *RUN)
  assert code == 0, told
  create, copy, install, start, follow, delete = out.splitlines()
  assert 'queued-resources create pod --node-id=pod --accelerator-type=v5litepod-16' in create
  assert '--runtime-version=v2-alpha-tpuv5-lite --spot --reserved --zone=here' in create
  assert 'bash\\ launch/tpu_host.sh' in install and 'start\\ pretrain' in start
  for line in (copy, install, start):
    assert '--node=all --worker=all' in line and '--internal-ip' in line
  assert 'scp' in copy and 'follow' in follow and '--node=0 --worker=0' in follow
  assert 'queued-resources delete pod' in delete
  assert out.count('reserved') == 1


@pytest.mark.parametrize(
  'given, type_, slices',
  [
    ('v5e-16', 'v5litepod-16', 1),
    ('v5e:4x4', 'v5litepod-16', 1),
    ('2*v5e:16x16', 'v5litepod-256', 2),
    ('v6e:2x4', 'v6e-8', 1),
    ('v5p:4x4x8', 'v5p-256', 1),  # 128 chips of two cores.
    ('3*v4-512', 'v4-512', 3),
  ],
)
def test_pod_types(given, type_, slices, launch):
  code, out, told = bash(launch / 'tpu_pod.sh', *POD[:2], f'--type={given}', '--dry-run', *RUN)
  assert code == 0, told
  assert f'--accelerator-type={type_} ' in out
  nodes = f'--node-count={slices} --node-prefix=pod ' if slices > 1 else '--node-id=pod '
  assert nodes in out


# Answers as gcloud does, from files: `states` of the queued resource and `codes` have a line for
# each question, the last of which stays. All that is asked for is noted.
GCLOUD = """
cd "$FAKE"
next() { head -n 1 "$1"; [ "$(wc -l < "$1")" -lt 2 ] || sed -i 1d "$1"; }
printf '%s\\n' "${*//$'\\n'/ }" >> asked
error() { echo "ERROR: (gcloud) $1" >&2; exit 1; }
case "$*" in
  *'tpu-vm describe'*) now="$(next nodes)" ;;
  *'queued-resources describe'*) now="$(next states)" ;;
  *' create '*) [ ! -e refused ] || error 'RESOURCE_EXHAUSTED: quota' ;;
  *'tpu_host.sh running'*) echo no ;;
  *'tpu_host.sh follow'*)
    echo 'step 1' >&2
    code="$(next codes)"
    [ "$code" != lost ] || exit 255
    echo "$code"
    ;;
  *'tpu_host.sh last'*) cat last ;;
esac
case "${now:-}" in
  '') ;;
  NONE) error "NOT_FOUND: Resource 'pod' was not found" ;;
  UNKNOWN) error 'There was a problem refreshing your current auth tokens' ;;
  *) echo "$now" ;;
esac
"""


@pytest.fixture
def pod(tmp_path, launch):
  def run(states, codes, *more, nodes=('READY',), last=''):
    (tmp_path / 'asked').unlink(missing_ok=True)
    command(tmp_path / 'bin', 'gcloud', GCLOUD)
    for name, lines in (('states', states), ('codes', codes), ('nodes', nodes), ('last', [last])):
      (tmp_path / name).write_text('\n'.join(lines) + '\n')
    arguments = (*POD, *more, *RUN)
    env = dict(path=tmp_path / 'bin', FAKE=str(tmp_path))
    code, _, told = bash(launch / 'tpu_pod.sh', *arguments, **env)
    return code, told, (tmp_path / 'asked').read_text().splitlines()

  return run


def count(asked, *words):
  return sum(all(word in line for word in words) for line in asked)


STARTS = 'tpu_host.sh start'


def test_pod_makes_a_slice_and_runs(pod):
  states = ['NONE', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
  code, told, asked = pod(states, ['0'], '--delete')
  assert code == 0 and '== done' in told and 'step 1' in told
  assert count(asked, 'queued-resources create') == 1 == count(asked, STARTS)
  assert count(asked, 'queued-resources delete') == 1


def test_pod_uses_what_is_there(pod):
  code, _, asked = pod(['ACTIVE'], ['0'])
  assert code == 0 and count(asked, ' create ') == 0 == count(asked, ' delete ')
  assert count(asked, STARTS) == 1


@pytest.mark.parametrize(
  'states, nodes',
  [
    (['ACTIVE', 'SUSPENDING', 'SUSPENDED', 'PROVISIONING', 'ACTIVE'], ['READY']),
    (['ACTIVE'], ['READY', 'PREEMPTED', 'CREATING', 'READY']),
    (['ACTIVE'], ['READY', 'NONE', 'READY']),
  ],
)
def test_pod_starts_again_after_preemption(states, nodes, pod):
  code, told, asked = pod(states, ['lost', '75', '0'], nodes=nodes)
  assert code == 0 and 'connection is lost' in told and 'starting again' in told
  assert count(asked, 'queued-resources delete') == 1 == count(asked, ' create ')
  assert count(asked, STARTS) == 3


def test_pod_of_several_slices(pod):
  code, _, asked = pod(['ACTIVE'], ['0'], '--slices=2')
  assert code == 0
  assert count(asked, 'tpu-vm describe pod-0') == 1 == count(asked, 'tpu-vm describe pod-1')


def test_pod_whose_state_is_unknown_is_not_made_again(pod):
  """The network, or a login that is over: only NOT_FOUND says that nothing is there."""
  code, told, asked = pod(['ACTIVE', 'UNKNOWN', 'UNKNOWN', 'ACTIVE'], ['lost', '0'])
  assert code == 0 and 'auth tokens' in told and count(asked, ' create ') == 0
  code, told, asked = pod(['UNKNOWN'], ['0'])
  assert code == 2 and 'auth tokens' in told and told.splitlines()[-1].startswith('error: gcloud ')


def test_pod_that_google_refuses(pod, tmp_path):
  (tmp_path / 'refused').touch()
  code, told, _ = pod(['NONE'], ['0'])
  assert code == 2 and 'quota' in told and told.splitlines()[-1].startswith('error: pod could not')
  code, told, _ = pod(['FAILED'], ['0'])
  assert code == 2 and 'the queued resource pod failed' in told


@pytest.mark.parametrize('code', ['1', '74', '134', 'gone'])
def test_pod_starts_again_after_failures_but_not_for_ever(code, pod):
  last = f'== host-7: exit code {code}\nKeyError: 7'
  ended, told, asked = pod(['ACTIVE'], [code, code, '0'], '--restarts=2', last=last)
  assert ended == 0 and count(asked, STARTS) == 3 and told.count('KeyError: 7') == 2
  ended, told, asked = pod(['ACTIVE'], [code, '75', code], '--restarts=1', last=last)
  assert ended == int(code.replace('gone', '1')) and 'failure 2, --restarts=1' in told


def test_pod_preemption_told_late_is_no_failure(pod):
  """Worker 0 often ends, with 1 or 134, before Google says that the slice is gone."""
  nodes = ['READY', 'PREEMPTED', 'PREEMPTED', 'READY']
  code, told, asked = pod(['ACTIVE'], ['134', '0'], '--restarts=0', nodes=nodes)
  assert code == 0 and count(asked, STARTS) == 2 and 'failure' not in told


@pytest.mark.parametrize('code', ['2', '130'])
@pytest.mark.parametrize('first', [True, False])
def test_pod_stops_at_a_mistake_of_any_host(code, first, pod):
  last = f'== host-0: exit code 134\nlost a peer\n== host-7: exit code {code}\nno such list'
  ended, told, asked = pod(['ACTIVE'], [code if first else '134'], last=last)
  assert ended == int(code) and 'no such list' in told and count(asked, STARTS) == 1
  assert f'a host ended with exit code {code}' in told.splitlines()[-1]


# A slice of one host that is this machine: commands run here, in a home of their own.
ONE_HOST = """
for argument in "$@"; do
  case "$argument" in
    --command=*) cd "$FAKE/home" && HOME="$FAKE/home" exec bash -c "${argument#*=}" ;;
    *.tgz) cp "$argument" "$FAKE/home" 2>/dev/null ;;
  esac
done
case "$*" in
  *'tpu-vm describe'*) echo READY ;;
  *'queued-resources describe'*) echo ACTIVE ;;
esac
"""
PYTHON = """
case "$*" in *' pip '*) exit ;; esac
case "$*" in *ml_collections*) exit 1 ;; esac
printf '<%s>' "$@"
[ "$JAX_PLATFORMS ${JAX_COMPILATION_CACHE_DIR##*/}" = 'tpu,cpu .compiled' ] || exit 0
echo " step 1 of 1" && sleep 0.5
"""


def test_pod_without_what_it_needs_starts_nothing(tmp_path, launch):
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  code_folder = tmp_path / 'home' / 'vmae_jax'
  failing = 'case "$*" in *" pip install "*) echo no such package >&2; exit 1 ;; esac\n'
  command(code_folder / '.venv' / 'bin', 'python', failing + PYTHON)
  arguments = (*POD, '--setup=false || touch mounted', *RUN)
  code, _, told = bash(launch / 'tpu_pod.sh', *arguments, path=tmp_path / 'bin', FAKE=str(tmp_path))
  assert code == 2 and told.count('no such package') == 5
  assert told.splitlines()[-1].startswith('error: pod could not be set up, five times in a row')
  assert not (code_folder / 'run/log').exists() and not (code_folder / 'mounted').exists()


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


def test_pod_commands_run(tmp_path, launch):
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  code_folder = tmp_path / 'home' / 'vmae_jax'
  command(code_folder / '.venv' / 'bin', 'python', PYTHON)
  arguments = (*POD, '--setup=false || touch mounted', *RUN)
  code, out, told = bash(
    launch / 'tpu_pod.sh', *arguments, path=tmp_path / 'bin', FAKE=str(tmp_path)
  )
  assert code == 0, told
  log = (code_folder / 'run/log').read_text()
  assert '<-m><vmae_jax.pretrain><--distributed>' in log and '<--workdir=/runs/a b>' in log
  assert 'step 1 of 1' in log and log in told  # Shown, too.
  assert (code_folder / 'run/code').read_text() == '0\n' and (code_folder / 'mounted').exists()
  # The code has been copied.
  assert (code_folder / 'vmae_jax' / 'cli.py').read_text() == (
    started.ROOT / 'vmae_jax' / 'cli.py'
  ).read_text()


def test_host_keeps_logs_and_removes_old_code(tmp_path):
  host = repository(tmp_path) / 'tpu_host.sh'
  command(tmp_path / '.venv' / 'bin', 'python', PYTHON)
  (tmp_path / 'runs').mkdir()
  for name in ('old.py', 'kept.py', 'runs/mine'):
    (tmp_path / name).touch()
  for files in (['old.py', 'kept.py'], ['kept.py']):
    subprocess.run(['tar', '-czf', 'code.tgz', *files], cwd=tmp_path, check=True)
    assert bash(host, 'prune', tmp_path / 'code.tgz')[0] == 0
  left = {path.name for path in tmp_path.iterdir()}
  assert 'old.py' not in left and 'kept.py' in left and (tmp_path / 'runs/mine').exists()
  logs = tmp_path / 'run/logs'
  logs.mkdir()
  for i in range(25):
    (logs / f'2020-01-01_00-00-{i:02}').touch()
  for step in (1, 2):
    assert bash(host, 'start', 'pretrain', f'--step={step}', '--workdir=/mnt/run')[0] == 0
    code, out, told = bash(host, 'follow')
    assert (code, out) == (0, '0\n') and f'<--step={step}>' in told
  kept = sorted(logs.iterdir())
  assert len(kept) == 20 and '<--step=1>' in kept[-1].read_text()
  code, out, _ = bash(host, 'last')
  assert out.splitlines()[0].endswith(': exit code 0') and '<--step=2>' in out
  assert bash(host, 'running') == (0, 'no\n', '')
  (tmp_path / 'run/code').unlink()
  assert bash(host, 'follow')[1] == 'gone\n'  # The host was started anew.


@pytest.mark.parametrize('stays', [False, True])
def test_pod_waits_for_the_run_before(stays, tmp_path, launch):
  """One that has been told to stop is still saving; one that hangs is ended."""
  command(tmp_path / 'bin', 'gcloud', ONE_HOST)
  command(
    tmp_path / 'bin', 'timeout', f'exec {shutil.which("timeout")} 3 "${{@:2}}"'
  )  # In place of 300 s.
  code_folder = tmp_path / 'home' / 'vmae_jax'
  command(code_folder / '.venv' / 'bin', 'python', PYTHON)
  script = f'sleep {60 if stays else 1}; date +%s.%N > {tmp_path}/ended; : tpu_host.sh'
  before = subprocess.Popen(['bash', '-c', script], start_new_session=True)
  (code_folder / 'run').mkdir()
  (code_folder / 'run/pid').write_text(f'{before.pid}\n')
  (code_folder / 'run/code').write_text('75\n')
  watch = threading.Thread(target=before.wait)  # Else it would stay, as a zombie.
  watch.start()
  code, _, told = bash(launch / 'tpu_pod.sh', *POD, *RUN, path=tmp_path / 'bin', FAKE=str(tmp_path))
  watch.join(timeout=60)
  assert code == 0, told
  assert 'step 1 of 1' in (code_folder / 'run/log').read_text()
  if stays:
    assert before.returncode == -signal.SIGKILL and not (tmp_path / 'ended').exists()
  else:
    ended = float((tmp_path / 'ended').read_text())
    assert before.returncode == 0 and ended < (code_folder / 'run/log').stat().st_mtime


@pytest.mark.parametrize(
  'arguments, part',
  [
    (POD, 'give a verb'),
    (('--name=a', '--zone=b', *RUN), 'give --name, --zone and --type'),
    (('--nmae=a', *RUN), '--nmae=a is not known'),
    ((*POD[:2], '--type=v9-8', '--dry-run', *RUN), '--type=v9-8: its system is not known'),
    ((*POD, '--slices=two', *RUN), 'two is not a number'),
    ((*POD, '--', 'pertrain', '--config=c'), 'there is no verb pertrain'),
    ((*POD, '--', 'pretrain', '--config=configs/videomea.py:b'), 'there is no config file'),
    ((*POD, *RUN, '--config.modle.size=b'), "it has no key 'modle'"),
    ((*POD, *RUN, '--wrokdir=b'), 'there is no flag --wrokdir'),
  ],
)
def test_pod_mistakes(arguments, part):
  code, _, told = bash(LAUNCH / 'tpu_pod.sh', *arguments)
  assert code == 2 and part in told and told.count('\n') == 1
