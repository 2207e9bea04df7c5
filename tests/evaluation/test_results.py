"""Accuracy, labels that cannot be scored, and the folder of results."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import started
from vmae_jax.errors import UserError
from vmae_jax.evaluation.results import accuracy, claim, count_classes


def test_accuracy():
  scores = np.array([[6, 5, 4, 3, 2, 1, 0]] * 4, np.float32)
  assert accuracy(scores, np.array([0, 1, 4, 5])) == {'top1': 0.25, 'top5': 0.75}


def test_minus_infinity_never_counts():
  scores = np.array([[1, -np.inf, -np.inf], [-np.inf, -np.inf, -np.inf]], np.float32)
  assert accuracy(scores, np.array([1, 0])) == {'top1': 0.0, 'top5': 0.0}
  assert accuracy(scores, np.array([0, 0])) == {'top1': 0.5, 'top5': 0.5}


def test_count_classes_counts_those_of_either_set():
  assert count_classes(np.array([0, 2]), np.array([1])) == 3
  assert count_classes(np.array([0, 2]), np.array([7])) == 8


@pytest.mark.parametrize(
  ('train', 'test', 'message'),
  [
    ([1, 1, 1], [0, 1], 'one class'),
    ([0, 1, -1], [0], '1 of 3 clips of the training set'),
    ([0, 1], [-1, -1], '2 of 2 clips of the test set'),
    ([0, 1], [], 'test set is empty'),
    ([], [1], 'training set is empty'),
  ],
)
def test_labels_that_cannot_be_scored(train, test, message):
  with pytest.raises(UserError, match=message):
    count_classes(np.array(train, int), np.array(test, int))


def test_a_folder_of_other_settings(tmp_path):
  claim(tmp_path / 'new' / 'out', {'topk': 5, 'shape': 'circle'})
  claim(tmp_path / 'new' / 'out', {'topk': 5, 'shape': 'circle'})
  with pytest.raises(UserError, match='other settings: topk was 5, is 7. Give another --out'):
    claim(tmp_path / 'new' / 'out', {'topk': 7, 'shape': 'circle'})
  with pytest.raises(UserError, match="holds 'new' and no settings.json"):
    claim(tmp_path, {'topk': 5})
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='--out=.*file'):
    claim(tmp_path / 'file', {'topk': 5})
  (tmp_path / 'new' / 'out' / 'settings.json').write_text('{')
  with pytest.raises(UserError, match='settings.json is damaged'):
    claim(tmp_path / 'new' / 'out', {'topk': 5})


# The second process sees no folder: it must not wait for a first one that has ended.
CLAIMING = """
import pathlib, sys
from vmae_jax import cli, peers
from vmae_jax.evaluation.results import claim

def main(argv):
  peers.join()
  claim(pathlib.Path(argv[1]), {'topk': int(argv[2])})
  print('claimed')

cli.run(main, absl_flags=False)
"""


def test_several_processes_end_together(tmp_path):
  claim(tmp_path / 'out', {'topk': 5})
  for topk, code, text in ((5, 0, 'claimed'), (7, 2, 'topk was 5, is 7')):
    with socket.socket() as s:
      s.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{s.getsockname()[1]}'
    children = []
    for i, folder in enumerate(('out', 'elsewhere')):
      command = [sys.executable, '-c', CLAIMING, str(tmp_path / folder), str(topk)]
      env = started.environment(
        JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=i
      )
      children.append(
        subprocess.Popen(
          command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
      )
    outputs = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [code, code], outputs
    assert all(text in output for output in outputs), outputs
  assert not (tmp_path / 'elsewhere').exists()
