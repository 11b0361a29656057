"""Starting, stopping, resuming and deleting a sweep: all by what its session's folder says.

Every run is made up front and queued; the queue does the rest, as for any runs. No process belongs
to a sweep, so none needs to survive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.chains import make_step
from lmbench.jobs.sweeps.checking import check_runs
from lmbench.jobs.sweeps.kept_file import has_sweep, keep, kept_path, sweep_of
from lmbench.jobs.sweeps.plan import Plan, PlannedRun, plan_of, planned_runs
from lmbench.jobs.sweeps.sweep_file import parse_sweep, read_text
from lmbench.report.numbers import plural
from lmbench.session.files import try_lock
from lmbench.session.manage import delete_run, delete_session
from lmbench.session.store import LIVE, Home, Run, Session, check_session_name

__all__ = [
    "Prepared",
    "begin",
    "delete",
    "find_sweep",
    "made_runs",
    "make_missing",
    "prepare",
    "refuse_busy",
    "requeue",
    "start",
    "stop",
]


@dataclass(frozen=True)
class Prepared:
    """A sweep that was found to be in order; nothing of it is made yet."""

    plan: Plan
    runs: list[PlannedRun]
    folder: Path
    session: str


def prepare(
    file: Path, home: Home, session: str | None = None, progress: Progress | None = None
) -> Prepared:
    """Read and check a sweep's file with all that it names.

    Args:
        session: the session that is to hold the runs; None for the sweep's own name.

    Raises:
        LmbenchError: a line for each mistake.
    """
    sweep = parse_sweep(read_text(file), file)
    if session is None:
        try:
            check_session_name(sweep.name)
        except LmbenchError as error:
            raise LmbenchError(sweep.problem(["name"], error.message)) from None
    else:
        check_session_name(session)
    name = session or sweep.name
    plan = plan_of(sweep)
    folder = file.resolve().parent
    runs = planned_runs(plan, folder, home, name)
    check_runs(plan, runs, home, name, progress)
    return Prepared(plan, runs, folder, name)


def start(prepared: Prepared, home: Home, place: str = "local") -> tuple[Session, list[Run]]:
    """Keep the sweep in its session and make its runs, those that are not there yet; gives all.

    A start that died on the way goes on with what is missing when it is called again.

    Raises:
        LmbenchError: the session has another sweep (says what differs), or one is being made.
    """
    session = home.open_session(prepared.session)
    with _alone(session):
        keep(session, prepared.plan.sweep, prepared.folder)
        return session, _make_missing(session, place)


def make_missing(session: Session) -> list[Run]:
    """The runs of a session's sweep, those made now that a death had kept from being made, at the
    place of the others.

    Raises:
        LmbenchError: the session has no sweep, or its runs are being made by another process.
    """
    with _alone(session):
        places = [run.read().place for run in made_runs(session).values()]
        return _make_missing(session, places[0] if places else "local")


@contextmanager
def _alone(session: Session) -> Iterator[None]:
    """No two processes make the runs of one sweep."""
    lock = try_lock(session.path / ".sweep.lock")
    if lock is None:
        raise LmbenchError(f"session '{session.name}': another process makes its runs; wait for it")
    try:
        yield
    finally:
        os.close(lock)


def made_runs(session: Session) -> dict[str, Run]:
    """The runs of a session's sweep that there are, by their points. Damaged ones are left out."""
    found = {}
    for run in session.runs():
        with suppress(LmbenchError):
            point = run.read().point
            if point:
                found[point] = run
    return found


def _make_missing(session: Session, place: str) -> list[Run]:
    plan = plan_of(sweep_of(session))
    made = made_runs(session)
    if any(point.key not in made for point in plan.points):
        for one in planned_runs(plan, session.path, session.home, session.name):
            key, before = one.point.key, one.point.parent
            if key not in made:
                parent = one.source if before is None else made[plan.points[before].key]
                made[key] = make_step(session, one.step, parent, point=key, place=place)
    return [made[point.key] for point in plan.points]


def begin(runs: list[Run]) -> None:
    """Have the runs that wait be worked on, if they are not: in the background, the oldest first.

    Raises:
        LmbenchError: the process cannot be started.
    """
    launch.start_all(runs)


def requeue(runs: list[Run], *, failed: bool) -> int:
    """Put stopped and lost runs back in the queue, `failed` ones too if they are wanted; says how
    many."""
    again = 0
    for run in runs:
        if run.status() in ("stopped", "lost", *(("failed",) if failed else ())):
            launch.requeue(run)
            again += 1
    return again


def stop(session: Session) -> int:
    """Take the waiting runs of a sweep out of the queue and have the live one finish its step, save
    and end; says how many.

    Raises:
        LmbenchError: the session has no sweep.
    """
    sweep_of(session)
    stopped = 0
    # The last first, so that no run begins because the one before it has ended.
    for run in reversed(made_runs(session).values()):
        # A run may end by itself in this very moment.
        with suppress(LmbenchError):
            if run.status() in ("queued", *LIVE):
                launch.request(run, "stop")
                stopped += 1
    return stopped


def delete(session: Session) -> None:
    """Remove a sweep and its runs for good, and its session where it holds no other; the caller has
    asked.

    Raises:
        LmbenchError: a run waits or is worked on.
    """
    runs = list(made_runs(session).values())
    if len(runs) == len(session.runs()):
        delete_session(session.home, session.name)
        return
    # A death on the way leaves a sweep, which can be deleted again.
    for run in reversed(runs):
        delete_run(run)
    kept_path(session).unlink()


def refuse_busy(session: Session) -> None:
    """Raises LmbenchError where runs of the sweep wait or are worked on."""
    busy = sum(run.status() in ("queued", *LIVE) for run in made_runs(session).values())
    if busy:
        raise LmbenchError(
            f"sweep '{session.name}' cannot be deleted: {plural(busy, 'run')} of it "
            f"{'waits or is' if busy == 1 else 'wait or are'} worked on; stop it first "
            f"(lmbench sweep stop {session.name})"
        )


def find_sweep(home: Home, name: str | None) -> Session:
    """The session of a sweep: that of the name, or the only one there is.

    Raises:
        LmbenchError: there is no such session, it is no sweep, or there are several to choose from.
    """
    if name is not None:
        session = home.session(name)
        sweep_of(session)
        return session
    found = [session for session in home.sessions() if has_sweep(session)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise LmbenchError(f"there is no sweep in {home.sessions_path}: lmbench sweep start FILE")
    names = ", ".join(session.name for session in found)
    raise LmbenchError(f"which sweep? There are {names}: name one")
