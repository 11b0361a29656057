"""What follows for a sweep when a run of it has ended. No torch here."""

from __future__ import annotations

from lmbench.jobs.sweeps.early_stopping import settle
from lmbench.jobs.sweeps.kept_file import has_sweep, made_records, sweep_of
from lmbench.jobs.sweeps.making import make_missing
from lmbench.jobs.sweeps.proposals import add_proposal, kept_plan
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
            points = kept_plan(session).points
            # After a proposal, or a death behind one. An earlier one without a run was deleted.
            if points and points[-1].key not in made_records(session):
                make_missing(session)
