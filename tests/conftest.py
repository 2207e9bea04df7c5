"""Shapes in types are checked at run time, in tests only."""

import jaxtyping

jaxtyping.install_import_hook('vmae_jax', 'beartype.beartype')
