"""Processes forked from one that has imported torch, so that they come to their work at once."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy.random  # noqa: F401 (what a child draws from begins as it does in this process)
import torch._dynamo  # noqa: F401 (torch needs it at odd moments)

__all__ = ["end", "fork"]


def fork(
    act: Callable[[], int],
    *,
    output: Path,
    errors: Path,
    first: Callable[[], object] = lambda: None,
) -> int:
    """Start a process that calls `first` and then does `act`; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            for number, path in ((1, output), (2, errors)):
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(log, number)
                os.close(log)
            sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace")
            sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
            first()
            code = act()
        except BaseException:
            # As Python does at the end of a process.
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def end(pid: int) -> int:
    """Wait for the end of a process; its exit code, or minus a signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
