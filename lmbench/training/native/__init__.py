"""Training on AMX, AVX-512 and AVX2: an optional compiled extra, which no training needs."""

from lmbench.training.native.choose import allow, enable_kernels, why_not
from lmbench.training.native.codes import code_passes
from lmbench.training.native.decoder import Kernel, draws_words, kernel
from lmbench.training.native.lstm import lstm_layer, lstm_library
from lmbench.training.native.process import Kernels, allowed, best

__all__ = [
    "Kernel",
    "Kernels",
    "allow",
    "allowed",
    "best",
    "code_passes",
    "draws_words",
    "enable_kernels",
    "kernel",
    "lstm_layer",
    "lstm_library",
    "why_not",
]
