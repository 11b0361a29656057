"""Training on AMX: an optional compiled extra, which no training needs."""

from lmbench.training.native.decoder import Kernel, kernel
from lmbench.training.native.lstm import lstm_layer, lstm_library
from lmbench.training.native.process import allow

__all__ = ["Kernel", "allow", "kernel", "lstm_layer", "lstm_library"]
