"""Models of the Hub, read by its own library from a local server of its protocol."""

import json
import subprocess
import sys

import pytest

from tests import started
from tests.hub import SHA, TOKEN, Hub
from tests.interchange import peer
from vmae_jax.errors import UserError
from vmae_jax.hub import local_path

# The library reads its environment when it is imported, so each case is a process of its own.
pytestmark = pytest.mark.full


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  folder = peer.write_folder(tmp_path_factory.mktemp('hub') / 'model', 'classification')
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  with Hub() as hub:
    hub.repositories = {
      'lab/model': files,
      'lab/secret': files,
      'lab/files': {'weights/a.safetensors': files['model.safetensors'], 'notes.md': b'#'},
      'lab/empty': {'notes.md': b'#'},
    }
    hub.private = {'lab/secret'}
    yield hub


def environment(**given):
  """An environment without the settings of the user of this machine."""
  usual = started.environment()
  return {k: v for k, v in usual.items() if not k.startswith('HF_')} | {
    name: str(value) for name, value in given.items()
  }


def run(hub, cache, *command, code=0, **env):
  env = environment(**{'HF_ENDPOINT': hub.url, 'HF_HOME': cache} | env)
  done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
  assert done.returncode == code, done.stdout + done.stderr
  return done


def ask(hub, cache, calls, **env):
  """A line for each call of `vmae_jax.hub`, in a new process, which reads `env` at its start."""
  program = (
    'import sys\n'
    'from vmae_jax.hub import check_push, local_path\n'
    'for call in sys.argv[1:]:\n'
    '  try:\n    print(eval(call))\n'
    '  except Exception as e:\n    print(f"{type(e).__name__}: {e}")'
  )
  return run(hub, cache, '-c', program, *calls, **env).stdout.splitlines()


def test_a_model_of_the_hub_is_read_and_kept(hub, tmp_path):
  program = (
    'import vmae_jax, numpy as np\n'
    'model = vmae_jax.load("hf:lab/model")\n'
    'print(model.classes, model.classify(np.zeros((4, 32, 32, 3), np.uint8)).shape)'
  )
  told = run(hub, tmp_path, '-c', program).stdout
  assert "('ant', 'bee', 'cat', 'dog', 'eel') (5,)" in told
  call = ['local_path("hf:lab/model")']
  (folder,) = ask(hub, tmp_path, call, HF_HUB_OFFLINE=1)
  assert folder.startswith(str(tmp_path)) and SHA in folder
  hub.failing = True
  try:  # A downloaded copy is used if the Hub gives no answer or is offline.
    assert ask(hub, tmp_path, call) == [folder]
  finally:
    hub.failing = False


CASES = {
  'no login': (
    {},
    {
      f'hf:lab/model@{SHA}': SHA,
      'hf:lab/files/weights/a.safetensors': 'a.safetensors',
      'hf:lab/secret': 'hf:lab/secret: there is no such repository, or it is private',
      'hf:lab/model@v9': 'UserError: hf:lab/model@v9: there is no such revision.',
      'hf:lab/model/b.pth': 'UserError: hf:lab/model/b.pth: the repository has no such file.',
      'hf:lab/empty': 'UserError: hf:lab/empty holds no model.safetensors',
    },
  ),
  'a login': (
    {'HF_TOKEN': TOKEN},
    {
      'hf:lab/secret': SHA,
      'hf:lab/modle': 'UserError: hf:lab/modle: there is no such repository',
    },
  ),
  'offline': ({'HF_HUB_OFFLINE': 1}, {'hf:lab/lost': 'hf:lab/lost: HF_HUB_OFFLINE is set'}),
  'no answer': ({'HF_ENDPOINT': 'http://127.0.0.1:9'}, {'hf:lab/lost': 'Unavailable: hf:lab/lost'}),
}


@pytest.mark.parametrize('case', CASES)
def test_revisions_files_and_mistakes_take_one_line(case, hub, tmp_path):
  env, paths = CASES[case]
  lines = ask(hub, tmp_path, [f'local_path("{path}")' for path in paths], **env)
  assert len(lines) == len(paths)
  for line, told in zip(lines, paths.values(), strict=True):
    assert told in line


def test_wrong_names():
  assert local_path('runs/b') == 'runs/b'
  for path in ('hf:model', 'hf:', 'hf:a/b c'):
    with pytest.raises(UserError, match='is written hf:OWNER/NAME'):
      local_path(path)


def test_a_model_is_pushed_with_a_card(hub, tmp_path):
  convert = ['-m', 'vmae_jax.convert', 'hf:lab/model', '--push=me/new']
  done = run(hub, tmp_path, *convert, HF_TOKEN=TOKEN)
  assert 'pushed to' in done.stdout and 'say the licence in its card' in done.stdout
  files = hub.repositories['me/new']
  described = {'config.json', 'preprocessor_config.json', 'video_preprocessor_config.json'}
  assert set(files) == {'README.md', 'model.safetensors'} | described
  assert json.loads(files['config.json'])['id2label']['4'] == 'eel'
  card = files['README.md'].decode()
  assert card.startswith('---\nlibrary_name: "transformers"\n') and 'license: "unknown"' in card
  from huggingface_hub import ModelCard  # Only parsed here: the server has validated it.

  data = ModelCard(card).data
  assert (data.pipeline_tag, data.license) == ('video-classification', 'unknown')


def test_an_existing_card_is_kept_and_refusals_are_reported(hub, tmp_path):
  hub.repositories['me/there'] = {'README.md': b'edited'}
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model' / 'README.md').write_text('new')
  (tmp_path / 'model' / 'config.json').write_text('{}')
  folder = f'__import__("pathlib").Path("{tmp_path}/model")'
  push = '__import__("vmae_jax.hub").hub.push'
  calls = ['check_push("new")', 'check_push("me/new")']
  calls += [f'{push}({folder}, "{name}", private=True)' for name in ('me/there', 'lab/new')]
  wrong, right, kept, refused = ask(hub, tmp_path, calls, HF_TOKEN=TOKEN)
  assert 'UserError: --push=new' in wrong and right == 'None'
  assert 'the card that is there was kept' in kept
  assert hub.repositories['me/there'] == {'README.md': b'edited', 'config.json': b'{}'}
  assert 'UserError: --push=lab/new: the Hub refuses' in refused
  (line,) = ask(hub, tmp_path, ['check_push("me/new")'])
  assert 'UserError: --push=me/new' in line and 'log in' in line


def test_verbs_take_models_of_the_hub(hub, tmp_path):
  given = ['-m', 'vmae_jax.extract', 'hf:lab/modle', '--videos=x', f'--out={tmp_path}/o']
  done = run(hub, tmp_path, *given, code=2)
  assert 'error: hf:lab/modle: there is no such repository' in done.stderr
