"""What pre-training and fine-tuning pass to the training loop."""

import contextlib
import types

import jax
import pytest
from PIL import Image

from tests import started
from tests.data.clips_on_disk import write_video
from vmae_jax.config_file import load_config
from vmae_jax.data.mixture import Mixture
from vmae_jax.data.sources import open_source
from vmae_jax.errors import UserError, VideoError
from vmae_jax.method.supervised import build_supervised
from vmae_jax.runs.run_dir import prepare_run_dir
from vmae_jax.sharding import make_mesh
from vmae_jax.training import finetuning, loop, pretraining
from vmae_jax.training.classes import Classes

TRAIN = {'videomae': pretraining.train, 'finetune': finetuning.finetune}


class Handed(Exception):
  pass


def test_fewer_videos_than_the_checkpoint_has_seen(tmp_path, monkeypatch):
  """Otherwise a checkpoint of step 4 with the state of step 9 would be saved."""
  monkeypatch.setattr(loop, 'start_state', lambda *_: (9, None, {}))
  config = load_config(f'{started.ROOT}/configs/videomae.py:smoke')
  config.steps, config.epochs, config.data.train = 0, 2.0, 'synthetic:train,clips=16'
  with pytest.raises(
    UserError, match='is of step 9, but 2.0 epochs of these 16 videos end with st'
  ):
    pretraining.train(config, str(tmp_path / 'run'))


@pytest.mark.parametrize('name', TRAIN)
@pytest.mark.parametrize('older', [False, True])
def test_an_older_run_draws_its_samples_as_before(name, older, tmp_path, monkeypatch):
  def run(*args):
    raise Handed(*args)

  monkeypatch.setattr(loop, 'run', run)
  config = load_config(f'{started.ROOT}/configs/{name}.py:smoke')
  prepare_run_dir(tmp_path, config)
  if older:
    started.forget(tmp_path, 'data.order', 'data.released_end')
  with pytest.raises(Handed) as e:
    TRAIN[name](config, str(tmp_path))
  config, *_, task = e.value.args
  assert task.sampler.released_end == older
  assert config.data.order == ('added' if older else 'hashed')


class Lengths:
  """A source of videos that only have a length."""

  class_names = ()

  def __init__(self, *lengths):
    self.lengths = lengths

  def __len__(self):
    return len(self.lengths)

  def name(self, i):
    return f'{i}.mp4'

  def label(self, i):
    return -1

  def open(self, i):
    if self.lengths[i] is None:
      raise VideoError('broken')
    return contextlib.nullcontext(types.SimpleNamespace(num_frames=self.lengths[i]))


def test_one_video_and_videos_shorter_than_clips_are_warned_of(caplog):
  data = load_config(started.SMOKE).data
  data.frames, data.stride, data.sampling = 16, 4, 'dense'
  pretraining.warn_of_few_frames(Lengths(80, 20, None, 64), data)
  assert not caplog.messages
  pretraining.warn_of_few_frames(Lengths(80, 20, None, 63), data)
  assert '2 of 3 videos that were looked at are shorter than the 64 frames' in caplog.text
  data.sampling = 'segment'
  caplog.clear()
  pretraining.warn_of_few_frames(Lengths(10, 10), data)
  assert not caplog.messages
  pretraining.warn_of_few_frames(Lengths(100), data)
  assert 'only one video' in caplog.text


def test_a_method_that_follows_the_codec_needs_videos_with_vectors(tmp_path):
  data = load_config(started.SMOKE).data
  folder = tmp_path / 'pictures'
  folder.mkdir()
  Image.new('RGB', (32, 32)).save(folder / '1.png')
  write_video(tmp_path / '1.mp4', frames=12)
  pictures, video = open_source(f'pictures:{folder}'), open_source(str(tmp_path / '1.mp4'))
  with pytest.raises(UserError, match='none of 1 videos that were looked at has motion vectors'):
    pretraining.check_vectors(pictures, data)
  pretraining.check_vectors(Mixture([pictures, video]), data)
  pretraining.check_vectors(Lengths(4, None), data)  # Unreadable videos are left to the loader.


CUT = dict(frames=6, size=40, stride=3, sampling='linspace')
LEARNT = CUT | dict(released_end=True, crop='centre', flip=True, repeats=2)


def parts(sampler, names):
  return {name: getattr(sampler, name) for name in names}


@pytest.mark.parametrize('name', TRAIN)
def test_clips_are_cut_as_the_config_says(name):
  """All values differ from the defaults of samplers."""
  config = load_config(f'{started.ROOT}/configs/{name}.py:smoke')
  config.seed = 7
  config.data.update(LEARNT)
  told = LEARNT | {'seed': 7}
  if name == 'finetune':
    config.data.update(crop_area=(0.2, 0.3), resampling='bilinear')
    told |= {'area': (0.2, 0.3), 'resampling': 'bilinear'}
    look = dict(operations=3, magnitude=5.0, deviation=0.25, chance=0.75)
    config.data.randaugment.update(look)
  sampler = {'videomae': pretraining, 'finetune': finetuning}[name].clip_sampler(config)
  assert parts(sampler, told) == told and sampler.train
  if name == 'finetune':
    assert parts(sampler.augment, look) == look
    config.data.randaugment.operations = 0
    assert finetuning.clip_sampler(config).augment is None
  else:
    assert sampler.slot == config.model.patch[0]


def test_views_are_cut_as_the_config_says(monkeypatch):
  config = load_config(f'{started.ROOT}/configs/finetune.py:smoke')
  config.data.update(CUT, val='synthetic:val', test='', resampling='bilinear')
  config.test.update(segments=2, crops=3, batch_size=5)
  found = []
  monkeypatch.setattr(finetuning, 'classify', lambda *given, **options: found.append(given))
  supervised = build_supervised(config, classes=5)
  sources = {spec: open_source(spec) for spec in (config.data.train, 'synthetic:val')}
  given = supervised, sources, Classes(5, ()), make_mesh(devices=jax.devices()[:1])
  assert finetuning.Evaluation(config, '', *given, 4)._test({}, 4, 'last', None) is None
  ((_, source, sampler, _),) = found
  told = CUT | dict(resampling='bilinear', segments=2, crops=3, repeats=6)
  assert parts(sampler, told) == told and not sampler.train and source is sources['synthetic:val']
