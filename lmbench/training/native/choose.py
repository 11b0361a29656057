"""Which kernels a process trains with: with all of an instruction set, or with none."""

from __future__ import annotations

from lmbench.compile_kernels import NativeUnavailableError
from lmbench.distiller.quantization.trained_codes import TrainedCodes
from lmbench.training.native import codes, decoder, lstm, process
from lmbench.training.native.process import Kernels, best

__all__ = ["allow", "enable_kernels", "why_not"]


def why_not(kernels: Kernels) -> str | None:
    """Why this process cannot use these kernels, in words that follow 'because', or None.

    They are compiled if they have to be, the first time on a machine: in this thread, so that
    whatever ends it ends the compiler.
    """
    try:
        if kernels in decoder.UNITS:
            process.find(decoder.UNITS[kernels], decoder.prepared, kernels)
            process.find(codes.UNITS[kernels], codes.prepared, kernels)
        if kernels == "amx":
            process.find(lstm.LSTM, lstm.prepared)
    except NativeUnavailableError as error:
        return str(error)
    return None


def enable_kernels(kernels: Kernels | None = None) -> str | None:
    """Let this process use these kernels where all can be had, else none; returns `why_not`.

    None are the best of this processor. Some alone would be another arithmetic, which no run's
    record names, so none could resume in it.
    """
    kernels = kernels or best()
    process.allow(kernels)
    missing = why_not(kernels)
    allow("torch" if missing else kernels)
    return missing


def allow(kernels: Kernels) -> None:
    """Let this process use these kernels and no others: a run goes on with those it began with."""
    process.allow(kernels)
    TrainedCodes.passes = codes.code_passes()
