"""Lets tests compile in less than half of the time, unless JAX_DISABLE_MOST_OPTIMIZATIONS is 0.

Import it before JAX.
"""

import os
from importlib.metadata import version

HURRIED = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') != '0'
# Older code generators of XLA for CPUs, which take less time than those that replaced them. They
# are gone since jaxlib 0.11.1, where an unknown flag ends the process.
OLD = HURRIED and version('jaxlib').startswith(('0.10.', '0.11.0'))
XLA_FLAGS = '--xla_cpu_use_fusion_emitters=false' if OLD else ''
