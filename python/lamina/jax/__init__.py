"""Lamina's kernels as custom calls of JAX: under jit, grad, vmap and scan, on XLA's memory and streams.

    import jax, lamina.jax
    from lamina.jax import functional as F

    y = F.conv2d(x, weight, padding=1)      # x, weight, y: jax.Array

One handler of XLA's foreign function interface runs every op that has a record; which op, with which attributes and
operands, stands in the compiled program. Call the functions of ``lamina.jax.functional``: they take the arguments of
``lamina.functional`` and have its gradients.

JAX is no dependency of Lamina; this module needs version 0.6.1 or newer, and nothing else imports it.
"""

from lamina.jax import functional
from lamina.jax.ops import random_state

__all__ = ["functional", "random_state"]
