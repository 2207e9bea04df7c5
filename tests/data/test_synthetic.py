"""The synthetic set: a frame tells the look, motion tells the motion, and neither the other."""

import numpy as np
import pytest

from vmae_jax.data import synthetic
from vmae_jax.data.synthetic import LOOKS, MOTIONS, SyntheticSource, label_of, named_source
from vmae_jax.errors import UserError

CHANCE = 1 / len(MOTIONS)


def bound(samples: int) -> float:
  """3.5 standard deviations above chance: reached by luck once in 4,000 tries."""
  return CHANCE + 3.5 * np.sqrt(CHANCE * (1 - CHANCE) / samples)


def ridge_accuracy(train, train_labels, test, test_labels, strength=0.1):
  """Of a linear classifier, least squares on one-hot classes, in its dual form."""
  mean, std = train.mean(0), train.std(0) + 1e-6
  train, test = (train - mean) / std, (test - mean) / std
  onehot = np.eye(len(MOTIONS), dtype=train.dtype)[train_labels] - CHANCE
  kernel = train @ train.T
  kernel[np.diag_indices_from(kernel)] += strength * np.trace(kernel) / len(kernel)
  scores = test @ (train.T @ np.linalg.solve(kernel, onehot))
  return float((scores.argmax(-1) == test_labels).mean())


def centres(opacity):
  """The sprite's centre on the torus, in sides of the frame, (x, y) for each frame."""
  size = opacity.shape[-1]
  wave = np.exp(2j * np.pi * (np.arange(size) + 0.5) / size)
  x, y = (np.angle((opacity.sum(axis) * wave).sum(-1)) / (2 * np.pi) for axis in (-2, -1))
  return np.stack([x, y], -1)


def steps(opacity):
  """The sprite's displacement between frames, in sides of the frame."""
  return (np.diff(centres(opacity), axis=-2) + 0.5) % 1 - 0.5


def labels(count, label):
  return np.array([label_of(i, label) for i in range(count)])


@pytest.fixture(scope='module')
def clips():
  """Videos, opacities and motions of a training and a test set, of small clips."""

  def draw(seed, count):
    drawn = [synthetic.render_with_opacity(seed, i, size=32) for i in range(count)]
    return [*map(np.stack, zip(*drawn, strict=True)), labels(count, 'motion')]

  return draw(0, 1536), draw(1, 768)


def of_class(clips, name):
  videos, opacities, labels = clips[1]
  chosen = labels == MOTIONS.index(name)
  return videos[chosen], opacities[chosen]


def test_depends_on_seed_and_index_alone():
  first = synthetic.render(3, 17)
  synthetic.render(0, 0)
  again = synthetic.render(3, 17)
  assert first.shape == (16, 48, 48, 3)
  np.testing.assert_array_equal(first, again)
  assert (first != synthetic.render(3, 17 + 144)).any()
  assert (first != synthetic.render(4, 17)).any()


def test_all_pairs_of_labels_occur_alike():
  pairs = {(label_of(i, 'motion'), label_of(i, 'look')) for i in range(144)}
  assert len(pairs) == 144 == len(MOTIONS) * len(LOOKS)


def test_starts_the_same_whatever_the_number_of_frames():
  np.testing.assert_array_equal(
    synthetic.render(0, 5, frames=4), synthetic.render(0, 5, frames=16)[:4]
  )


def test_shows_the_same_film_at_any_size():
  small, large = (synthetic.render(0, 7, size=size).astype(float) for size in (32, 64))
  shrunk = large.reshape(16, 32, 2, 32, 2, 3).mean((2, 4))
  assert np.abs(small - shrunk).mean() < 2


