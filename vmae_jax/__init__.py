"""Video masked autoencoders with motion, in JAX."""

__version__ = '0.1.0'
