"""Video masked autoencoders with motion, in JAX.

import vmae_jax
model = vmae_jax.load('runs/b_k400')  # See `vmae_jax.trained`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vmae_jax.trained import TrainedModel, load

__version__ = '0.2.0'
__all__ = ['TrainedModel', 'load']


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from vmae_jax import trained  # Not above: it imports JAX.

  return getattr(trained, name)
