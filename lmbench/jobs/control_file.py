"""The file ``control`` of a run's folder: what the user asked of a live worker, a word a line.

Lines are only ever appended, each in one write, so that two processes can ask at once and no wish
is lost; the worker remembers how far it has read (`lmbench.jobs.job`). A worker that claims a run
removes what was asked of an earlier one.
"""

from __future__ import annotations

import os
from typing import Literal

from lmbench.session.store import Run

__all__ = ["Word", "ask", "asked"]

# `kill` is no wish to the worker, which is not asked: it tells the supervisor who killed it.
Word = Literal["pause", "continue", "checkpoint", "stop", "kill"]


def ask(run: Run, word: Word) -> None:
    """Append a word for the worker to hear."""
    descriptor = os.open(run.control_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{word}\n".encode())
    finally:
        os.close(descriptor)


def asked(run: Run) -> list[str]:
    """All that was asked of the latest worker, oldest first."""
    try:
        return run.control_path.read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return []
