"""Why a process ended, in words. No torch here."""

from __future__ import annotations

import signal
from pathlib import Path

from lmbench.session.store import Run

__all__ = ["KILLED_BY_USER", "ROOM", "last_log_lines", "why_ended"]

KILLED_BY_USER = "killed at the user's request"

# A file in the folder of a run that is worked on, with nothing in it but room for its last words.
ROOM = ".room"

_TAIL_BYTES = 16384

_SIGNALS = {
    "SIGKILL": "killed, probably out of memory",
    "SIGSEGV": "crashed by a memory fault (segmentation fault)",
    "SIGBUS": "crashed by a memory fault (bus error; a full disk or /dev/shm can be the cause)",
    "SIGABRT": "aborted by a library (see its log)",
    "SIGFPE": "crashed by an arithmetic fault",
    "SIGILL": "crashed by an instruction that this processor does not have",
    "SIGTERM": "ended by SIGTERM",
    "SIGXCPU": "ended by the limit on processor time",
}


def why_ended(code: int) -> str:
    """An exit code, or minus a signal's number, in words."""
    if code >= 0:
        return f"its process ended with exit code {code} and wrote no end"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"ended by signal {-code}"
    return _SIGNALS.get(name, f"ended by {name}")


def last_log_lines(run: Run, count: int = 3) -> str:
    """The last lines of ``log.txt`` that hold anything, joined by " / "; "" where there is none."""
    return " / ".join(_tail(run.log_path, count))


def _tail(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line][-count:]
