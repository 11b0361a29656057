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
    web: Annotated[bool, Parameter(negative="")] = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: Annotated[str | None, Parameter(env_var="LMBENCH_WEB_TOKEN")] = None,
) -> int:
    """Open the workbench.

    Args:
        session: which session to open; left out, the one that was open last.
        demo: play a recorded session, without any worker.
        speed: how many times faster than it was recorded.
        web: serve it to browsers instead (needs the extra `web`).
        host: the address to serve on; any but this machine's own needs a token.
        port: the port to serve on.
        token: what a browser has to show, 16 characters or more.
    """
    if speed <= 0:
        raise LmbenchError(f"--speed: {speed:g}: must be greater than 0")
    if web:
        from lmbench.tui.web import serve_web

        if demo:
            raise LmbenchError("--web serves a session: leave --demo out")
        return serve_web(session, host=host, port=port, token=token)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise LmbenchError(
            "the workbench needs a terminal; every other command works without one (lmbench --help)"
        )
    from lmbench.tui.start import start

    return start(session, demo=demo, speed=speed)
