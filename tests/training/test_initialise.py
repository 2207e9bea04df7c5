"""Which parameters of another model are taken, and which models are refused."""

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from tests import started
from tests.evaluation.checkpoints import write_checkpoint
from tests.interchange import synthetic
from vmae_jax import sharding
from vmae_jax.config_file import load_config
from vmae_jax.errors import UserError
from vmae_jax.method.build import build_method
from vmae_jax.training import initialise, loop
from vmae_jax.training.initialise import Pretrained

SHAPES = {
  'encoder/embed/kernel': (6, 4),
  'encoder/blocks/block/mlp/fc1/kernel': (2, 4, 8),
  'fc_norm/scale': (4,),
  'classifier/kernel': (4, 3),
}


def shape(x):
  return jax.ShapeDtypeStruct(x, np.float32)


def tree(shapes):
  return unflatten_dict({name: shape(x) for name, x in shapes.items()}, sep='/')


def pretrained(facts=(), **changes):
  """A model with SHAPES; None leaves one out."""
  shapes = {name: shape(x) for name, x in (SHAPES | changes).items() if x is not None}
  known = dict(eps=1e-6, patch=(2, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3, frames=8, size=32)
  return Pretrained('there', shapes, known | {'heads': 2} | dict(facts), lambda like: like, [])


def test_a_model_with_all_parameters():
  found = initialise.plan(pretrained(), tree(SHAPES), head=True)
  assert found == (list(SHAPES), [], [], [], 1.0)
  initialise.check_plan(found, pretrained(), least=1.0)


def test_a_pretrained_model_lacks_the_head_and_has_more():
  extra = {'encoder/norm/scale': (4,), 'decoder/mask_token': (4,)}
  there = pretrained(**extra, **{'fc_norm/scale': None, 'classifier/kernel': None})
  found = initialise.plan(there, tree(SHAPES), head=True)
  assert found.share == 1 and found.new == ['fc_norm/scale', 'classifier/kernel']
  assert found.unused == list(extra)
  text = initialise.report(found, there, positions='made anew', notes=['a note'])
  for part in ('start from there: 100.0% of the encoder', '88 parameters: encoder (2 arrays)'):
    assert part in text
  for part in ('encoder/norm (1 arrays), decoder (1 arrays)', 'a note', 'fc_norm/scale'):
    assert part in text


def test_too_little_is_refused_by_name():
  there = pretrained(**{'encoder/embed/kernel': None})
  found = initialise.plan(there, tree(SHAPES), head=True)
  assert found.share == pytest.approx(64 / 88)
  with pytest.raises(UserError, match=r'only 72.7% .* at least 100% .* encoder/embed/kernel is m'):
    initialise.check_plan(found, there, least=1.0)
  initialise.check_plan(found, there, least=0.7)


def test_another_size_is_refused_by_shape():
  there = pretrained(**{'encoder/blocks/block/mlp/fc1/kernel': (3, 4, 8)})
  found = initialise.plan(there, tree(SHAPES), head=True)
  with pytest.raises(UserError, match=r'fc1/kernel is \(3, 4, 8\) there, \(2, 4, 8\) here'):
    initialise.check_plan(found, there, least=1.0)
  assert 'NOT LOADED' in initialise.report(found, there, positions='', notes=[])


def test_another_number_of_classes():
  there = pretrained(**{'classifier/kernel': (4, 400)})
  with pytest.raises(UserError, match='has 400 classes, the data have 3: .*init_head=False'):
    initialise.plan(there, tree(SHAPES), head=True)
  found = initialise.plan(there, tree(SHAPES), head=False)
  assert found.new == found.unused == ['classifier/kernel']


HERE = dict(eps=1e-6, patch=(2, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3, heads=2)


def test_what_shapes_do_not_show():
  assert initialise.check_facts(pretrained(), HERE) == []
  (line,) = initialise.check_facts(pretrained({'eps': 1e-12}), HERE)
  assert line == 'NOTE: its eps was 1e-12, here it is 1e-06: --config.model.eps=1e-12'
  (line,) = initialise.check_facts(pretrained({'mean': (0.4, 0.4, 0.4)}), HERE)
  assert '--config.data.mean=0.4,0.4,0.4' in line
  assert initialise.check_facts(pretrained({'mean': None}), HERE) == []
  with pytest.raises(UserError, match='has 6 heads, model.size has 2'):
    initialise.check_facts(pretrained({'heads': 6}), HERE)


def test_positions_are_explained():
  describe = initialise.describe_positions
  assert describe(pretrained(), (4, 4, 4), None) == 'made anew for 4x4x4 tokens'
  line = describe(pretrained(), (8, 4, 4), None)
  assert 'trained on 4x4x4' in line and '--config.model.position_grid=4,4,4' in line
  assert describe(pretrained(), (8, 4, 4), (4, 4, 4)) == 'interpolated to 8x4x4 tokens from 4x4x4'
  assert 'NOTE: it was trained on 4x4x4' in describe(pretrained(), (8, 4, 4), (8, 14, 14))
  assert describe(pretrained({'frames': None}), (8, 4, 4), None) == 'made anew for 8x4x4 tokens'


def test_a_missing_model(tmp_path):
  with pytest.raises(UserError, match="there is no 'nowhere/at/all'"):
    initialise.find_pretrained('nowhere/at/all')
  (tmp_path / 'notes.txt').write_text('no model')
  with pytest.raises(UserError, match='notes.txt'):
    initialise.find_pretrained(str(tmp_path / 'notes.txt'))


def test_loading_reads_whole_parts_and_gives_what_was_planned():
  asked = []

  def read(like):
    asked.append(like)
    return jax.tree.map(lambda x: np.full(x.shape, 3.0, np.float32), like)

  extra = {'encoder/norm/scale': (4,), 'decoder/mask_token': (4,)}
  there = pretrained(**extra)._replace(load=read)
  found = initialise.plan(there, tree(SHAPES), head=False)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  loaded = initialise.load(there, found, sharding)
  assert set(loaded) == set(SHAPES) - {'classifier/kernel'}
  assert set(asked[0]) == {'encoder', 'fc_norm'} and 'norm' in asked[0]['encoder']


def test_the_moving_average_is_what_a_run_gives(tmp_path):
  _, last = write_checkpoint(tmp_path, average=True)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  for weights, factor, text in (('', 2, 'averaged'), ('params', 1, 'last')):
    found = initialise.find_pretrained(str(tmp_path), weights=weights)
    assert found.where.endswith(f'({text} weights)')
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), {'encoder': last}
    )
    bias = found.load(like)['encoder']['embed']['kernel']
    np.testing.assert_array_equal(bias, factor * last['embed']['kernel'])


