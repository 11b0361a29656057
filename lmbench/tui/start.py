"""From the command line to a running workbench."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from lmbench.session import Home, Session
from lmbench.tui.app import Workbench
from lmbench.tui.bench.saved_state import last_session
from lmbench.tui.bench.user_settings import load_settings, settings_path
from lmbench.tui.sessions.listing import read_sessions

__all__ = ["session_to_open", "start"]

# The thread that reads run folders may hold the interpreter this long before the screen's thread
# gets it back; Python's own five milliseconds can be felt.
_SWITCH_S = 0.001


def start(session: str | None, *, demo: bool = False, speed: float = 1.0) -> int:
    """Open the workbench and stay until it is left; gives the command's exit code.

    Raises:
        LmbenchError: there is no session of that name.
    """
    sys.setswitchinterval(_SWITCH_S)
    if demo:
        return _play(speed)
    home = Home.find()
    app = Workbench(home, session_to_open(home, session), settings=load_settings(settings_path()))
    app.run()
    return app.return_code or 0


def _play(speed: float) -> int:
    """The recorded session, in a folder that is gone afterwards."""
    from lmbench.tui.demo import Player, recording

    with tempfile.TemporaryDirectory(prefix="lmbench-demo-") as folder:
        home = Home(Path(folder))
        player = Player(recording(), home, speed)
        settings = load_settings(settings_path())
        app = Workbench(home, player.start(time.time()), player=player, settings=settings)
        app.run()
    return app.return_code or 0


def session_to_open(home: Home, name: str | None) -> Session | None:
    """The session that is asked for, else the one that was open last, else the one that changed
    last; None where there is none.

    Raises:
        LmbenchError: there is no session of that name.
    """
    if name is not None:
        return home.session(name)
    last = last_session(home)
    if last is not None:
        return home.session(last)
    sessions = read_sessions(home)
    return sessions[0].session if sessions else None
