"""The functions of ``lamina.functional`` on PyTorch tensors, with gradients.

Each is the very function of ``lamina.functional`` (see there for formulas, shapes and errors), with the ops that it
calls replaced by those that are registered with PyTorch. Limits: reverse mode only, no second derivatives.
"""

from typing import TYPE_CHECKING, Any

from lamina.torch.dispatch import rebind_functions

__all__ = rebind_functions(globals())

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
