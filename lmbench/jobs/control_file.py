"""The file ``control`` of a run's folder: what the user requests of a live worker, a word a line.

Lines are only ever appended, each in one write, so that two processes can write at once and no
request is lost; the worker remembers how far it has read (`lmbench.jobs.wait_while_paused`). A
worker that claims a run removes the requests to an earlier one.
"""

from __future__ import annotations

import os
from typing import Literal

from lmbench.errors import LmbenchError
from lmbench.session.store import Run

__all__ = ["Word", "ask", "asked", "is_to_end"]

# `kill` is not for the worker: by it the supervisor knows who killed the process. `end` stops as
# `stop` does, but is no wish of the user's: a worker that got SIGTERM says it to its ranks.
Word = Literal["pause", "continue", "checkpoint", "stop", "end", "kill"]


def ask(run: Run, word: Word) -> None:
    """Append a word for the worker to read.

    Raises:
        LmbenchError: it cannot be written.
    """
    try:
        descriptor = os.open(run.control_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{word}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        hint = "; a folder has its name: move it away" if run.control_path.is_dir() else ""
        raise LmbenchError(
            f"{run.control_path}: cannot be written ({error.strerror}){hint}"
        ) from None


def asked(run: Run) -> list[str]:
    """All that was requested of the latest worker, oldest first."""
    try:
        return run.control_path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def is_to_end(run: Run) -> bool:
    """Has the latest worker been asked to stop, by the user or by what started it?"""
    return bool({"stop", "end"} & {*asked(run)})
