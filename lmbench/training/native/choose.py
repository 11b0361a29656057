"""Whether a process trains with the kernels: with all, or with none."""

from __future__ import annotations

from lmbench.compile_kernels import NativeUnavailableError
from lmbench.distiller.quantization.trained_codes import TrainedCodes
from lmbench.training.native import codes, decoder, lstm, process

__all__ = ["allow", "enable_kernels", "why_not"]


def why_not() -> str | None:
    """Why this process cannot use the kernels, in words that follow 'because', or None.

    They are compiled if they have to be, the first time on a machine: in this thread, so that
    whatever ends it ends the compiler.
    """
    try:
        process.find(decoder.DECODER, decoder.prepared)
        process.find(lstm.LSTM, lstm.prepared)
        process.find(codes.CODES, codes.prepared)
    except NativeUnavailableError as error:
        return str(error)
    return None


def enable_kernels() -> str | None:
    """Let this process use the kernels where all can be had, else none; returns `why_not`.

    Some alone would be a third arithmetic, which no run's record names, so none could resume in it.
    """
    process.allow(True)
    missing = why_not()
    allow(missing is None)
    return missing


def allow(yes: bool) -> None:
    """Let this process use the kernels, or not: a run that began without them continues without."""
    process.allow(yes)
    TrainedCodes.passes = codes.code_passes()
