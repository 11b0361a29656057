"""Starting, stopping, resuming and deleting a sweep: all by what its session's folder says.

Every run is made up front and queued, but for those that TPE has still to propose; the queue does
the rest, as for any runs. No process belongs to a sweep, so none needs to survive: whoever works
through the queue looks, after each run, at what follows (`advance`).
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.places import check_place
from lmbench.jobs.queue import awaited_parent
from lmbench.jobs.sweeps.advance import advance
from lmbench.jobs.sweeps.checking import check_runs
from lmbench.jobs.sweeps.kept_file import (
    has_sweep,
    keep,
    kept_path,
    made_records,
    other_files,
    sweep_of,
)
from lmbench.jobs.sweeps.making import alone, make_missing, make_missing_alone
from lmbench.jobs.sweeps.plan import Plan, PlannedRun, planned_runs, stand_in
from lmbench.jobs.sweeps.proposals import hold_proposals, proposals_path
from lmbench.jobs.sweeps.sweep_file import parse_sweep, read_text
from lmbench.jobs.sweeps.tpe import refuse_without_optuna
from lmbench.report.numbers import plural
from lmbench.session.manage import delete_run, delete_session
from lmbench.session.store import LIVE, Home, Run, Session, check_session_name

__all__ = [
    "Prepared",
    "advance",
    "delete",
    "ends_session",
    "find_sweep",
    "made_runs",
    "make_missing",
    "next_run",
    "pause",
    "prepare",
    "refuse_busy",
    "requeue",
    "resume",
    "start",
    "stop",
]


@dataclass(frozen=True)
class Prepared:
    """A sweep that was found to be in order; nothing of it is made yet. Of a search by TPE `runs`
    are as many as there will be, of combinations drawn at random."""

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
    refuse_without_optuna(sweep)
    if session is None:
        try:
            check_session_name(sweep.name)
        except LmbenchError as error:
            raise LmbenchError(sweep.problem(["name"], error.message)) from None
    else:
        check_session_name(session)
    name = session or sweep.name
    plan = stand_in(sweep)
    folder = file.resolve().parent
    runs = planned_runs(plan, folder, home, name)
    check_runs(plan, runs, home, name, progress)
    return Prepared(plan, runs, folder, name)


def start(prepared: Prepared, home: Home, place: str = "local") -> tuple[Session, list[Run]]:
    """Keep the sweep in its session and make its runs, those that are not there yet; gives all.

    A start that died on the way goes on with what is missing when it is called again.

    Raises:
        LmbenchError: the session has another sweep (says what differs), or one is being made, or
            has it at another place; or the next runs of the sweep depend on the last, and the place
            is not this machine.
    """
    sweep = prepared.plan.sweep
    if place != "local" and (sweep.early_stopping is not None or sweep.search == "tpe"):
        key = "search" if sweep.early_stopping is None else "early_stopping"
        why = "is decided between two runs by the queue of one machine: take it away, or --place"
        raise LmbenchError(sweep.problem([key], why))
    session = home.open_session(prepared.session)
    with alone(session):
        others = {record.place for _, record in made_records(session).values()} - {place}
        if others and place != "local":
            line = f"its runs are there already, for place {others.pop()}; leave it out"
            raise LmbenchError(f"--place {place}: session '{session.name}': {line}")
        keep(session, sweep, prepared.folder)
        make_missing_alone(session, place)
    hold_proposals(session, False)
    advance(session)
    return session, list(made_runs(session).values())


def made_runs(session: Session) -> dict[str, Run]:
    """The runs of a session's sweep that there are, by their points."""
    return {point: run for point, (run, _) in made_records(session).items()}


def next_run(session: Session) -> Run | None:
    """The run of a sweep to follow now: the one at work, else the oldest that can begin; None where
    no run of it will begin by itself."""
    made = made_records(session)
    statuses = {run.ref: run.status(record) for run, record in made.values()}
    live = [run for run, _ in made.values() if statuses[run.ref] in LIVE]
    if live:
        return live[0]
    waiting = (run for run, _ in made.values() if statuses[run.ref] == "queued")
    return next((run for run in waiting if awaited_parent(run) is None), None)


def requeue(runs: list[Run], *, failed: bool) -> int:
    """Put stopped and lost runs back in the queue, `failed` ones too if they are wanted, and none
    that was stopped early; says how many."""
    wanted = ("stopped", "lost", *(("failed",) if failed else ()))
    again = []
    try:
        for run in runs:
            record = run.read()
            if run.status(record) in wanted and not record.stopped_early:
                again.append(run)
                launch.requeue(run)
    except (KeyboardInterrupt, OSError, LmbenchError):
        launch.leave_queue(again)
        raise
    return len(again)


def resume(session: Session, *, failed: bool) -> list[Run]:
    """Make the runs of a sweep that are missing, and queue again what `requeue` does; gives all of
    them, for `begin`.

    Raises:
        LmbenchError: the session has no sweep, its runs are being made by another process, or
            cannot be sent from here to where they are worked on.
    """
    for place in {record.place for _, record in made_records(session).values()}:
        check_place(place, session.home)
    make_missing(session)
    hold_proposals(session, False)
    advance(session)
    runs = list(made_runs(session).values())
    requeue(runs, failed=failed)
    return runs


def pause(session: Session) -> tuple[Literal["pause", "continue"], int]:
    """Have the running runs of a sweep pause or, where none runs, the paused ones continue; says
    which it was, and of how many.

    The queue goes on when the run at work does, since a paused one keeps its place.
    """
    statuses = {run: run.status() for run in made_runs(session).values()}
    action: Literal["pause", "continue"] = "pause" if "running" in statuses.values() else "continue"
    asked = 0
    for run, status in statuses.items():
        if status == ("running" if action == "pause" else "paused"):
            # It may end by itself in this very moment.
            with suppress(LmbenchError):
                launch.request(run, action)
                asked += 1
    return action, asked


def stop(session: Session) -> int:
    """Take the waiting runs of a sweep out of the queue and have the live one finish its step, save
    and end; says how many.

    Raises:
        LmbenchError: the session has no sweep.
    """
    if sweep_of(session).search == "tpe":
        hold_proposals(session, True)
    else:
        # What is promoted already would be queued when the run at work has ended.
        with suppress(LmbenchError):
            advance(session)
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
    """Remove a sweep and its runs for good, and its session where `ends_session`; the caller has
    asked.

    Raises:
        LmbenchError: a run waits or is worked on.
    """
    runs = list(made_runs(session).values())
    if ends_session(session):
        delete_session(session.home, session.name)
        return
    # A death on the way leaves a sweep, which can be deleted again.
    for run in reversed(runs):
        delete_run(run)
    proposals_path(session).unlink(missing_ok=True)
    kept_path(session).unlink()


def ends_session(session: Session) -> bool:
    """Does the session of a sweep hold nothing else: no other run, no notes, sample or file?"""
    try:
        notes = session.read().notes
    except LmbenchError:
        # What is in a damaged record, nobody can tell.
        return False
    return not notes and len(made_runs(session)) == len(session.runs()) and not other_files(session)


def refuse_busy(session: Session) -> None:
    """Raises LmbenchError where runs of the sweep wait or are worked on."""
    busy = sum(run.status() in ("queued", *LIVE) for run in made_runs(session).values())
    if busy:
        raise LmbenchError(
            f"sweep '{session.name}' cannot be deleted: {plural(busy, 'run')} of it "
            f"{'waits or is' if busy == 1 else 'wait or are'} worked on; stop it first "
            f"(lmbench sweep stop {shlex.quote(session.name)})"
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
