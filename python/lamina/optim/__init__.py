"""Optimizers, named as in PyTorch, in order of increasing complexity."""

from lamina.nn.utils import clip_factor, clip_grad_norm_
from lamina.optim.adam import Adam, AdamW
from lamina.optim.optimizer import Optimizer
from lamina.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_factor", "clip_grad_norm_"]
