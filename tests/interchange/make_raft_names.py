"""Writes raft_names.json: names and shapes of the state dicts of the real RAFT classes.

PYTHONPATH=. python tests/interchange/make_raft_names.py TORCHVISION RAFT

TORCHVISION: an unpacked wheel of torchvision. Of its compiled operators, which load beside one
build of torch alone, only the names are needed. RAFT: a checkout of princeton-vl/RAFT.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys

import torch

OUT = pathlib.Path(__file__).parents[1] / 'fixtures' / 'raft_names.json'


def shapes(model):
  return {name: list(value.shape) for name, value in model.state_dict().items()}


def torchvision_shapes(folder):
  sys.path.insert(0, folder)
  torch.library.register_fake = lambda *_, **__: lambda function: function
  from torchvision.models import optical_flow

  version = importlib.metadata.version('torchvision')
  for size in ('small', 'large'):
    yield f'torchvision {version} {size}', shapes(getattr(optical_flow, f'raft_{size}')())


def princeton_shapes(folder):
  sys.path.insert(0, f'{folder}/core')
  from raft import RAFT

  for size in ('small', 'large'):
    options = argparse.Namespace(small=size == 'small', mixed_precision=False)
    # The training script saves the model inside DataParallel.
    model = torch.nn.DataParallel(RAFT(options))
    yield f'princeton {size}', shapes(model)


if __name__ == '__main__':
  found = dict([*torchvision_shapes(sys.argv[1]), *princeton_shapes(sys.argv[2])])
  OUT.write_text(json.dumps(found, separators=(',', ':')) + '\n')
