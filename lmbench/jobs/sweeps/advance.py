"""What follows for a sweep when a run of it has ended. No torch here."""

from __future__ import annotations

from lmbench.jobs.sweeps.early_stopping import settle
from lmbench.session.files import locked
from lmbench.session.store import Session

__all__ = ["advance"]


def advance(session: Session) -> None:
    """Draw the conclusions from the runs of a session's sweep that have ended, as far as nobody has
    yet: whoever works through the queue does so after each run, and a resume after a death.

    Raises:
        LmbenchError: the sweep cannot be read.
    """
    with locked(session.path / ".advance.lock"):
        settle(session)
