"""Layers, named as in PyTorch: constructors take the same arguments, ``state_dict`` has the same keys."""

from lamina.nn import init, utils
from lamina.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from lamina.nn.attention import MultiheadAttention
from lamina.nn.conv import Conv2d, ConvTranspose2d
from lamina.nn.embedding import Embedding
from lamina.nn.linear import Flatten, Identity, Linear
from lamina.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from lamina.nn.module import Module, ModuleList, Parameter, Sequential
from lamina.nn.normalization import BatchNorm1d, BatchNorm2d, Dropout, GroupNorm, InstanceNorm2d, LayerNorm, RMSNorm
from lamina.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from lamina.nn.rnn import LSTM, LSTMCell

__all__ = [
    "ELU",
    "GELU",
    "LSTM",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "Identity",
    "InstanceNorm2d",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "init",
    "utils",
]
