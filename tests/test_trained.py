"""The Python interface gives the same results as transformers and the verbs."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import vmae_jax
from tests import started
from tests.data.clips_on_disk import decode_all, write_video
from tests.evaluation.checkpoints import write_checkpoint
from tests.fresh_run import save_fresh_run
from tests.interchange import peer
from vmae_jax.data.crop import centre_box, crop_resize
from vmae_jax.data.video import Video
from vmae_jax.errors import UserError
from vmae_jax.evaluation.encoder import load_encoder
from vmae_jax.masking import MASKINGS, split
from vmae_jax.visualize.reconstruction import interpolated_video, predicted_video

STORED = pathlib.Path(__file__).parent / 'fixtures' / 'videomae_tiny.npz'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  place = tmp_path_factory.mktemp('folders')
  kinds = ('pretraining', 'classification')
  folders = {kind: peer.write_folder(place / kind, kind) for kind in kinds}
  for i in range(3):
    write_video(place / f'{i}.mp4', frames=20 + i, noise=20)
  (place / 'broken.mp4').write_bytes(b'no video')
  return folders


def test_importing_the_package_imports_nothing_else():
  program = 'import sys, vmae_jax; print({"jax", "numpy", "absl"} & set(sys.modules))'
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.stdout == 'set()\n'
  with pytest.raises(AttributeError, match="no attribute 'lode'"):
    vmae_jax.lode  # noqa: B018


def test_classes_are_those_of_transformers(folders):
  model = vmae_jax.load(folders['classification'])
  clips, _ = peer.clip_and_mask()
  with np.load(STORED) as stored:
    logits = stored['classification:logits']
  expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(model.classify(clips), expected, atol=1e-5)
  np.testing.assert_allclose(model.classify(clips[1] / np.float32(255)), expected[1], atol=1e-5)
  assert model.classes == ('ant', 'bee', 'cat', 'dog', 'eel')
  with pytest.raises(UserError, match='holds no decoder .*classification'):
    model.reconstruct(clips[0])
  for ratio in (1.5, 75.0, -0.5):
    with pytest.raises(UserError, match=f'is {ratio:g}: it must lie between 0 and 1'):
      model.reconstruct(clips[0], ratio=ratio)


def test_views_of_a_file_are_averaged(folders):
  """Centre squares of 32 x 32 of frames of 32 x 64: the middle crop of three is one of them."""
  model = vmae_jax.load(folders['classification'])
  path = folders['classification'].parent / '0.mp4'
  views = model.views((3, 2))(_source(path), 0, 0)['video']
  assert views.shape == (6, 4, 32, 32, 3)
  expected = model.classify(views).mean(0)
  np.testing.assert_allclose(model.classify(path, views=(3, 2)), expected, atol=1e-6)
  both = model.classify([path, path], views=(3, 2))
  np.testing.assert_allclose(both, [expected] * 2, atol=1e-6)
  assert (model.views().segments, model.views().crops) == (5, 3)
  with pytest.raises(UserError, match='broken.mp4: Invalid data'):
    model.classify([path, path.with_name('broken.mp4')])
  with pytest.raises(UserError, match='there is no video .*lost.mp4'):
    model.classify(path.with_name('lost.mp4'))


def _source(path):
  from vmae_jax.data.sources import open_source

  return open_source(str(path))


def test_reconstructions_are_those_of_transformers(folders, monkeypatch):
  clips, masked = peer.clip_and_mask()
  stored_mask = lambda key, clip, flow, *, grid, ratio: split(jnp.asarray(masked[0]), visible=8)  # noqa: E731
  monkeypatch.setitem(MASKINGS, 'stored', stored_mask)
  model = vmae_jax.load(str(folders['pretraining']))
  found = model.reconstruct(clips[0], masking='stored')
  np.testing.assert_array_equal(found.hidden.ravel(), masked[0])
  with np.load(STORED) as stored:
    logits = stored['pretraining:logits'][0]
  clip = clips[0] / np.float32(255)
  how = dict(patch=peer.PATCH, statistics='visible')
  expected = predicted_video(logits, clip, masked[0], **how)
  np.testing.assert_allclose(found.predicted, expected, atol=1e-5)
  flat = interpolated_video(clip, masked[0], patch=peer.PATCH)
  assert np.abs(found.predicted - flat).max() > 0.1
  picture, film = found.pictures()['pixels_visible'], found.films()['pixels_visible']
  assert picture.ndim == 3 and len(film) == 4 and film.std(0).max() > 0
  assert 'hidden, off by' in found.describe()
  for ratio in (0.25, 0.75):
    assert model.reconstruct(clips[0], ratio=ratio).hidden.mean() == ratio
  one, other = (model.reconstruct(clips[0], seed=i).hidden for i in (0, 1))
  assert (one != other).any()
  with pytest.raises(UserError, match='is no classifier but pretraining'):
    model.classify(clips)
  with pytest.raises(UserError, match='takes one video'):
    model.reconstruct(clips)


@pytest.mark.parametrize(
  ('method', 'kinds'),
  [
    ('mgmae', {'pixels_visible': 8, 'mask_motion': 8}),
    ('mgm', {'pixels_visible': 8, 'mask_motion': 8}),  # Of the file's codec.
    ('mme', {'motion_trajectory': 4, 'shape_hog': 4}),  # Of each time slot.
    ('mam2', {'appearance_codes': 4, 'motion_difference': 8}),
  ],
)
def test_what_each_method_predicts_is_drawn(method, kinds, tmp_path, monkeypatch):
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # As in test_finetuning.
  save_fresh_run(tmp_path / 'run', method)
  write_video(tmp_path / 'a.mp4', frames=30)
  found = vmae_jax.load(tmp_path / 'run').reconstruct(tmp_path / 'a.mp4', ratio=0.5)
  assert found.hidden.mean() == 0.5 and (found.predicted is None) == (method in ('mme', 'mam2'))
  assert {kind: len(film) for kind, film in found.films().items()} == kinds
  assert found.pictures().keys() == kinds.keys()


@pytest.mark.parametrize(
  ('method', 'told'),
  [
    ('mgm', ['an array has no codec', 'inverse_search finds motion']),
    ('mme', ['no frames between its own', 'inverse_search finds motion']),
    ('trackmae', []),  # Of the clip's own frames, in training, too.
  ],
)
def test_an_array_lacks_what_a_file_has_beside_its_frames(
  method, told, tmp_path, monkeypatch, caplog
):
  """A warning if motion is not found as in training, and none if it is not needed."""
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
  save_fresh_run(tmp_path / 'run', method)
  model = vmae_jax.load(tmp_path / 'run')
  clip = np.zeros((8, 32, 32, 3), np.uint8)
  model.reconstruct(clip)
  assert (caplog.text.count('Give the file'), told == []) in ((1, False), (0, True))
  assert all(part in caplog.text for part in told)
  caplog.clear()
  if method == 'mgm':
    model.reconstruct(clip, masking='tube')
    assert not caplog.text
    write_video(tmp_path / 'a.mkv', codec='libvpx-vp9')
    model.reconstruct(tmp_path / 'a.mkv')
    assert 'a.mkv: its codec gives no motion' in caplog.text


def test_features_are_those_that_extract_writes(tmp_path, monkeypatch):
  write_checkpoint(tmp_path / 'run')
  model = vmae_jax.load(tmp_path / 'run')
  _, params, encode = load_encoder(str(tmp_path / 'run'), pool='slots', layer=2)
  for i in range(2):
    write_video(tmp_path / f'{i}.mp4', frames=40, height=32, width=32, noise=9 * i)
  with Video(tmp_path / '1.mp4') as video:  # The middle 8 of 40 frames at stride 1.
    clip = video.read(range(16, 24))
  expected = np.asarray(encode(params, clip[None]))
  found = model.features([tmp_path / '0.mp4', tmp_path / '1.mp4'], pool='slots', layer=2)
  assert found.shape == (2, 4, 128)
  np.testing.assert_allclose(found[1], expected[0], atol=1e-4)
  np.testing.assert_array_equal(model.features(tmp_path / '1.mp4', pool='slots', layer=2), found[1])
  assert model.features(clip).shape == (128,) and model.features(clip[None]).shape == (1, 128)
  assert model.encoder('slots', 2) is model.encoder('slots', 2)
  for wrong in (clip[0], clip[..., :2], clip[None, :0]):
    with pytest.raises(UserError, match='is no video'):
      model.features(wrong)
  for wrong in (clip.astype(int), clip.astype(np.float32), clip / 64 - 2, clip * np.nan):
    with pytest.raises(UserError, match='give uint8, or floats in .0, 1., not normalised'):
      model.features(wrong)
  monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
  with pytest.raises(UserError, match='a list of at least one, or an array'):
    model.features([clip, clip])
  with pytest.raises(UserError, match='holds no checkpoint'):
    vmae_jax.load(tmp_path / 'lost')


def run_verb(place, verb, *arguments, code=0):
  command = [sys.executable, '-m', f'vmae_jax.{verb}', *map(str, arguments)]
  environment = started.environment()
  done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
  assert done.returncode == code, done.stderr
  return done


def test_reconstruct_from_the_command_line(folders, tmp_path):
  place = folders['pretraining'].parent
  given = ['pretraining', '0.mp4', 'broken.mp4', '.', '--ratio=0.5', f'--out={tmp_path}']
  done = run_verb(place, 'reconstruct', *given, code=2)
  assert 'error: 2 of 6 videos could not be read, such as broken.mp4' in done.stderr
  assert '0.mp4: 50% hidden, off by' in done.stdout
  stems = ('0', '0_2', '1', '2')
  files = {f'{stem}_pixels_visible.{kind}' for stem in stems for kind in ('png', 'mp4')}
  assert {path.name for path in tmp_path.iterdir()} == files
  with Video(tmp_path / '0_pixels_visible.mp4') as film:
    assert film.num_frames == 4
  done = run_verb(place, 'reconstruct', 'pretraining', '0.mp4', '--out=0.mp4', code=2)
  assert done.stderr == 'error: --out=0.mp4: File exists; give a folder that can be written to.\n'


def test_reconstruct_takes_the_frames_that_a_list_says(folders, tmp_path):
  place = folders['pretraining'].parent
  (tmp_path / 'list.txt').write_text(f'{place}/1.mp4 3 4 0\n')
  found = vmae_jax.load(folders['pretraining']).reconstruct(_source(tmp_path / 'list.txt'))
  fourth = decode_all(place / '1.mp4')[3]  # A stride of 4 goes no further in 4 frames.
  expected = crop_resize(fourth, centre_box(*fourth.shape[:2]), 32)
  np.testing.assert_allclose(255 * found.clip, [expected] * 4, atol=0.01)


def test_predict_from_the_command_line(folders, tmp_path):
  place, out = folders['classification'].parent, tmp_path / 'out'
  model = vmae_jax.load(folders['classification'])
  given = ['classification', '.', '--views=2x1', f'--out={out}']
  done = run_verb(place, 'predict', *given)
  found = {
    pathlib.Path(x['video']).name: x for x in json.loads((out / 'predictions.json').read_text())
  }
  assert set(found) == {'0.mp4', '1.mp4', '2.mp4', 'broken.mp4'}
  expected = model.classify(place / '1.mp4', views=(2, 1))
  best = found['1.mp4']['best']
  assert [entry['class'] for entry in best] == [model.classes[i] for i in np.argsort(-expected)]
  np.testing.assert_allclose([e['probability'] for e in best], np.sort(expected)[::-1], atol=1e-5)
  assert found['broken.mp4']['best'] == [] and 'Invalid data' in found['broken.mp4']['failed']
  header, *rows = (out / 'predictions.csv').read_text().splitlines()
  assert header.startswith('video,class1,probability1,class2') and header.endswith(',failed')
  assert all(row.count(',') == header.count(',') for row in rows) and len(rows) == 4
  assert (out / 'contact_sheet.png').exists() and 'could not be read' in done.stdout
  done = run_verb(place, 'predict', 'classification', '.', f'--out={out}', code=2)
  assert 'segments was 2, is 5' in done.stderr


def test_the_verbs_are_listed():
  done = subprocess.run([sys.executable, '-m', 'vmae_jax'], capture_output=True, text=True)
  verbs = [line.split()[0] for line in done.stdout.splitlines()[2:]]
  assert {'pretrain', 'prepare', 'reconstruct', 'predict'} < set(verbs) and 'lock' not in verbs
