"""Shapes in types are checked at run time, and XLA hurries, in tests only.

To compile is most of what tests do, and XLA takes half of that time for optimising programs that
then run for milliseconds. Modules marked `optimised`, whose numbers are those of other
implementations, are compiled as for training, and so is everything by `tests/run.sh --slow`.
"""

import os

import jaxtyping
import pytest

# Set before JAX is imported.
HURRIED = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') != '0'
jaxtyping.install_import_hook('vmae_jax', 'beartype.beartype')


@pytest.fixture(autouse=True, scope='module')
def optimisation(request):
  if request.node.get_closest_marker('optimised') is None:
    yield
    return
  import jax

  jax.clear_caches()  # Else what other modules have compiled would be taken.
  jax.config.update('jax_disable_most_optimizations', False)
  with pytest.MonkeyPatch.context() as patch:  # For the processes that its tests start.
    patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '0')
    yield
  jax.config.update('jax_disable_most_optimizations', HURRIED)
