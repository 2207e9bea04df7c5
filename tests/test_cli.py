"""How a verb ends: one line on stderr and an exit code."""

import pytest

from vmae_jax import cli
from vmae_jax.errors import Unavailable, UserError


@pytest.mark.parametrize(
  ('error', 'code', 'line'),
  [
    (UserError('wrong'), 2, 'error: wrong\n'),
    (Unavailable('no room'), 74, 'unavailable: no room\n'),
    (cli.Preempted('saved'), 75, 'stopped: saved\n'),
    (KeyboardInterrupt(), 130, 'stopped: interrupted\n'),
  ],
)
def test_exit_codes(error, code, line, capsys):
  def main(argv):
    raise error

  with pytest.raises(SystemExit) as ended:
    cli.run(main, absl_flags=False)
  assert ended.value.code == code and capsys.readouterr().err == line
