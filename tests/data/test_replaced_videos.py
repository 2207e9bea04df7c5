"""What a video causes: another one stands in for it, or the run ends; what is tried again."""

import dataclasses
import errno

import av
import numpy as np
import pytest

from tests.data.clips_on_disk import some_broken
from vmae_jax import patience as patience_lib
from vmae_jax.data.clips import ClipSampler
from vmae_jax.data.sources import FileSource
from vmae_jax.data.synthetic import SyntheticSource
from vmae_jax.errors import Unavailable, UserError, VideoError, may_pass
from vmae_jax.patience import Closed, Patience, PatientSource

SAMPLER = ClipSampler(frames=4, size=16, stride=2, flip=True, repeats=3, seed=5)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return some_broken(tmp_path_factory.mktemp('videos'))


@pytest.mark.parametrize('bad, reason', [(2, 'Invalid data'), (4, 'file is missing')])
def test_replacement(source, bad, reason):
  labels = set()
  for epoch in range(8):
    clips = SAMPLER(source, epoch, bad)
    assert clips['replaced'] and clips['label'] not in (2, 4)
    name, why = clips['failures'][0]
    assert name == source.name(bad) and reason in why
    again = SAMPLER(source, epoch, bad)
    assert again['label'] == clips['label'] and again['failures'] == clips['failures']
    np.testing.assert_array_equal(clips['video'], again['video'])
    labels.add(clips['label'])
  assert len(labels) > 1


def test_nothing_but_broken(source):
  broken = FileSource((source.entries[2], source.entries[4]))
  with pytest.raises(UserError, match='16 videos in a row cannot be read, such as .*missing.mp4'):
    SAMPLER(broken, 0, 1)


def test_mistakes():
  with pytest.raises(UserError, match="data.crop: there is no 'center'"):
    ClipSampler(crop='center')
  with pytest.raises(UserError, match='data.repeats is 0'):
    ClipSampler(repeats=0)


@dataclasses.dataclass
class Faulty:
  """The source, but opening some videos raises something else than a VideoError."""

  source: FileSource
  faulty: tuple[int, ...]
  error: BaseException
  class_names = ()

  def __len__(self):
    return len(self.source)

  def name(self, i):
    return self.source.name(i)

  def label(self, i):
    return self.source.label(i)

  def open(self, i):
    if i in self.faulty:
      raise self.error
    return self.source.open(i)


def test_any_error_of_a_video_is_reported_and_the_video_replaced(source):
  clips = SAMPLER(Faulty(source, (1,), KeyError('a\nb')), 0, 1)
  assert clips['replaced'] and clips['failures'][0] == (source.name(1), "KeyError: 'a\\nb'")
  # As any broken video.
  broken = Faulty(source, (1,), VideoError('broken'))
  np.testing.assert_array_equal(clips['video'], SAMPLER(broken, 0, 1)['video'])


@pytest.mark.parametrize(
  'error', [UserError('mistake'), Unavailable('store'), Closed(), KeyboardInterrupt()]
)
def test_errors_that_are_no_videos_fault_end_the_run(source, error):
  with pytest.raises(type(error)):
    SAMPLER(Faulty(source, (1,), error), 0, 1)


def test_a_bug_that_fails_every_video_is_raised(source):
  with pytest.raises(ZeroDivisionError):
    SAMPLER(Faulty(source, tuple(range(6)), ZeroDivisionError()), 0, 1)


class Failing:
  """A source where some videos cannot be read for the first `times`."""

  class_names = ()

  def __init__(self, source, videos, times, error):
    self._source, self.videos, self.times, self.error = source, videos, times, error
    self.asked = 0

  def __len__(self):
    return len(self._source)

  def name(self, i):
    return str(i)

  def label(self, i):
    return self._source.label(i)

  def open(self, i):
    if i in self.videos:
      self.asked += 1
      if self.asked <= self.times:
        raise VideoError('cannot be read') from self.error
    return self._source.open(i)


AWAY = OSError(errno.ESTALE, 'stale')


@pytest.fixture
def in_a_hurry(monkeypatch):
  monkeypatch.setattr(patience_lib, 'FIRST_PAUSE', 0.001)
  monkeypatch.setattr(patience_lib, 'LAST_PAUSE', 0.01)


def test_failures_that_pass_are_not_replaced(in_a_hurry):
  source, sampler = SyntheticSource('train'), ClipSampler(size=16)
  expected = sampler(source, 0, 3)
  clips = sampler(PatientSource(Failing(source, [3], 20, AWAY), Patience(60.0)), 0, 3)
  assert not clips['replaced'] and clips['failures'] == []
  np.testing.assert_array_equal(clips['video'], expected['video'])


@pytest.mark.parametrize('error', [None, OSError(errno.ENOENT, 'none'), ValueError('damaged')])
def test_permanent_failures_are_replaced_at_once(error, in_a_hurry):
  failing = Failing(SyntheticSource('train'), [3], 10**9, error)
  clips = ClipSampler(size=16)(PatientSource(failing, Patience(60.0)), 0, 3)
  assert clips['replaced'] and clips['failures'] == [('3', 'cannot be read')]
  assert failing.asked == 1


def test_one_unavailable_video_is_replaced_and_two_end_the_run(in_a_hurry, monkeypatch):
  source, sampler = SyntheticSource('train'), ClipSampler(size=16)
  failing = Failing(source, [3], 10**9, AWAY)
  monkeypatch.setattr(patience_lib, 'TRY_FOR', 0.1 / 60)
  patient = PatientSource(failing, Patience(60.0))
  clips = sampler(patient, 0, 3)
  assert clips['replaced'] and failing.asked > 2
  assert clips['failures'] == [('3', 'unavailable: cannot be read')]
  failing.videos = range(len(source))
  with pytest.raises(Unavailable, match='two videos in a row cannot be read, last '):
    sampler(patient, 0, 3)


def test_an_input_error_of_libav_may_be_damage():
  assert not may_pass(av.error.OSError(errno.EIO, 'Input/output error', 'a.mp4'))
  assert may_pass(OSError(errno.EIO, 'Input/output error', 'a.mp4'))
