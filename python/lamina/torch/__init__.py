"""Lamina's kernels as custom ops of PyTorch, with gradients, under its compiler, on its tensors and streams.

    import torch, lamina.torch
    from lamina.torch import functional as F

    y = F.conv2d(x, weight, padding=1)      # x, weight, y: torch.Tensor; y.backward() works

Every op with a record is registered as ``torch.ops.lamina.<op>``, by a loop: its schema, its implementation, and its
shapes for ``torch.compile`` and ``torch.export``. Call the functions of ``lamina.torch.functional``: they take the
arguments of ``lamina.functional`` and record gradients, which the bare ops do not. ``lamina.torch.nn`` and ``optim``
have PyTorch's layers and optimizers with Lamina's kernels; ``lamina.torch.patch(model)`` puts the layers into a model.

PyTorch is no dependency of Lamina; this module needs version 2.10 or newer, and nothing else imports it.
"""

from lamina.torch import functional, nn, optim
from lamina.torch.patching import Report, patch, unpatch
from lamina.torch.threads import share_threads

__all__ = ["Report", "functional", "nn", "optim", "patch", "unpatch"]

share_threads()
