"""Why a process ended, in words. No torch here."""

from __future__ import annotations

import signal

from lmbench.session.log_lines import last_lines
from lmbench.session.store import Run

__all__ = ["KILLED_BY_USER", "ROOM", "last_log_lines", "why_ended"]

KILLED_BY_USER = "killed at the user's request"

# A file in the folder of a run that is worked on, with nothing in it but room for its last words.
ROOM = ".room"

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
    text = b"\n".join(last_lines(run.log_path)).decode("utf-8", "replace")
    lines = (line.strip() for line in text.splitlines())
    return " / ".join([line for line in lines if line][-count:])
