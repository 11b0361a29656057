"""``lmbench tui``: the workbench."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from lmbench.errors import LmbenchError

__all__ = ["tui"]


def tui(
    session: str | None = None,
    *,
    demo: Annotated[bool, Parameter(negative="")] = False,
    speed: float = 1.0,
) -> int:
    """Open the workbench.

    Args:
        session: which session to open; left out, the one that was open last.
        demo: play a recorded session, without any worker.
        speed: how many times faster than it was recorded.
    """
    if speed <= 0:
        raise LmbenchError(f"--speed: {speed:g}: must be greater than 0")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LmbenchError(
            "the workbench needs a terminal; every other command works without one (lmbench --help)"
        )
    from lmbench.tui.start import start

    return start(session, demo=demo, speed=speed)
