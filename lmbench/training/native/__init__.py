"""The decoder's loss on AMX: an optional compiled extra, which no training needs."""

from lmbench.training.native.decoder import Kernel, allow, kernel

__all__ = ["Kernel", "allow", "kernel"]