@pytest.fixture
def public(tmp_path):
  """A small model in the form of VideoMAE's published weights."""
  sizes = dict(encoder=(128, 4, 512), decoder=(128, 2, 512), patch=(2, 8, 8))
  tensors = synthetic.values(synthetic.pretraining(**sizes))
  save_file(tensors, path := str(tmp_path / 'videomae.safetensors'))
  return path, tensors


@pytest.mark.parametrize('name, loaded', [('motionmae', 'decoder'), ('mam2', 'encoder')])
def test_a_method_goes_on_from_others_weights(name, loaded, public, tmp_path, capsys):
  path, tensors = public
  config = load_config(f'{started.ROOT}/configs/{name}.py:smoke')
  config.init_from, mesh = path, sharding.make_mesh()
  method = build_method(config)
  heads = method.model.encoder['heads']
  _, start = initialise.start_from(config, str(tmp_path), method.init, mesh, heads=heads)
  like = jax.eval_shape(method.init, jax.random.key(0))
  params = start(loop.placed(like, sharding.tree_shardings(like, mesh)))
  fresh = jax.jit(method.init)(jax.random.key(config.seed))
  for block in range(4):
    kernel = params['encoder']['blocks']['block']['mlp']['fc1']['kernel'][block]
    theirs = tensors[f'encoder.blocks.{block}.mlp.fc1.weight'].T
    np.testing.assert_array_equal(kernel, theirs)
  told = capsys.readouterr().out
  assert told == (tmp_path / 'init_from.txt').read_text() and '100.0% of the encoder' in told
  if loaded == 'decoder':
    bias = params['decoder']['head_pixels']['bias']
    np.testing.assert_array_equal(bias, tensors['decoder.head.bias'])
    head = params['decoder']['head_motion']['kernel']
    np.testing.assert_array_equal(head, fresh['decoder']['head_motion']['kernel'])
    assert 'new        decoder/head_motion/bias, decoder/head_motion/kernel' in told
  else:
    tree = params['motion_decoder'], fresh['motion_decoder']
    jax.tree.map(np.testing.assert_array_equal, *tree)
    assert 'unused     decoder (' in told


def test_a_run_that_goes_on_does_not_ask_where_it_started(tmp_path):
  config = load_config(started.SMOKE)
  config.init_from = 'gone'
  write_checkpoint(tmp_path)
  mesh = sharding.make_mesh()
  assert initialise.start_from(config, str(tmp_path), lambda key: None, mesh, heads=4) is None
