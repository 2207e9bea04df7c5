"""From frames and one mask to masks and scores, with colours for features."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.test_sequences import write_davis
from vmae_jax.errors import UserError
from vmae_jax.evaluation import segmentation
from vmae_jax.evaluation.propagation import Protocol
from vmae_jax.evaluation.segmentation import around, input_size, nearest, resize, segment
from vmae_jax.evaluation.segmentation_scores import Statistics, evaluate
from vmae_jax.evaluation.sequences import first_mask, open_davis, open_frames, read_mask, write_mask

PROTOCOL = Protocol(size='native', topk=3, last=2, shape='square', radius=3, temperature=0.05)
PATCH = (2, 2, 2)


def colours(video, slot):
  """Mean colours of the patches of a time slot, without their common part."""
  t, h, w, _ = video.shape
  patches = video.reshape(t // 2, 2, h // 2, 2, w // 2, 2, 3).mean((1, 3, 5))[slot]
  return jnp.asarray(patches - 80, jnp.float32)


@pytest.mark.parametrize(
  'size, patch, expected',
  [
    ('480/64', (16, 16), (480, 832)),
    ('480', (16, 16), (480, 848)),
    ('native', (16, 16), (480, 848)),
    ('240', (8, 8), (240, 424)),
    ('480x880', (16, 16), (480, 880)),
    ('480x880', (14, 14), (476, 868)),
  ],
)
def test_input_size(size, patch, expected):
  assert input_size(480, 854, size=size, patch=patch) == expected


def test_input_size_of_other_shapes():
  assert input_size(480, 1152, size='480/64', patch=(16, 16)) == (480, 1152)
  assert input_size(640, 360, size='180/64', patch=(4, 4)) == (320, 180)
  for size in ('', '0x8', '480/0', '480x', 'half'):
    with pytest.raises(UserError, match='size'):
      input_size(480, 854, size=size, patch=(16, 16))
  with pytest.raises(UserError, match='less than a patch'):
    input_size(480, 854, size='15', patch=(16, 16))


def test_around():
  assert around(5, 9, length=0, slot=2) == (pytest.approx([5, 5]), 0)
  for frame in range(9):
    indices, slot = around(frame, 9, length=4, slot=2)
    assert indices.tolist() == list(range(indices[0], indices[0] + 4))
    assert 0 <= indices[0] and indices[-1] < 9 and frame in indices[2 * slot : 2 * slot + 2]
  assert around(4, 9, length=4, slot=2)[0].tolist() == [3, 4, 5, 6]
  indices, slot = around(2, 3, length=6, slot=2)
  assert indices.tolist() == [0, 1, 2, 2, 2, 2] and slot == 1


@pytest.mark.parametrize('length', [0, 4])
def test_the_mask_stays_on_the_object(length, tmp_path):
  cow, _ = open_davis(write_davis(tmp_path, frames=6), 'val')
  masks = list(
    segment(cow, first_mask(cow.mask), colours, protocol=PROTOCOL, patch=PATCH, length=length)
  )
  assert len(masks) == 6
  truth = np.stack([read_mask(path) for path in cow.truth])
  np.testing.assert_array_equal(masks[0], truth[0])
  for j, _ in evaluate(truth, np.stack(masks), name='cow'):
    assert j.mean > 0.75
  # It is the features that do it: the first mask alone is left behind.
  still = np.broadcast_to(truth[0], truth.shape)
  assert evaluate(truth, still, name='cow')[0][0].mean < 0.6


def test_frames_are_resized_and_masks_brought_back(tmp_path):
  cow, _ = open_davis(write_davis(tmp_path, size=(27, 33)), 'val')
  seen = []

  def features(video, slot):
    seen.append(video.shape)
    return colours(video, slot)

  protocol = dataclasses.replace(PROTOCOL, size='20/4')
  masks = list(segment(cow, first_mask(cow.mask), features, protocol=protocol, patch=PATCH))
  assert set(seen) == {(2, 20, 24, 3)} and {mask.shape for mask in masks} == {(27, 33)}
  assert set(np.unique(masks[-1])) == {0, 1, 2}


def test_resize():
  frame = np.zeros((4, 8, 3), np.uint8)
  frame[:, 4:] = 200
  small = resize(frame, (2, 4))
  assert small.shape == (2, 4, 3) and small[0, 0, 0] == 0 and small[0, 3, 0] == 200
  mask = np.array([[1, 9], [0, 3]], np.uint8)
  np.testing.assert_array_equal(nearest(mask, (4, 2)), [[1, 9], [1, 9], [0, 3], [0, 3]])


def test_frames_are_resized_without_averaging(tmp_path):
  """As in the released code: of four pixels, the two in the middle count."""
  cow, _ = open_davis(write_davis(tmp_path, size=(16, 16)), 'val')
  frame = np.zeros((16, 16, 3), np.uint8)
  frame[:, 0::4], frame[:, 1::4], frame[:, 2::4], frame[:, 3::4] = 255, 60, 80, 255
  cow = dataclasses.replace(cow, read=lambda indices: np.stack([frame] * len(indices)))
  seen = []

  def features(video, slot):
    seen.append(np.unique(video).tolist())
    return colours(video, slot)

  protocol = dataclasses.replace(PROTOCOL, size='4')
  list(segment(cow, first_mask(cow.mask), features, protocol=protocol, patch=PATCH))
  assert seen[0] == [70]


def test_sizes_that_do_not_match(tmp_path):
  cow, _ = open_davis(write_davis(tmp_path), 'val')
  options = dict(protocol=PROTOCOL, patch=PATCH)
  with pytest.raises(UserError, match='00000.png is 24 x 32 pixels, .* cow are 32 x 24'):
    list(segment(cow, first_mask(cow.mask).T.copy(), colours, **options))
  folder = tmp_path / 'JPEGImages' / '480p' / 'cow'
  Image.new('RGB', (40, 24)).save(folder / '00002.jpg')
  with pytest.raises(UserError, match='frame 00002 is 40 x 24 pixels, the first is 32 x 24'):
    list(segment(cow, first_mask(cow.mask), colours, **options))


def run(clips, out, features=colours):
  segmentation.segment_all(
    clips, features, out, protocol=PROTOCOL, patch=PATCH, length=0, caption='colours'
  )


def test_it_continues_where_it_stopped(tmp_path):
  clips = open_davis(write_davis(tmp_path / 'davis', names=('a', 'b', 'c')), 'val')
  run(clips, tmp_path / 'whole')
  done = 0

  def fails(video, slot):
    nonlocal done
    done += 1
    if done == 6:  # In the second clip of four frames.
      raise KeyboardInterrupt
    return colours(video, slot)

  with pytest.raises(KeyboardInterrupt):
    run(clips, tmp_path / 'broken', fails)
  masks = tmp_path / 'broken' / 'masks'
  assert [p.name for p in masks.iterdir() if p.name[0] != '.'] == ['a']
  first = (masks / 'a' / '00003.png').stat().st_mtime_ns
  done = 6
  run(clips, tmp_path / 'broken', fails)
  assert done == 6 + 2 * 4  # The second and the third clip, and no other.
  assert (masks / 'a' / '00003.png').stat().st_mtime_ns == first
  for path in (tmp_path / 'whole').rglob('*.png'):
    assert (
      path.read_bytes() == (tmp_path / 'broken' / path.relative_to(tmp_path / 'whole')).read_bytes()
    )
  assert sorted(p.name for p in masks.iterdir()) == ['a', 'b', 'c']


def test_tables(tmp_path):
  clips = open_davis(write_davis(tmp_path / 'davis'), 'val')
  run(clips, tmp_path)
  scores = segmentation.score_all(clips, tmp_path)
  text = segmentation.write_results(scores, tmp_path, split='val', settings={'topk': 3})
  with (tmp_path / 'global_results-val.csv').open() as f:
    (row,) = csv.DictReader(f)
  assert list(row) == ('J&F-Mean J-Mean J-Recall J-Decay F-Mean F-Recall F-Decay'.split())
  means = [[j.mean, f.mean] for clip in scores.values() for j, f in clip]
  assert float(row['J-Mean']) == pytest.approx(np.mean(means, 0)[0], abs=6e-4)
  assert float(row['J&F-Mean']) == pytest.approx(np.mean(means), abs=6e-4)
  with (tmp_path / 'per-sequence_results-val.csv').open() as f:
    rows = list(csv.DictReader(f))
  assert [row['Sequence'] for row in rows] == ['cow_1', 'cow_2', 'dog_1', 'dog_2']
  assert float(rows[1]['F-Mean']) == pytest.approx(means[1][1], abs=6e-4)
  assert text == (tmp_path / 'results.md').read_text() and 'topk 3' in text and 'dog_2' in text


def test_means_are_over_objects():
  """Each object counts the same, however many its clip has."""
  right, wrong = Statistics(1.0, 1.0, 0.0), Statistics(0.2, 0.0, 0.4)
  scores = {'one': [(right, right)], 'three': [(wrong, right), (wrong, wrong), (wrong, wrong)]}
  assert segmentation.global_results(scores) == pytest.approx(
    {
      'J&F-Mean': (0.4 + 0.6) / 2,
      'J-Mean': 0.4,
      'J-Recall': 0.25,
      'J-Decay': 0.3,
      'F-Mean': 0.6,
      'F-Recall': 0.5,
      'F-Decay': 0.2,
    }
  )


def test_masks_are_palette_pngs_of_the_frames(tmp_path):
  (cow, _) = open_davis(write_davis(tmp_path / 'davis'), 'val')
  run([cow], tmp_path)
  paths = sorted((tmp_path / 'masks' / 'cow').iterdir())
  assert [path.name for path in paths] == [f'{i:05d}.png' for i in range(4)]
  for path in paths:
    with Image.open(path) as image:
      assert image.mode == 'P' and image.size == (32, 24)
  with Image.open(tmp_path / 'pictures' / 'cow.png') as image:
    assert image.size[0] > 4 * 200


def test_all_masks_are_checked_first(tmp_path):
  clips = open_davis(write_davis(tmp_path / 'davis'), 'val')
  write_mask(clips[1].mask, np.zeros((24, 32), np.uint8))
  with pytest.raises(UserError, match='dog/00000.png has no object'):
    run(clips, tmp_path)
  assert list((tmp_path / 'masks').iterdir()) == []


def test_a_clip_without_ground_truth_has_no_scores(tmp_path):
  root = write_davis(tmp_path / 'davis', names=('cow',))
  clip = open_frames(root / 'JPEGImages/480p/cow', root / 'Annotations/480p/cow/00000.png')
  run([clip], tmp_path)
  assert segmentation.score_all([clip], tmp_path) == {}
  assert len(list((tmp_path / 'masks' / 'cow').iterdir())) == 4
