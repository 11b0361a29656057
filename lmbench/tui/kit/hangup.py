"""The terminal's death: signals that must leave it whole, and a line that is cut without one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["HUNG_UP", "Terminal", "exit_on_signals"]

HUNG_UP = 129
"""The exit code of a process that SIGHUP (1) ended: 128 and the signal."""


def exit_on_signals(leave: Callable[[int], object]) -> None:
    """Have SIGTERM and SIGHUP call `leave` with the exit code, in the running event loop.

    Their default ends the process at once and leaves the terminal in raw mode.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        try:
            loop.add_signal_handler(number, leave, 128 + number)
        except (ValueError, RuntimeError):
            # Not the main thread: whoever runs us there has the signals.
            return


class Terminal:
    """The terminal that this process was started on, if it was.

    Where it is not our controlling terminal no SIGHUP tells of its end: reading then gives an end
    of file for ever, and whoever waits for input spins.
    """

    def __init__(self) -> None:
        self._was_there = self._is_there()

    @property
    def gone(self) -> bool:
        """Was there one, and is there none any more?"""
        return self._was_there and not self._is_there()

    def _is_there(self) -> bool:
        try:
            return sys.__stdin__ is not None and os.isatty(sys.__stdin__.fileno())
        except (OSError, ValueError):
            return False
