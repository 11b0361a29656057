"""Whether a process trains with the kernels: with both, or with none."""

from __future__ import annotations

from lmbench.compile_kernels import NativeUnavailableError
from lmbench.training.native import decoder, lstm, process

__all__ = ["enable_kernels", "why_not"]


def why_not() -> str | None:
    """Why this process cannot use both kernels, in words that follow 'because', or None.

    They are compiled if they have to be, the first time on a machine: in this thread, so that
    whatever ends it ends the compiler.
    """
    try:
        process.find(decoder.DECODER, decoder.prepared)
        process.find(lstm.LSTM, lstm.prepared)
    except NativeUnavailableError as error:
        return str(error)
    return None


def enable_kernels() -> str | None:
    """Let this process use both kernels where both can be had, else neither; returns `why_not`.

    One alone would be a third arithmetic, which no run's record names, so none could resume in it.
    """
    process.allow(True)
    missing = why_not()
    process.allow(missing is None)
    return missing
