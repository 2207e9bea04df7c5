"""Errors that are reported in one line: mistakes of the user, and outages."""

import difflib
import errno
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

# Exit codes of the entry points, see `vmae_jax.cli`.
EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_UNAVAILABLE = 74  # EX_IOERR.
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: job managers may requeue on it.
EXIT_INTERRUPTED = 130


class UserError(Exception):
  """A mistake of the user: wrong config, path, shape, checkpoint or video.

  The message is one line that says what is wrong, where, and what to do. Entry points
  (`vmae_jax.cli`) print it without a stack trace and exit with code 2.
  """


class Unavailable(Exception):
  """Something outside the run that may come back: a store, a mount, a worker, room on a disk.

  The message is one line, as in `UserError`; entry points exit with code 74, after which the
  same command may be started again.
  """


UNAVAILABLE = 'unavailable: '  # Prefix of a VideoError's reason if the video may be intact.
_OUTAGES = 'ENOSPC EDQUOT EIO ESTALE ETIMEDOUT EREMOTEIO ENOTCONN EHOSTDOWN ENETDOWN'.split()
OUTAGES = {getattr(errno, name) for name in _OUTAGES if hasattr(errno, name)}
# Libraries whose errors, if they have no HTTP status, say that no answer came.
_NETWORK = ('aiohttp', 'botocore', 'requests', 'urllib3')
_CODES = r'(RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED): '  # Of tensorstore.


def is_outage(e: BaseException) -> bool:
  """Whether a failure may be temporary: a full disk, or a mount or store that is unavailable.

  A store is unavailable if it gives no answer or the HTTP status 408, 429 or 5xx.
  """
  if 'redential' in type(e).__name__:
    return False
  answer = getattr(e, 'response', None)  # Of botocore.
  answer = answer.get('ResponseMetadata', {}) if isinstance(answer, dict) else {}
  codes = (getattr(e, name, None) for name in ('code', 'status'))
  code = answer.get('HTTPStatusCode') or next(filter(None, codes), None)
  if str(code).isdecimal() and int(code) >= 400:
    return int(code) in (408, 429) or int(code) >= 500
  if isinstance(e, (ConnectionError, TimeoutError)) or _library(e) in _NETWORK:
    return True
  number = re.search(r"os_error_code='(\d+)'", str(e))  # In tensorstore's messages.
  number = int(number[1]) if number else getattr(e, 'errno', None)
  return number in OUTAGES or bool(re.match(_CODES, str(e)))


def of_a_store(e: BaseException) -> bool:
  """Whether a library that accesses stores over the network has raised this error."""
  return _library(e) in (*_NETWORK, 'gcsfs', 'google')


def _library(e: BaseException) -> str:
  return type(e).__module__.partition('.')[0]


def may_pass(e: BaseException | None) -> bool:
  """Whether a failed read, or its cause, is an outage, so that a second attempt may succeed."""
  if e is None:
    return False
  # libav also raises EIO for damaged files.
  damaged = type(e).__module__.startswith('av.') and getattr(e, 'errno', None) == errno.EIO
  return (is_outage(e) and not damaged) or may_pass(e.__cause__)


class Preempted(Exception):
  """The run was told to stop, has saved its state and can be started again."""


class VideoError(Exception):
  """A video that cannot be read; the message is the reason, in one line, without the path."""


def suggest(name: str, names: Collection[str]) -> str:
  """The end of a message about an unknown name: the nearest name and all that exist."""
  if not names:
    return ' There is none at all.'
  close = difflib.get_close_matches(name, list(names), n=1)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  return f'{hint} There is: {", ".join(sorted(names))}.'


def first_few(items: Collection[str], *, most: int = 6, separator: str = ', ') -> str:
  """The first of some items, and how many more there are."""
  shown = list(items)[:most]
  more = len(items) - len(shown)
  last = f'{separator.rstrip(", ")} and {more} more' if more else ''
  return separator.join(shown) + last


def check_name(name: str, names: Collection[str], what: str) -> None:
  """Raises a UserError for a name that is not among `names`; lists them."""
  if name not in names:
    raise UserError(f'{what}: there is no {name!r}.{suggest(name, names)}')


def lookup(table: dict[str, Any], name: str, what: str) -> Any:
  """Returns `table[name]`, or raises a UserError that lists what there is.

  `what` is what the config calls the name, such as `masking.name`.
  """
  check_name(name, table, what)
  return table[name]


# Type of an option's default -> types of values that the option takes.
_LIKE = {bool: (bool, int), int: (int, float), float: (int, float), str: str, tuple: (tuple, list)}


def check_options(
  function: Callable, options: Mapping[str, Any], what: str, given: Collection[str]
) -> None:
  """Raises a UserError for an option that is not an argument of `function`, or of a wrong type.

  `what` is the config block; `given` are the arguments that the caller supplies itself.
  """
  parameters = inspect.signature(function).parameters
  known = set(parameters) - set(given)
  for name, value in options.items():
    if name not in known:
      raise UserError(f'{what}: there is no option {name!r}.{suggest(name, known)}')
    default = parameters[name].default
    if not isinstance(value, _LIKE.get(type(default), object)):
      raise UserError(f'{what}.{name} is {value!r}: give a value like {default!r}.')
