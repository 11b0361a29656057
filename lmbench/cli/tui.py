"""``lmbench tui``: the workbench."""

from __future__ import annotations

import gc
import math
import sys
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import refuse_flags, whole
from lmbench.errors import LmbenchError

__all__ = ["tui"]


def tui(
    session: str | None = None,
    *,
    demo: Annotated[bool, Parameter(negative="")] = False,
    speed: float | None = None,
    web: Annotated[bool, Parameter(negative="")] = False,
    host: str | None = None,
    port: Annotated[int | None, Parameter(converter=whole)] = None,
    token: Annotated[str | None, Parameter(env_var="LMBENCH_WEB_TOKEN")] = None,
) -> int:
    """Open the workbench.

    Args:
        session: which session to open; left out, the one that was open last, or changed last.
        demo: play a recorded session, without any worker.
        speed: how many times faster than it was recorded (1).
        web: serve it to browsers instead (needs the extra `web`).
        host: the address to serve on (127.0.0.1); any but this machine's own needs --token.
        port: the port to serve on (8000).
        token: what a browser has to show, 16 characters or more; left out, one is made.
    """
    if not demo:
        refuse_flags("sets the pace of --demo: add that", speed=speed)
    if not web:
        refuse_flags("is for the server that --web starts: add that", host=host, port=port)
    if demo and session is not None:
        raise LmbenchError(f"--demo plays a session of its own: leave '{session}' out")
    if speed is not None and not 0 < speed < math.inf:
        raise LmbenchError(f"--speed: {speed:g}: must be a number greater than 0")
    if port is not None and not 0 < port < 2**16:
        raise LmbenchError(f"--port: {port}: must be a number from 1 to 65535")
    if web:
        from lmbench.tui.web import serve_web

        if demo:
            raise LmbenchError("--web serves a session: leave --demo out")
        return serve_web(session, host=host or "127.0.0.1", port=port or 8000, token=token)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LmbenchError(
            "the workbench needs a terminal; every other command works without one (lmbench --help)"
        )
    from lmbench.malloc import ARENA_MAX, set_malloc

    # With a heap for each thread, room that one freed is none for another.
    set_malloc({ARENA_MAX: 1})
    gc.disable()
    from lmbench.tui.start import start

    # What was imported stays: no collection has to look through it.
    gc.freeze()
    gc.enable()
    # A key makes thousands of objects that are soon gone, and few that need a collection.
    gc.set_threshold(20_000, 2, 2)
    return start(session, demo=demo, speed=speed or 1.0)
