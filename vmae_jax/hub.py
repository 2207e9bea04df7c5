"""Models on the Hugging Face Hub: read as hf:OWNER/NAME, written with `convert --push`.

Its library, huggingface_hub, keeps what it downloads, takes the login of `hf auth login` or
HF_TOKEN, and is an extra: pip install huggingface_hub.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmae_jax.errors import Unavailable, UserError, is_outage

PREFIX = 'hf:'
# What `load_pretrained` and `load_run` read of a repository.
_FILES = ('*.json', '*.safetensors', 'classes.txt', 'state/*', 'config/*', '_CHECKPOINT_METADATA')
_PICKLED = ('pytorch_model*.bin',)
_LOGIN = 'log in (hf auth login, or HF_TOKEN)'


def local_path(path: str) -> str:
  """Downloads a model of the Hub and returns its folder or file; other paths as they are.

  On the Hub it is hf:OWNER/NAME or hf:OWNER/NAME/FILE.pth, with or without @REVISION.

  Raises:
    UserError: there is no such model, file or revision, it is private, or huggingface_hub is not
      installed.
    Unavailable: the Hub gives no answer, and there is no local copy.
  """
  if not path.startswith(PREFIX):
    return path
  name = re.fullmatch(r'hf:([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(.+))?', path)
  if not name:
    raise UserError(f'{path}: a model of the Hub is written hf:OWNER/NAME or hf:OWNER/NAME/FILE.')
  repository, file, revision = name.groups()
  hub = _library()
  with _one_line_errors(path):
    if file:
      return hub.hf_hub_download(repository, file, revision=revision)
    folder = hub.snapshot_download(repository, revision=revision, allow_patterns=[*_FILES])
    if not _holds_weights(folder):
      files = [*_FILES, *_PICKLED]
      folder = hub.snapshot_download(repository, revision=revision, allow_patterns=files)
  if not _holds_weights(folder):
    raise UserError(
      f'{path} holds no model.safetensors, pytorch_model.bin or checkpoint of ours: name one of '
      f'its files, {PREFIX}{repository}/FILE.'
    )
  return folder


def _holds_weights(folder: str) -> bool:
  names = ('*.safetensors', 'state', *_PICKLED)
  return any(next(Path(folder).glob(name), None) for name in names)


def check_push(repository: str) -> None:
  """Raises, before hours of work, the errors of `push` for a wrong name or a missing login."""
  if not re.fullmatch(r'[\w.-]+/[\w.-]+', repository):
    raise UserError(f'--push={repository}: a model of the Hub is written OWNER/NAME.')
  hub = _library()
  with _one_line_errors(f'--push={repository}'):
    hub.whoami()


def push(folder: Path, repository: str, *, private: bool) -> str:
  """Uploads a folder; returns what was done, in one line.

  An existing model card is kept, as its licence and text may have been edited.

  Args:
    folder: Written by `write_huggingface`.
    repository: OWNER/NAME; it is made if it does not exist.
    private: Whether a new repository is private.

  Raises:
    UserError: the login may not write there.
    Unavailable: the Hub gives no answer.
  """
  hub = _library()
  with _one_line_errors(f'--push={repository}'):
    url = hub.create_repo(repository, private=private, exist_ok=True)
    kept = hub.file_exists(repository, 'README.md')
    hub.upload_folder(
      repo_id=repository,
      folder_path=folder,
      commit_message='Weights converted by vmae_jax',
      ignore_patterns=['README.md'] if kept else None,
    )
  card = 'the card that is there was kept' if kept else 'say the licence in its card'
  return f'pushed to {url}: {card}'


def _library() -> Any:
  try:
    import huggingface_hub
  except ImportError as e:
    raise UserError(f'models of the Hub need pip install huggingface_hub ({e}).') from e
  return huggingface_hub


@contextlib.contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
  """Turns errors of the library into one line that says what to do."""
  from huggingface_hub import errors

  messages = {  # The first whose type fits is used.
    errors.GatedRepoError: f' is gated: ask for access on its page, and {_LOGIN}',
    errors.RepositoryNotFoundError: ': there is no such repository, or it is private: then '
    + _LOGIN,
    errors.RevisionNotFoundError: ': there is no such revision',
    errors.RemoteEntryNotFoundError: ': the repository has no such file',
    errors.HFValidationError: ' is not a name of a model of the Hub',
    errors.LocalTokenNotFoundError: f': {_LOGIN}',
  }
  try:
    yield
  except tuple(messages) as e:
    text = next(text for kind, text in messages.items() if isinstance(e, kind))
    raise UserError(f'{what}{text}.') from e
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as e:
    cause = f'{type(e.__cause__ or e).__name__}: {e.__cause__ or e}'.splitlines()[0]
    if 'Offline' in cause:
      raise UserError(f'{what}: HF_HUB_OFFLINE is set, and no whole copy is here.') from e
    raise Unavailable(f'{what}: the Hub gives no answer ({cause}), and no copy is here.') from e
  except errors.HfHubHTTPError as e:
    code = getattr(e.response, 'status_code', 0)
    line = ' '.join(str(e).split())[:200]
    if code in (408, 429) or code >= 500:
      raise Unavailable(f'{what}: the Hub cannot answer now ({line}).') from e
    hint = f'; {_LOGIN} as someone who may' if code in (401, 403) else ''
    raise UserError(f'{what}: the Hub refuses ({line}){hint}.') from e
  except Exception as e:
    network = any(base.__name__ in ('ConnectError', 'TransportError') for base in type(e).__mro__)
    if network or is_outage(e):
      raise Unavailable(f'{what}: the Hub gives no answer ({type(e).__name__}: {e}).') from e
    raise
