"""The optional compiled extra: int8, int4, sparse and block-sparse kernels, built where it can be.

Nothing needs it: where no C++ compiler is at hand, or ``LMBENCH_NATIVE=0`` is set, its runtimes
refuse with the reason and the others work.
"""

from lmbench.compile_kernels import NativeUnavailableError
from lmbench.deploy.native.build import library, why_unavailable

__all__ = ["NativeUnavailableError", "library", "why_unavailable"]
