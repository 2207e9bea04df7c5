"""Makes tests compile faster, unless JAX_DISABLE_MOST_OPTIMIZATIONS is 0.

Import it before JAX.
"""

import os
from importlib.metadata import version

HURRIED = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') != '0'
# XLA's older code generators for CPUs take less time than the newer ones. jaxlib 0.11.1 and later
# do not have them, and end the process if they get this flag.
HAS_OLDER = version('jaxlib').startswith(('0.10.', '0.11.0'))
XLA_FLAGS = '--xla_cpu_use_fusion_emitters=false' if HURRIED and HAS_OLDER else ''
