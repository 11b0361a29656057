"""What follows for a sweep when a run of it has ended. No torch here."""

from __future__ import annotations

from lmbench.jobs.sweeps.early_stopping import settle
from lmbench.jobs.sweeps.kept_file import has_sweep, sweep_of
from lmbench.jobs.sweeps.making import make_missing
from lmbench.jobs.sweeps.proposals import add_proposal
from lmbench.session.files import locked
from lmbench.session.store import Session

__all__ = ["advance"]


def advance(session: Session) -> None:
    """Draw the conclusions from the runs of a session's sweep that have ended, as far as nobody has
    yet: whoever works through the queue does so after each run, and a resume after a death.

    Raises:
        LmbenchError: the sweep cannot be read, or needs Optuna, which is not installed.
    """
    if not has_sweep(session):
        return
    with locked(session.path / ".advance.lock"):
        if sweep_of(session).search != "tpe":
            settle(session)
        else:
            add_proposal(session)
            # Also the runs of a proposal after which a process died.
            make_missing(session)
