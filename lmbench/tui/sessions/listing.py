"""What the list of sessions shows, read from their folders."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from lmbench.errors import LmbenchError
from lmbench.session.files import files_in
from lmbench.session.store import LIVE, Home, Session

__all__ = ["SessionRow", "day_of", "read_sessions", "session_row"]


@dataclass(frozen=True)
class SessionRow:
    """A session as it stands on disk; `changed` is when a run of it last wrote."""

    session: Session
    runs: int
    state: str
    bytes: int
    made: float
    changed: float
    problem: str = ""


def read_sessions(home: Home) -> list[SessionRow]:
    """All sessions, the one that changed last first."""
    return sorted(map(session_row, home.sessions()), key=lambda row: row.changed, reverse=True)


def session_row(session: Session) -> SessionRow:
    made, problem = 0.0, ""
    try:
        made = session.read().created
    except LmbenchError as error:
        problem = error.message
    states: Counter[str] = Counter()
    for run in session.runs():
        try:
            states[run.status()] += 1
        except LmbenchError:
            states["unreadable"] += 1
    shown = [f"{n} {s}" for s, n in states.items() if s in LIVE or s in ("queued", "unreadable")]
    size, changed = 0, made
    for path in files_in(session.path):
        try:
            stat = path.stat()
        except OSError:
            continue
        size += stat.st_size
        if path.name in ("run.json", "session.json", "events.jsonl"):
            changed = max(changed, stat.st_mtime)
    return SessionRow(session, states.total(), ", ".join(shown), size, made, changed, problem)


def day_of(t: float, now: float) -> str:
    """The time of a moment of today, else its day."""
    if not t:
        return ""
    then, today = time.localtime(t), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%d %b" if then[0] == today[0] else "%b %Y", then)
