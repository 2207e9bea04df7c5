"""Shapes in types are checked at run time, and XLA hurries, in tests only.

To compile is most of what tests do, and XLA takes half of that time for optimising programs that
then run for milliseconds. Modules marked `optimised`, whose numbers are those of other
implementations, are compiled as for training, and so is everything by `tests/run.sh --slow`.

What one test has compiled is there for all others, those in other processes too, and for the next
call of pytest where JAX_COMPILATION_CACHE_DIR names a folder: that takes a third of the time.
"""

import atexit
import os
import shutil
import tempfile

import jaxtyping
import pytest

# Set before JAX is imported.
HURRIED = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') != '0'
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # In a worker it is: its parent has set it.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='vmae_jax_compiled_')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
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
