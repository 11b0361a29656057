"""The optional compiled extra: int8, int4, sparse and block-sparse kernels, built where it can be.

Nothing needs it: where no C++ compiler is at hand, or ``LMBENCH_NATIVE=0`` is set, the runtimes
that use it say so and the others go on working.
"""

from lmbench.compile_kernels import NativeUnavailableError
from lmbench.deploy.native.build import library, why_unavailable

__all__ = ["NativeUnavailableError", "library", "why_unavailable"]
