"""The functions of ``lamina.functional`` on JAX arrays, with gradients.

Each is the very function of ``lamina.functional`` (see there for formulas, shapes and errors), with the ops that it
calls replaced by custom calls. JAX's arrays do not change, so a function that updates operands (the state of a
generator, running statistics) returns its result and then the new value of each operand that it was given to update:

    y, state = F.dropout(x, state)                              # state: lamina.jax.random_state(seed)
    y, mean, var = F.batch_norm(x, mean, var, training=True)

Limits: reverse mode only, no second derivatives; attributes are Python values, not traced ones.
"""

from typing import TYPE_CHECKING, Any

from lamina.jax.ops import rebind_functions

__all__ = rebind_functions(globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
