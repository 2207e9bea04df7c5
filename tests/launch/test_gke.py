"""gke.yaml and the image that it names."""

import re

import pytest
import yaml

from tests.launch.shell import LAUNCH, bash


def job_sets():
  text = (LAUNCH / 'gke.yaml').read_text()
  text = text.replace('${IMAGE}', 'here/vmae').replace('${BUCKET}', 'bucket')
  assert '${' not in text
  return {one['metadata']['labels']['kind']: one for one in yaml.safe_load_all(text)}


@pytest.fixture(params=['tpu', 'gpu'])
def job_set(request):
  return job_sets()[request.param]


def parts(job_set):
  """The Job, its pod and the container."""
  (job,) = job_set['spec']['replicatedJobs']
  pod = job['template']['spec']['template']
  (container,) = pod['spec']['containers']
  return job['template']['spec'], pod, container


@pytest.mark.full
def test_published_schemas(job_set):
  """Of Kubernetes; a JobSet is no part of it, and its fields are few."""
  import kubernetes_validate

  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'slice'}}
  job['spec'] = parts(job_set)[0]
  kubernetes_validate.validate(job, '1.37', strict=True)
  job['spec']['template']['spec']['containers'][0]['volumeMount'] = []
  with pytest.raises(kubernetes_validate.ValidationError, match='volumeMount'):
    kubernetes_validate.validate(job, '1.37', strict=True)


def test_job_set(job_set):
  assert (job_set['apiVersion'], job_set['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  assert job_set['spec'].keys() == {'failurePolicy', 'replicatedJobs'}
  assert job_set['spec']['failurePolicy'].keys() == {'maxRestarts', 'rules'}
  for rule in job_set['spec']['failurePolicy']['rules']:
    assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
    assert rule.keys() <= {'name', 'action', 'onJobFailureReasons', 'onJobFailureMessagePatterns'}
  job, pod, container = parts(job_set)
  assert job['parallelism'] == job['completions'] and job['backoffLimit'] == 0
  pod = pod['spec']
  assert pod['terminationGracePeriodSeconds'] >= 120 and pod['restartPolicy'] == 'Never'
  assert container['workingDir'] == '/vmae_jax'
  (script,) = container['args']
  assert bash('-n', '-c', script) == (0, '', '') and '--distributed' in script


def outcome(job_set, code=None, disrupted=False):
  """What JobSet does once a pod of it has failed so, as its documentation has it.

  The messages are those of Kubernetes' Job controller.
  """
  job, _, container = parts(job_set)
  reason, message = 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'
  for i, rule in enumerate(job['podFailurePolicy']['rules']):
    assert rule['action'] == 'FailJob'
    if code in rule.get('onExitCodes', {}).get('values', []):
      assert rule['onExitCodes']['containerName'] == container['name']
      message = f'Container train for pod default/x failed with exit code {code}'
    elif disrupted and 'onPodConditions' in rule:
      message = 'Pod default/x has condition DisruptionTarget'
    else:
      continue
    reason, message = 'PodFailurePolicy', f'{message} matching FailJob rule at index {i}'
    break
  for rule in job_set['spec']['failurePolicy']['rules']:
    patterns = rule.get('onJobFailureMessagePatterns', [''])
    if reason in rule['onJobFailureReasons'] and any(re.search(p, message) for p in patterns):
      return rule['action']
  return 'RestartJobSet'


def test_starts_again_by_the_rule_of_all_launchers(job_set):
  for code in (2, 130):
    assert outcome(job_set, code) == 'FailJobSet'
  for code in (1, 74, 134, 137):
    assert outcome(job_set, code) == 'RestartJobSet'
    assert outcome(job_set, code, disrupted=True) == 'RestartJobSetAndIgnoreMaxRestarts'
  assert outcome(job_set, 75) == 'RestartJobSetAndIgnoreMaxRestarts'
  assert outcome(job_set, disrupted=True) == 'RestartJobSetAndIgnoreMaxRestarts'
  assert job_set['spec']['failurePolicy']['maxRestarts'] == 20
  for script in ('slurm.sbatch', 'tpu_pod.sh'):
    assert '${MAX_RESTARTS:-20}' in (LAUNCH / script).read_text()


def test_devices_memory_and_bucket(job_set):
  _, pod, container = parts(job_set)
  kind = job_set['metadata']['labels']['kind']
  resource = {'tpu': 'google.com/tpu', 'gpu': 'nvidia.com/gpu'}[kind]
  assert list(container['resources']['limits']) == [resource]
  (script,) = container['args']
  code, out, _ = bash('-c', script.replace('exec python', 'echo "$JAX_PLATFORMS"; exit; python'))
  assert (code, out) == (0, {'tpu': 'tpu,cpu\n', 'gpu': 'cuda,cpu\n'}[kind])

  mounts = {mount['name']: mount['mountPath'] for mount in container['volumeMounts']}
  volumes = {volume['name']: volume for volume in pod['spec']['volumes']}
  assert mounts.keys() == volumes.keys()
  assert mounts['memory'] == '/dev/shm' and volumes['memory']['emptyDir'] == {'medium': 'Memory'}
  assert {x['name']: x.get('value') for x in container['env']}['JAX_COMPILATION_CACHE_DIR'] == (
    '/bucket/compiled'
  )
  assert '--config.data.train=gs://bucket/' in script and '--workdir=/bucket/' in script
  options = volumes['bucket']['csi']['volumeAttributes']['mountOptions'].split(',')
  assert {'implicit-dirs', 'rename-dir-limit:200000'} <= set(options)
  assert pod['metadata']['annotations'] == {
    f'gke-gcsfuse/{name}': 'true' if name == 'volumes' else '0'
    for name in ('volumes', 'cpu-limit', 'memory-limit', 'ephemeral-storage-limit')
  }
  account = pod['spec']['serviceAccountName']
  assert f'kubectl create serviceaccount {account}\n' in (LAUNCH / 'gke.yaml').read_text()


def test_gpus_find_each_other():
  gpu = job_sets()['gpu']
  job, _, container = parts(gpu)
  env = {x['name']: x.get('value') for x in container['env']}
  assert env['JAX_NUM_PROCESSES'] == str(job['parallelism'])
  name, group = gpu['metadata']['name'], gpu['spec']['replicatedJobs'][0]['name']
  assert env['JAX_COORDINATOR_ADDRESS'].startswith(f'{name}-{group}-0-0.{name}:')


def test_image():
  """GKE mounts the driver there; an image that does not say so has no GPU."""
  lines = (LAUNCH / 'Dockerfile').read_text().splitlines()
  assert 'WORKDIR /vmae_jax' in lines and 'ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64' in lines
  assert any('pip install' in line and '[gcs,s3]' in line for line in lines)
