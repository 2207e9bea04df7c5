"""slurm.sbatch: its dry run, and what it makes of the exit codes of a made-up srun."""

import pytest

from tests.launch.shell import LAUNCH, bash, command, repository

RUN = ('pretrain', '--config=configs/videomae.py:b,k400', '--workdir=a b')


def test_dry_run(tmp_path):
  """Run as its header says, and from anywhere."""
  code, out, told = bash(
    '-c', '"$@"', '-', LAUNCH / 'slurm.sbatch', '--dry-run', *RUN, cwd=tmp_path
  )
  assert code == 0, told
  assert 'srun' in out and '-m vmae_jax.pretrain --distributed ' in out and '=a\\ b' in out
  assert 'xla_gpu_enable_latency_hiding_scheduler=true' in out and 'JAX_PLATFORMS=cuda' in out
  assert 'JAX_COMPILATION_CACHE_DIR=a\\ b/.compiled' in out
  header = (LAUNCH / 'slurm.sbatch').read_text()
  for option in ('--requeue', '--signal=TERM@180', '--open-mode=append'):
    assert f'\n#SBATCH {option}\n' in header


def job(tmp_path, srun, **env):
  submitted = tmp_path / 'submitted'
  if not submitted.exists():
    repository(submitted)
  command(tmp_path / 'bin', 'srun', f'echo "$@" > {tmp_path}/asked\n{srun}')
  command(tmp_path / 'bin', 'scontrol', f'echo "$@" >> {tmp_path}/requeued')
  code, out, told = bash(
    LAUNCH / 'slurm.sbatch',
    *RUN,
    path=tmp_path / 'bin',
    cwd=tmp_path,
    SLURM_SUBMIT_DIR=str(submitted),
    SLURM_JOB_ID='17',
    **env,
  )
  requeued = tmp_path / 'requeued'
  return code, out + told, requeued.read_text().splitlines() if requeued.exists() else []


def test_each_process_gets_its_cpus(tmp_path):
  assert job(tmp_path, 'exit 0', SLURM_CPUS_PER_TASK='12')[0] == 0
  asked = (tmp_path / 'asked').read_text()
  assert '--cpus-per-task=12 ' in asked and '--kill-on-bad-exit=1' in asked


@pytest.mark.parametrize('code', [0, 2, 130])
def test_ends(code, tmp_path):
  ended, _, requeued = job(tmp_path, f'exit {code}')
  assert ended == code and not requeued


@pytest.mark.parametrize('code', [1, 74, 75, 134, 137])
def test_starts_again(code, tmp_path):
  ended, told, requeued = job(tmp_path, f'echo step 1; exit {code}')
  assert ended == 0 and requeued == ['requeue 17'] and 'step 1' in told


def test_one_mistake_among_killed_processes(tmp_path):
  """Srun's own exit code is the highest, here of those that it killed."""
  told = 'srun: error: n7: tasks 56-63: Exited with exit code 2'
  ended, out, requeued = job(tmp_path, f'echo "{told}" >&2; exit 137')
  assert ended == 2 and not requeued and told in out
  # A line of the run's own is none of srun's.
  assert job(tmp_path, 'echo "Exited with exit code 2" >&2; exit 137')[0] == 0


def test_failures_are_bounded_and_stops_are_not(tmp_path):
  for _ in range(2):
    assert job(tmp_path, 'exit 1', MAX_RESTARTS='2')[0] == 0
    assert job(tmp_path, 'exit 75', MAX_RESTARTS='2')[0] == 0
  code, told, requeued = job(tmp_path, 'exit 1', MAX_RESTARTS='2')
  assert code == 1 and len(requeued) == 4 and 'failure 3: the job is not started again' in told
  assert not list((tmp_path / 'submitted').glob('.vmae_jax*'))


def test_mistakes(tmp_path):
  run = (LAUNCH / 'slurm.sbatch', '--dry-run', 'pretrain')
  code, _, told = bash(*run, cwd=tmp_path, SLURM_SUBMIT_DIR=str(tmp_path))
  assert code == 2 and 'is not the repository' in told
  code, _, told = bash(LAUNCH / 'slurm.sbatch')
  assert code == 2 and 'give a verb' in told
  code, _, told = bash(*run, '--config=configs/videomae.py:b,k400', '--config.modle.size=b')
  assert code == 2 and told.startswith('error: --config.modle.size') and told.count('\n') == 1
