"""Processes: telling them apart for good, by number *and* start; starting those of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

__all__ = ["current_folder", "process_started", "python", "return_to", "same_start"]

# Elsewhere than on Linux, start times of one process can differ by a correction of the clock.
_SAME_START_S = 0.001 if sys.platform == "linux" else 1.0


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; never one of the current folder's."""
    return [sys.executable, "-P", "-m", module, *arguments]


def process_started(pid: int) -> float | None:
    """A number that tells process `pid` from all others that had or will have its number: when it
    began. None where there is no such (or only a dead) process.

    On Linux in seconds since the machine started, which setting the clock does not change; the
    same process gives exactly the same number each time. Elsewhere in seconds since the epoch.
    """
    if sys.platform == "linux":
        return _linux_process_started(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def _linux_process_started(pid: int) -> float | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything; the state is the third field and the
    # start, in clock ticks, the 22nd (proc_pid_stat(5)).
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X", b"x"):
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def same_start(one: float, other: float) -> bool:
    """Are these start times of one process number the same process's?"""
    return abs(one - other) < _SAME_START_S


def return_to(folder: str) -> None:
    """Work in the `current_folder` that a command was given in, if it is still there: relative
    paths in the settings mean what they meant to the user who wrote them."""
    if folder and Path(folder).is_dir():
        os.chdir(folder)


def current_folder() -> str:
    """Where this process is; "" where that folder has been removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
