"""Making the runs of a session's sweep: those that are not there yet, and no two at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lmbench.errors import LmbenchError
from lmbench.jobs.chains import make_step
from lmbench.jobs.launch import all_or_none
from lmbench.jobs.sweeps.kept_file import made_records
from lmbench.jobs.sweeps.plan import planned_runs
from lmbench.jobs.sweeps.proposals import kept_plan
from lmbench.session.files import try_lock
from lmbench.session.store import LIVE, Run, Session

__all__ = ["alone", "make_missing", "make_missing_alone"]


@contextmanager
def alone(session: Session) -> Iterator[None]:
    """No two processes make the runs of one sweep."""
    lock = try_lock(session.path / ".sweep.lock")
    if lock is None:
        raise LmbenchError(f"session '{session.name}': another process makes its runs; wait for it")
    try:
        yield
    finally:
        os.close(lock)


def make_missing(session: Session) -> list[Run]:
    """The runs of a session's sweep, those made now that a death had kept from being made, at the
    place of the others.

    Raises:
        LmbenchError: the session has no sweep, or its runs are being made by another process.
    """
    with alone(session):
        return make_missing_alone(session)


def make_missing_alone(session: Session, place: str = "local") -> list[Run]:
    """As `make_missing`, for who is `alone` already; `place` is that of the first run."""
    plan = kept_plan(session)
    there = made_records(session).values()
    made = {record.point: run for run, record in there}
    place = next((record.place for _, record in there), place)
    if any(point.key not in made for point in plan.points):
        planned = planned_runs(plan, session.path, session.home, session.name)
        with all_or_none() as new:
            for one in planned:
                key, before = one.point.key, one.point.parent
                parent = one.source if before is None else made[plan.points[before].key]
                if key not in made:
                    made[key] = make_step(session, one.step, parent, point=key, place=place)
                    new.append(made[key])
                elif parent is not None:
                    _start_from(made[key], parent)
    return [made[point.key] for point in plan.points]


def _start_from(run: Run, parent: Run) -> None:
    """A run that has come to nothing yet starts from what is made now in the place of a deleted
    parent."""
    record = run.read()
    came_to_nothing = not run.has_model and run.status(record) not in (*LIVE, "finished")
    if came_to_nothing and record.parent != parent.ref:
        run.update(parent=parent.ref)
