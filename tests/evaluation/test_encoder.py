"""The frozen encoder: layers, poolings, sizes; and the classifier of a fine-tuning."""

import functools
import json

import jax
import jax.numpy as jnp
import jaxtyping
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

from tests.evaluation.checkpoints import write_checkpoint
from tests.fresh_run import save_fresh_run
from tests.interchange import peer
from tests.started import ROOT
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import build_encoder, load_encoder, recut
from vmae_jax.interchange import pretrained
from vmae_jax.method.supervised import build_supervised
from vmae_jax.models.positions import interpolated_positions, sincos_positions
from vmae_jax.trained import load


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Workdir, config and parameters."""
  workdir = tmp_path_factory.mktemp('run')
  return workdir, *write_checkpoint(workdir)


def clips(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).integers(256, size=(*shape, 3)), jnp.uint8)


def forward(config, params, video, depth, **fields):
  """What the first blocks make of clips, and the last norm of that."""
  encoder, _ = build_encoder(config, pool='tokens')
  x = (video / 255.0 - jnp.array(config.data.mean)) / jnp.array(config.data.std)
  params = dict(params, blocks=jax.tree.map(lambda a: a[:depth], params['blocks']))
  y = jax.jit(encoder.clone(depth=depth, **fields).apply)({'params': params}, x)
  return np.asarray(y).reshape(2, 4, 4, 4, -1)


@pytest.fixture(scope='module')
def layers(run):
  """Clips, and what the first two and all blocks make of them."""
  _, config, params = run
  video = clips((2, 8, 32, 32))
  return video, {depth: forward(config, params, video, depth) for depth in (2, 4)}


def test_layers(run, layers):
  workdir, _, _ = run
  video, outputs = layers
  for layer, depth in [(-1, 4), (2, 2), (-3, 2)]:
    _, params, encode = load_encoder(str(workdir), pool='tokens', layer=layer)
    np.testing.assert_allclose(encode(params, video), outputs[depth], atol=1e-5)
  assert np.abs(outputs[2] - outputs[4]).max() > 0.1


def test_a_fine_tuned_encoder_has_no_last_norm(tmp_path):
  config, params = write_checkpoint(tmp_path, classifier=True)
  assert 'norm' not in params
  video = clips((2, 8, 32, 32))
  _, loaded, encode = load_encoder(str(tmp_path), pool='tokens')
  expected = forward(config, params, video, 4, final_norm=False)
  np.testing.assert_allclose(encode(loaded, video), expected, atol=1e-5)


def test_a_model_trained_on_interpolated_positions_keeps_them(run):
  _, config, params = run
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.update(positions='interpolate', position_grid=(4, 2, 2))
  video = clips((2, 8, 32, 32))
  _, encode = build_encoder(config, pool='tokens')
  expected = forward(config, params, video, 4, position_grid=(4, 2, 2))
  np.testing.assert_allclose(encode(params, video), expected, atol=1e-5)


def test_the_moving_average_is_taken_where_there_is_one(run, tmp_path):
  _, last = write_checkpoint(tmp_path, average=True)
  for weights, taken, factor in (('', 'ema', 2), ('ema', 'ema', 2), ('params', 'params', 1)):
    config, params, _ = load_encoder(str(tmp_path), pool='mean', weights=weights)
    assert config.weights == taken
    expected = factor * last['embed']['kernel']
    np.testing.assert_array_equal(params['embed']['kernel'], expected)
  assert load_encoder(str(run[0]), pool='mean')[0].weights == 'params'
  with pytest.raises(UserError, match='holds no moving average'):
    load_encoder(str(run[0]), pool='mean', weights='ema')
  with pytest.raises(UserError, match="no 'average'"):
    load_encoder(str(tmp_path), pool='mean', weights='average')


@pytest.mark.parametrize(
  'told, found',
  [
    ({}, (4, 'dense')),
    ({'stride': 2, 'sampling': 'dense'}, (2, 'dense')),
    ({'stride': 4, 'sampling': 'segment'}, (4, 'segment')),
    ({'config': {'data': {'stride': 3, 'sampling': 'segment'}}}, (3, 'segment')),
  ],
)
def test_files_say_how_clips_were_cut(told, found, run, tmp_path, monkeypatch):
  """By the options of the script that trained, or the config of the run they come from."""
  encoder = dict(width=128, depth=4, heads=2, mlp=512)
  info = dict(
    encoder=encoder, patch=(2, 8, 8), eps=1e-6, channels=3, frames=8, size=32, format='videomae'
  )
  info |= dict(mean=(0.5,) * 3, std=(0.5,) * 3, notes=[], config=None, format='videomae') | told
  params = {'encoder': run[2]}
  monkeypatch.setattr(pretrained, 'load_pretrained', lambda path, weights: (params, info))
  (tmp_path / 'a.pth').touch()
  config, _, _ = load_encoder(str(tmp_path / 'a.pth'), pool='mean')
  assert (config.data.stride, config.data.sampling) == found and config.weights == 'as stored'
  config, _, _ = load_encoder(str(tmp_path / 'a.pth'), pool='mean', weights='ema')
  assert config.weights == 'ema'


def test_clips_cut_otherwise_than_in_training():
  data = {'frames': 8, 'stride': 4, 'sampling': 'segment', 'size': 32}
  config = ml_collections.ConfigDict({'data': data, 'model': {'patch': (2, 8, 8)}})
  recut(config, {'frames': 4, 'stride': None})
  assert config.data.to_dict() == data | {'frames': 4}
  with pytest.raises(UserError, match='--stride=2 changes nothing, .* --sampling=dense'):
    recut(config, {'stride': 2})
  recut(config, {'stride': 2, 'sampling': 'dense'})
  assert (config.data.stride, config.data.sampling) == (2, 'dense')
  with pytest.raises(UserError, match="--sampling: there is no 'dens'"):
    recut(config, {'sampling': 'dens'})
  with pytest.raises(UserError, match='frames 3 is no multiple of the patch, 2: choose 2 or 4'):
    recut(config, {'sampling': 'dense', 'frames': 3})


def test_encoders_with_and_without_a_last_norm(tmp_path):
  """Of classifiers and pre-trained models, which share the rest of their weights here."""
  clip = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3), np.uint8)
  config = dict(peer.SMALL, model_type='videomae', layer_norm_eps=1e-6)
  found = {}
  for kind in ('pretraining', 'classification'):
    for mean in (False, True):
      weights = peer.weights(kind, mean)
      save_file(weights, tmp_path / 'model.safetensors', {'format': 'pt'})
      (tmp_path / 'config.json').write_text(json.dumps(config | {'use_mean_pooling': mean}))
      _, params, encode = load_encoder(str(tmp_path), pool='tokens')
      found[kind, mean] = np.asarray(encode(params, clip))
      if not mean:
        scale, bias = (weights[f'videomae.layernorm.{x}'] for x in ('weight', 'bias'))
  for mean in (False, True):
    np.testing.assert_array_equal(found['pretraining', mean], found['classification', mean])
  x = found['pretraining', True]
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(found['pretraining', False], x * scale + bias, rtol=0, atol=1e-4)


@pytest.mark.full
def test_a_model_of_transformers(tmp_path):
  import torch
  from transformers import VideoMAEConfig, VideoMAEModel

  torch.manual_seed(0)
  config = VideoMAEConfig(
    image_size=32,
    patch_size=8,
    num_frames=4,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    use_mean_pooling=False,
  )
  model = VideoMAEModel(config).eval()
  model.save_pretrained(tmp_path)
  video = clips((2, 4, 32, 32))
  loaded, params, encode = load_encoder(str(tmp_path), pool='tokens')
  data = loaded.data
  x = (np.asarray(video) / 255.0 - np.array(data.mean)) / np.array(data.std)
  with torch.no_grad():
    y = model(torch.tensor(x.transpose(0, 1, 4, 2, 3), dtype=torch.float32)).last_hidden_state
  np.testing.assert_allclose(
    np.asarray(encode(params, video)).reshape(2, 32, 32), y.numpy(), atol=1e-4
  )


@pytest.mark.parametrize('layer', [0, 5, -5])
def test_no_such_layer(layer, run):
  with pytest.raises(UserError, match=f'layer is {layer}: .* 1 to 4, from the end -1 to -4'):
    build_encoder(run[1], pool='mean', layer=layer)


def test_poolings(run, layers):
  video, outputs = layers
  for pool, expected in [
    ('tokens', outputs[4]),
    ('slots', outputs[4].mean((2, 3))),
    ('mean', outputs[4].mean((1, 2, 3))),
  ]:
    _, encode = build_encoder(run[1], pool=pool)
    np.testing.assert_allclose(encode(run[2], video), expected, atol=1e-5)
  with pytest.raises(UserError, match='--pool: there is no'):
    build_encoder(run[1], pool='max')


def positions(config, params, shape, kind):
  """The table that is added to the tokens of black clips: blocks of depth 0 would show it."""
  quiet = dict(params, embed=jax.tree.map(jnp.zeros_like, params['embed']))
  quiet['blocks'] = jax.tree.map(jnp.zeros_like, params['blocks'])
  _, encode = build_encoder(config, pool='tokens', positions=kind)
  return np.asarray(encode(quiet, jnp.zeros((1, *shape, 3), jnp.uint8)))[0]


def norm(table):
  return (table - table.mean(-1, keepdims=True)) / np.sqrt(table.var(-1, keepdims=True) + 1e-6)


def test_positions(run):
  """Blocks without weights hand the positions on to the last norm."""
  _, config, params = run
  shown = functools.partial(positions, config, params)
  for kind, shape, grid, expected in [
    ('rebuild', (2, 48, 24), (1, 6, 3), sincos_positions(18, 128)),
    # One time slot of the four trained ones: the first, enlarged in space.
    (
      'interpolate',
      (2, 48, 24),
      (1, 6, 3),
      interpolated_positions((1, 6, 3), trained=(1, 4, 4), d=128),
    ),
    # More than trained: in time, too.
    (
      'interpolate',
      (12, 32, 32),
      (6, 4, 4),
      interpolated_positions((6, 4, 4), trained=(4, 4, 4), d=128),
    ),
    ('interpolate', (8, 32, 32), (4, 4, 4), sincos_positions(64, 128)),
  ]:
    wanted = norm(expected.reshape(*grid, 128))
    np.testing.assert_allclose(shown(shape, kind), wanted, atol=1e-3)
  with pytest.raises(UserError, match="positions: there is no 'learnt'"):
    build_encoder(config, pool='mean', positions='learnt')


def test_sizes_that_are_not_whole_patches(run):
  _, encode = build_encoder(run[1], pool='mean')
  with pytest.raises(UserError, match='height 33 is no multiple'):
    encode(run[2], clips((1, 8, 33, 32)))


def write_classifier(workdir, *, average):
  """A checkpoint of a classifier of 5 classes with random weights, as fine-tuning writes it."""
  config = load_config(f'{ROOT}/configs/finetune.py:smoke')
  supervised = build_supervised(config, classes=5)
  init = jax.jit(supervised.init)
  params, ema = (jax.tree.map(lambda x: 10 * x, init(jax.random.key(i))) for i in (0, 1))
  state = {'params': params, 'ema': ema} if average else {'params': params}
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(
      workdir / 'checkpoints' / '3',
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config.to_dict())
      ),
    )
  return supervised, ema if average else params


@pytest.mark.parametrize('average', [False, True])
def test_logits_are_those_of_the_test(tmp_path, average):
  supervised, params = write_classifier(tmp_path, average=average)
  video = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
  model = load(str(tmp_path))
  assert model.config.data.size == 32
  logits = np.asarray(model.logits(model.params, video))
  assert logits.shape == (2, 5) and logits.dtype == np.float32
  expected = jax.jit(supervised.probabilities)(params, video)
  np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)
  assert np.ptp(expected) > 1e-3


def test_a_pre_trained_run_is_no_classifier(tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  save_fresh_run(tmp_path)
  with pytest.raises(UserError, match='is no classifier but'):
    load(str(tmp_path)).logits  # noqa: B018
