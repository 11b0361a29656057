"""Sessions, runs and events: what is on disk, and the only truth about all work. No torch here."""

from lmbench.session.event_log import EventWriter, read_events
from lmbench.session.store import Home, Run, RunRecord, Session, SessionRecord, Status

__all__ = [
    "EventWriter",
    "Home",
    "Run",
    "RunRecord",
    "Session",
    "SessionRecord",
    "Status",
    "read_events",
]