@pytest.mark.parametrize('frame', [0, 7, 15])
def test_a_frame_does_not_tell_the_motion(clips, frame):
  (train, _, train_labels), (test, _, test_labels) = clips

  def pixels(videos):
    return videos[:, frame].reshape(len(videos), -1).astype(np.float32)

  def spectrum(videos):  # Sees sizes and textures wherever they are.
    return np.log1p(np.abs(np.fft.rfft2(videos[:, frame], axes=(1, 2)))).reshape(len(videos), -1)

  def colours(videos):  # Sees what the sprite is painted with.
    values = videos[:, frame].reshape(len(videos), -1, 3)
    counts = [[np.bincount(c // 8, minlength=32) for c in v.T] for v in values]
    return np.sqrt(np.array(counts, np.float32).reshape(len(videos), -1))

  for features in (pixels, spectrum, colours):
    accuracy = ridge_accuracy(features(train), train_labels, features(test), test_labels)
    assert accuracy < bound(len(test_labels)), features.__name__


def motion(opacities):
  """How the sprite moves, from where it is at each frame."""
  d = steps(opacities)
  turns = d[:, :-1, 0] * d[:, 1:, 1] - d[:, :-1, 1] * d[:, 1:, 0]
  growth = np.median(np.diff(np.log(opacities.sum((2, 3))), axis=1), axis=1)
  return np.stack([*d.mean(1).T, *np.abs(d).mean(1).T, turns.sum(1), growth], -1)


def test_motion_tells_the_motion(clips):
  """The same classifier does well on what moved: the test above can fail."""
  (_, train, train_labels), (_, test, test_labels) = clips
  # Blind to rotation by design: the pairs rotate_cw, rotate_ccw and still are left to chance.
  assert ridge_accuracy(motion(train), train_labels, motion(test), test_labels, 1e-4) > 0.7


def test_motion_tells_nothing_of_the_look_and_a_frame_does(clips):
  (videos, train, _), (others, test, _) = clips
  train_looks, test_looks = (labels(len(x), 'look') for x in (train, test))
  accuracy = ridge_accuracy(motion(train), train_looks, motion(test), test_looks, 1e-4)
  assert accuracy < bound(len(test_looks))

  def shape_and_texture(videos, opacities):
    """Of the first frame, around the sprite's centre: power by ring, of what is opaque and of it
    painted."""
    size = videos.shape[2]
    grey = (videos[:, 0].astype(float).mean(-1) - 128) * opacities[:, 0]
    u = np.fft.fftfreq(size) * size
    rings = np.minimum(np.hypot(*np.meshgrid(u, u)).astype(int), 12)
    power = [np.log1p(np.abs(np.fft.fft2(x))) for x in (opacities[:, 0] * 64, grey)]
    return (
      np.concatenate(
        [[[p[rings == r].mean(), p[rings == r].std()] for r in range(13)] for x in power for p in x]
      )
      .reshape(2, len(videos), -1)
      .transpose(1, 0, 2)
      .reshape(len(videos), -1)
    )

  features = shape_and_texture(videos, train), shape_and_texture(others, test)
  assert ridge_accuracy(features[0], train_looks, features[1], test_looks, 1e-4) > 3 * CHANCE


def test_every_frame_is_drawn_alike_for_every_motion():
  """Place, angle and size are uniform: Kolmogorov and Smirnov, at one chance in 8,000."""
  count = 500
  for name in MOTIONS:
    rngs = [np.random.default_rng([11, i]) for i in range(count)]
    courses = [synthetic.draw_course(rng, name, 16) for rng in rngs]
    for field, period in (('x', 1), ('y', 1), ('size', 1), ('angle', 2 * np.pi)):
      values = np.stack([getattr(course, field) for course in courses]) / period % 1
      for frame in (0, 7, 15):
        gap = np.abs(np.sort(values[:, frame]) - (np.arange(count) + 0.5) / count).max()
        assert gap < 2.2 / np.sqrt(count), (name, field, frame)


def test_looks_do_not_depend_on_the_motion():
  """Every motion leaves the generator in the same state, for the looks that come next."""
  after = set()
  for name in MOTIONS:
    rng = np.random.default_rng(5)
    synthetic.draw_course(rng, name, 16)
    after.add(rng.random())
  assert len(after) == 1


def test_background_pans_alike():
  """Half of the clips pan, all `still` ones, and all who do at the same speeds."""
  for name in MOTIONS:
    courses = [synthetic.draw_course(np.random.default_rng([2, i]), name, 2) for i in range(400)]
    speeds = np.array([np.hypot(c.pan_x[1], c.pan_y[1]) for c in courses])
    panning = speeds > 0
    assert panning.mean() == 1 if name == 'still' else 0.4 < panning.mean() < 0.6
    assert 0.0375 <= speeds[panning].min() < 0.045
    assert 0.09 < speeds[panning].max() <= 0.1
    angles = np.array([np.arctan2(c.pan_y[1], c.pan_x[1]) for c in courses])[panning]
    assert np.abs(np.exp(1j * angles).mean()) < 0.2


def test_background_moves_as_the_course_says():
  rng = np.random.default_rng(0)
  still = synthetic.draw_course(rng, 'still', 2)
  shifted = still._replace(pan_x=np.array([0, 0.25]), pan_y=np.array([0, 0.5]))
  video = synthetic._background(rng, shifted, 16)
  np.testing.assert_allclose(np.roll(video[0], (8, 4), axis=(-2, -1)), video[1], atol=1e-4)


@pytest.mark.parametrize(
  ('name', 'axis', 'sign'), [('right', 0, 1), ('left', 0, -1), ('up', 1, -1), ('down', 1, 1)]
)
def test_translations(clips, name, axis, sign):
  moved = steps(of_class(clips, name)[1])
  along, across = sign * moved[..., axis], moved[..., 1 - axis]
  assert (along > 0.03).all() and (along < 0.11).all()
  assert np.abs(across).max() < 0.01
  np.testing.assert_allclose(along, along.mean(1, keepdims=True) * np.ones(15), atol=0.01)


@pytest.mark.parametrize(('name', 'sign'), [('rotate_cw', 1), ('rotate_ccw', -1)])
def test_rotations(clips, name, sign):
  """The sprite's second moment turns; y points down, so clockwise is positive."""
  _, opacities = of_class(clips, name)
  assert np.abs(steps(opacities).mean(1)).max() < 0.01
  at = (np.arange(32) + 0.5) / 32
  # The place itself is not turned: the mean over time is the middle it turns about.
  middle = np.angle(np.exp(2j * np.pi * centres(opacities)).mean(1)) / (2 * np.pi)
  dx, dy = ((at - middle[:, i, None] + 0.5) % 1 - 0.5 for i in (0, 1))
  z = dx[:, None, :] + 1j * dy[:, :, None]
  moment = (opacities * z[:, None] ** 2).sum((2, 3))
  turned = sign * np.rad2deg(np.angle(moment[:, 1:] / moment[:, :-1]) / 2)
  assert (np.median(turned, 1) > 8).all() and (np.median(turned, 1) < 27).all()


@pytest.mark.parametrize(('name', 'sign'), [('approach', 1), ('recede', -1)])
def test_zooms(clips, name, sign):
  _, opacities = of_class(clips, name)
  growth = sign * np.diff(np.log(opacities.sum((2, 3))), axis=1) / 2
  assert np.abs(steps(opacities).mean(1)).max() < 0.01
  assert (np.median(growth, 1) > 0.028).all()  # 8 % of the range of log sizes.
  assert ((growth < 0).sum(1) <= 2).all()  # Where the sawtooth starts anew.


@pytest.mark.parametrize(('name', 'sign'), [('circle_cw', 1), ('circle_ccw', -1)])
def test_circles(clips, name, sign):
  d = steps(of_class(clips, name)[1])
  turned = np.angle((d[:, 1:, 0] + 1j * d[:, 1:, 1]) / (d[:, :-1, 0] + 1j * d[:, :-1, 1]))
  assert (sign * np.median(turned, 1) > np.deg2rad(17)).all()
  assert (sign * np.median(turned, 1) < np.deg2rad(33)).all()


def test_bounce_goes_up_and_down_within_eight_frames(clips):
  d = steps(of_class(clips, 'bounce')[1])
  assert np.abs(d[..., 0]).max() < 0.01
  window = d[:, :8, 1]
  assert (window.max(1) > 0.01).mean() > 0.9 and (window.min(1) < -0.01).mean() > 0.9


def test_still_is_the_sprite_not_the_background(clips):
  videos, opacities = of_class(clips, 'still')
  np.testing.assert_array_equal(opacities, np.broadcast_to(opacities[:, :1], opacities.shape))
  changed = np.abs(np.diff(videos.astype(int), axis=1)).mean((1, 2, 3, 4))
  assert (changed > 0.3).all() and (changed > 2).mean() > 0.95  # A sprite may hide its background.


def test_sprite_is_seen(clips):
  """Neither a speck nor a wall, and in colours that stand out."""
  videos, opacities, _ = clips[1]
  share = (opacities[:, 0] > 0.5).mean((1, 2))
  assert share.min() > 0.02 and share.max() < 0.5
  inside = opacities[:, 0] > 0.99
  outside = opacities[:, 0] < 0.01
  apart = [
    np.abs(v[i].mean(0) - v[o].mean(0)).max()
    for v, i, o in zip(videos[:, 0].astype(float), inside, outside, strict=True)
  ]
  assert np.mean(np.array(apart) > 40) > 0.9


def test_source():
  source = SyntheticSource('val', clips=30, frames=6, size=32, seed=4)
  assert len(source) == 30
  assert source.class_names == MOTIONS
  assert [source.label(i) for i in range(13)] == [*range(12), 0]
  assert len({source.name(i) for i in range(30)}) == 30
  with source.open(13) as video:
    assert (video.num_frames, video.height, video.width, video.rate) == (6, 32, 32, 8.0)
    whole, part = video.read(range(6)), video.read(np.array([5, 0, 0]))
  np.testing.assert_array_equal(part, whole[[5, 0, 0]])


def test_source_by_name():
  source = named_source('val,label=look,clips=30,frames=6,size=32,seed=4')
  same = SyntheticSource('val', clips=30, frames=6, size=32, seed=4)
  assert len(source) == 30 and source.class_names == LOOKS
  assert [source.label(i) for i in (0, 11, 12, 25)] == [0, 0, 1, 2]
  np.testing.assert_array_equal(source.open(13).read([0]), same.open(13).read([0]))
  for name, told in {
    'test': 'the splits are',
    'val,label=lok': "mean 'look'",
    'val,sise=3': "mean 'size'",
    'val,size=a': "size is 'a'",
    'val,clips=0': 'clips is 0',
  }.items():
    with pytest.raises(UserError, match=told):
      named_source(name)


def test_speed_detail_and_still_clips():
  index = MOTIONS.index('right')
  films = {speed: synthetic.render_with_opacity(0, index, speed=speed)[1] for speed in (1.0, 2.0)}
  np.testing.assert_allclose(steps(films[2]), 2 * steps(films[1]), atol=5e-3)
  clips = [synthetic.render(0, i, size=32, moving=0.5) for i in range(200)]
  assert 0.4 < np.mean([(clip == clip[0]).all() for clip in clips]) < 0.6
  rough = []  # Of the background alone, in grey levels from column to column.
  for detail in (1, 4):
    films = [synthetic.render_with_opacity(0, i, frames=1, detail=detail) for i in range(20)]
    outside = [(opacity[:, :, 1:] == 0) & (opacity[:, :, :-1] == 0) for _, opacity in films]
    slopes = [
      np.abs(np.diff(film.astype(int), axis=2))[o]
      for (film, _), o in zip(films, outside, strict=True)
    ]
    rough.append(np.concatenate(slopes).mean())
  assert rough[1] > 2 * rough[0]


def test_splits_share_no_clip():
  seen = set()
  for seed in (0, 1):
    for split in ('train', 'val'):
      source = SyntheticSource(split, clips=24, frames=1, size=16, seed=seed)
      seen |= {source.open(i).read([0]).tobytes() for i in range(24)}
  assert len(seen) == 4 * 24
