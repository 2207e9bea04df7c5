"""Labels that cannot be learnt or tested are refused before anything is computed."""

import pytest

from vmae_jax.data.sources import Entry, FileSource
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import UserError
from vmae_jax.training.classes import Classes, count_classes, describe_classes


def files(*labels, names=()):
  return FileSource(tuple(Entry(f'{i}.mp4', label=x) for i, x in enumerate(labels)), names)


def count(train, val, classes=0):
  return count_classes({'train.txt': train, 'val.txt': val}, train='train.txt', classes=classes)


def test_the_number_of_classes_comes_from_the_training_data():
  assert count(files(0, 3, 1), files(2)) == (4, ())
  assert count(files(0, 1), files(0), classes=9) == (9, ())
  names = ('cat', 'dog', 'cow')
  assert count(files(0, 1, names=names), files(2, names=names)) == (3, names)
  assert count(SyntheticSource('train'), SyntheticSource('val')).count == 12


MISTAKES = [
  (files(0, 1, 5), files(0), 5, 'train.txt: the label 5 of 2.mp4 .* data.classes, .* 0 to 4'),
  (files(0, 1), files(0, 2), 0, 'val.txt: the label 2 of 1.mp4 .* 2 classes of train.txt'),
  (files(0, -1, -1), files(0), 0, 'train.txt: 2 of 3 videos have no label, such as 1.mp4'),
  (files(0, 1), files(0, -1), 0, 'val.txt: 1 of 2 videos have no label'),
  (files(0, 0), files(0), 0, 'train.txt has only one class'),
  (files(1, 1), files(0), 7, 'train.txt has only one class'),
  (
    files(0, 1, names=('cat', 'dog')),
    files(0),
    400,
    'train.txt names 2 classes, data.classes is 400: give --config.data.classes=0',
  ),
  (
    files(0, 1, 2, names=('cat', 'cow', 'dog')),
    files(0, 1, names=('cat', 'dog')),
    0,
    'val.txt has other classes than train.txt: class 1 is dog, not cow',
  ),
  (
    files(0, 1, 2, names=('cat', 'cow', 'dog')),
    files(0, 1, names=('cat', 'cow')),
    0,
    'class 2 is missing, not dog',
  ),
]


@pytest.mark.parametrize('train, val, classes, message', MISTAKES)
def test_mistakes(train, val, classes, message):
  with pytest.raises(UserError, match=message) as error:
    count(train, val, classes)
  assert '\n' not in str(error.value)


def test_classes_are_listed_with_their_numbers_of_videos():
  entries = [Entry(f'{i}.mp4', label=label) for i, label in enumerate((0, 0, 2))]
  source = FileSource(tuple(entries), ('cat', 'dog', 'eel'))
  told = describe_classes(source, Classes(3, source.class_names))
  assert told == '3 classes (videos): cat 2, dog 0, eel 1; WITHOUT A VIDEO: dog'
  told = describe_classes(FileSource(tuple(entries)), Classes(30, ()))
  assert told.startswith('30 classes (videos): 0 2, 1 0, 2 1,') and ', ...; WITHOUT' in told
