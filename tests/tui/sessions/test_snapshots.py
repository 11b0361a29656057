"""The list of sessions."""

from __future__ import annotations

from pathlib import Path

from pictures import Snap, at_each_size, pressing
from workbench_world import NOON

from lmbench.session import Session
from lmbench.tui.sessions.listing import SessionRow


@at_each_size
def test_the_sessions(snap_compare: Snap, full, size, monkeypatch):
    folder = Path("sessions")
    rows = [
        SessionRow(full.session, 4, "1 running, 1 queued", 58_642_000, NOON - 9e5, NOON - 60),
        SessionRow(Session(folder / "pruning study"), 12, "", 311_000_000, NOON - 5e6, NOON - 4e5),
        SessionRow(Session(folder / "old"), 0, "", 900, 0.0, 0.0, "session.json: not readable"),
    ]
    monkeypatch.setattr("lmbench.tui.sessions.screen.read_sessions", lambda home: rows)
    monkeypatch.setattr("lmbench.tui.sessions.screen.SessionsScreen._show_path", lambda self: None)
    assert snap_compare(full.bench(), terminal_size=size, run_before=pressing("o"))
