"""What the log says of the device that trains, whose peak may not be known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import optax
import pytest

from vmae_jax import sharding
from vmae_jax.method.state import init_state
from vmae_jax.runs.run_log import RunLog


def config_of():
  return ml_collections.ConfigDict(
    dict(method='mme', batch_size=8, model=dict(size='b'), log=dict(every_steps=5))
  )


@pytest.mark.parametrize(
  'kind, mfu',  # At 10 clips/s of 98.9 TFLOP: all of an H200.
  [('NVIDIA H200', 1.0), ('NVIDIA H100 PCIe', 989 / 756), ('NVIDIA Z1', None)],
)
def test_mfu_and_a_device_without_one(kind, mfu, tmp_path, monkeypatch, capsys):
  mesh, state = sharding.make_mesh(), init_state({'a': jnp.ones(2)}, optax.sgd(0.1), ema=0.0)
  log = RunLog(
    config_of(),
    str(tmp_path),
    clip_flops=989 * 10**11,
    schedule=None,
    steps=10,
    start=0,
    videos=80,
  )
  device = SimpleNamespace(platform='gpu', device_kind=kind)
  monkeypatch.setattr(jax, 'devices', lambda: [device])
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  log.describe(state, mesh)
  lines = capsys.readouterr().err.splitlines()
  told = [line for line in lines if 'MFU' in line]
  assert told == (
    [] if mfu else ['no MFU is shown: the peak of NVIDIA Z1 is not in vmae_jax/chips.py']
  )
  speed = log._speed((0, 0.0, 0.0), (5, 4.0, 0.0))  # 40 clips in 4 seconds.
  assert speed.get('mfu') == (mfu and pytest.approx(mfu))
  log.close()
