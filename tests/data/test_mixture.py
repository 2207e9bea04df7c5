"""Several sets as one: every share, every video of a set before any comes again, in any process."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.loader import Loader
from vmae_jax.data.mixture import TURNS, Mixture, split_spec, turns
from vmae_jax.data.sources import check_paths, open_source
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import UserError
from vmae_jax.training.classes import count_classes


def sets(*clips):
  return [SyntheticSource('train', clips=n, frames=2, size=16, seed=n) for n in clips]


@pytest.mark.parametrize('weights', [(0.7, 0.3), (1, 1, 1), (5000, 1, 2.5)])
def test_shares_and_epochs(weights):
  sizes = (7, 300, 11)[: len(weights)]
  visit = turns(Mixture(sets(*sizes), weights), lambda number, n: np.arange(10**6) % n)
  visits = [visit(i) for i in range(2 * TURNS)]
  firsts = np.cumsum([0, *sizes])
  of = np.searchsorted(firsts, [sample for _, sample in visits], side='right') - 1
  for half in (of[:TURNS], of[TURNS:]):
    want = np.array(weights) / sum(weights) * TURNS
    assert np.abs(np.bincount(half, minlength=len(weights)) - want).max() < 1
  for k, n in enumerate(sizes):
    mine = [v for v, which in zip(visits, of, strict=True) if which == k]
    assert [v[0] for v in mine] == [j // n for j in range(len(mine))]
    for epoch in range(len(mine) // n):
      seen = Counter(sample for _, sample in mine[epoch * n : (epoch + 1) * n])
      assert seen == Counter(range(firsts[k], firsts[k + 1]))
  if min(weights) > 0.2 * sum(weights):  # Scattered: no batch of 20 is of one set.
    assert all(len(set(of[i : i + 20])) > 1 for i in range(0, TURNS, 20))


def load(source, start=0, **options):
  sampler = ClipSampler(frames=2, size=8, stride=1, flip=True)
  options = dict(seed=3, shuffle=True, batch_size=4, threads=3) | {'num_steps': 9} | options
  loader = Loader(source, sampler, start_step=start, **options)
  batches = [{k: np.asarray(x) for k, x in batch.items()} for batch in loader]
  loader.close()
  return {k: np.concatenate([batch[k] for batch in batches]) for k in batches[0]}


def test_the_loader_draws_from_all():
  sources = sets(3, 10)
  whole = load(Mixture(sources, (1, 2)))
  assert Counter(whole['sample'] < 3) == {True: 12, False: 24}
  assert max(whole['epoch'][whole['sample'] < 3]) == 3  # Three videos, twelve visits.
  crops = {(e, s) for e, s in zip(whole['epoch'].tolist(), whole['sample'].tolist(), strict=True)}
  assert len(crops) == 36  # None is drawn twice.
  later = load(Mixture(sources, (1, 2)), start=5, workers=1)
  for name, x in later.items():
    np.testing.assert_array_equal(x, whole[name][20:])
  for sample, label in zip(whole['sample'].tolist(), whole['label'].tolist(), strict=True):
    assert label == (sources[0].label(sample) if sample < 3 else sources[1].label(sample - 3))
  # Without weights, or where each is tested, one after the other.
  for options in ({'num_steps': None, 'shuffle': False}, {'num_steps': 4}):
    once = load(Mixture(sources, (1, 2) * (options['num_steps'] is None)), **options)
    assert set(once['sample'][:13]) == set(range(13))


def test_specs(tmp_path):
  assert split_spec('a/b*.csv + tfds:x:y') == (['a/b*.csv', 'tfds:x:y'], [])
  assert split_spec('0.7*a +  2*b') == (['a', 'b'], [0.7, 2.0])
  for wrong in ('1*a + b', '0*a + 1*b', '0*a + 0*b', '1e-5*a + 1*b', '1.2.3*a + 1*b'):
    with pytest.raises(UserError, match='weight'):
      open_source(wrong)
  with pytest.raises(UserError, match="no list or folder 'none'"):
    open_source('synthetic:train + none')
  both = open_source('2*synthetic:train + 1*synthetic:val')
  one, other = open_source('synthetic:train'), open_source('synthetic:val')
  assert len(both) == len(one) + len(other) and both.weights == [2.0, 1.0]
  assert both.name(len(one)) == other.name(0) and both.largest == one.largest
  assert both.class_names == one.class_names and both.label(len(one) + 5) == other.label(5)
  abouts = {
    open_source(spec).about()
    for spec in ('synthetic:train + synthetic:val', '1*synthetic:train + 1*synthetic:val')
  }
  assert len(abouts | {both.about()}) == 3
  (tmp_path / 'a + b').mkdir()
  (tmp_path / 'a + b/v.mp4').touch()
  assert len(open_source(str(tmp_path / 'a + b'))) == 1


def test_pictures_stand_still(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  for name in ('cats/1.png', 'dogs/a.png', 'dogs/b.png'):
    (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(tmp_path / 'images' / name)
  source = open_source(f'pictures:{tmp_path}/images')
  assert source.class_names == ('cats', 'dogs') and [source.label(i) for i in range(3)] == [0, 1, 1]
  with open_source(f'{tmp_path}/images/cats/1.png').open(0) as video:
    np.testing.assert_array_equal(video.read([0, 0]), np.stack([picture] * 2))
  for sampling in ('dense', 'linspace', 'segment'):
    clip = ClipSampler(frames=4, size=16, stride=4, sampling=sampling)(source, 0, 1)
    assert not clip['failures'] and (clip['video'] == clip['video'][:, :1]).all()
  (tmp_path / 'list.txt').write_text('images/cats/1.png 1\nimages/none.png 0\n')
  listed = open_source(str(tmp_path / 'list.txt'))
  with pytest.raises(UserError, match='1 of 2 files do not exist.*none.png'):
    check_paths(Mixture([source, listed]), 0.0)
  mixed = Mixture([source, SyntheticSource('train')])
  assert mixed.class_names == () and mixed.label(0) == -1 and mixed.largest is None
  with pytest.raises(UserError, match='sets have different classes'):
    count_classes({'x': Mixture([source, listed])}, train='x', classes=0)
  assert count_classes({'x': Mixture([source, source])}, train='x', classes=0).count == 2
