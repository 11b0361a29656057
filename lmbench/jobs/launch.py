"""Starting, following, pausing, stopping and resuming runs, from any process. No torch here.

Nothing is held open between this process and the work: a run is handed to its place
(`lmbench.jobs.places`), and from then on only its folder is looked at and written to.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import psutil

from lmbench.errors import LmbenchError
from lmbench.jobs.control_file import ask, asked
from lmbench.jobs.exit_reasons import KILLED_BY_USER, last_log_lines
from lmbench.jobs.places import check_place, place_named
from lmbench.jobs.queue import is_queued
from lmbench.session.attempts import fence_attempts, last_sign_of_life
from lmbench.session.event_log import EventReader
from lmbench.session.events import Event
from lmbench.session.manage import delete_run
from lmbench.session.store import LIVE, Run, RunRecord, Status

__all__ = [
    "Action",
    "Look",
    "all_or_none",
    "follow",
    "leave_queue",
    "request",
    "requeue",
    "resume",
    "start",
    "start_all",
    "start_new",
    "take_over",
    "why_lost",
]

Action = Literal["pause", "continue", "checkpoint", "stop", "kill"]

# How long a dead worker's supervisor is given to write down what it saw.
_WITNESS_S = 3.0
_POLL_S = 0.1
_KILL_S = 5.0


@dataclass(frozen=True)
class Look:
    """A run as it stood at one moment, for those who follow it.

    `events` are those since the last look, or all that count where some of earlier looks no longer
    do, since the run was resumed from an earlier checkpoint.
    """

    status: Status
    events: tuple[Event, ...]


def start(run: Run, *, queue: bool = True) -> None:
    """Have a ``queued`` run worked on, at its place, by a process that outlives this one.

    Args:
        run: a run as `Session.new_run` makes it.
        queue: wait for the device while another run computes on it. Foreground commands pass
            False: their run begins at once, whatever else is running.

    Raises:
        LmbenchError: the process cannot be started.
    """
    record = run.read_if_readable()
    # The queue of this machine passes over a damaged record.
    place_named(record.place if record else "local").submit([run], queue=queue)


def start_all(runs: Sequence[Run]) -> None:
    """Have those of `runs` that wait be worked on, each at its place. Raises as `start`."""
    waiting: dict[str, list[Run]] = {}
    for run in runs:
        record = run.read()
        if record.status == "queued":
            waiting.setdefault(record.place, []).append(run)
    for place, its in waiting.items():
        place_named(place).submit(its)


@contextmanager
def all_or_none() -> Iterator[list[Run]]:
    """A list for runs that are made and started together: where one cannot be, or Ctrl-C comes
    between, the others are removed again but for those that are worked on by then."""
    runs: list[Run] = []
    try:
        yield runs
    except (LmbenchError, OSError, KeyboardInterrupt):
        for run in reversed(runs):
            with suppress(LmbenchError, OSError):
                if run.status() == "queued":
                    delete_run(run)
        raise


def start_new(make: Callable[[], Run], *, queue: bool = True) -> Run:
    """Make a run and start it, or leave none. Raises as `start`."""
    with all_or_none() as made:
        made.append(make())
        start(made[0], queue=queue)
    return made[0]


def leave_queue(runs: Sequence[Run]) -> None:
    """Take those of `runs` that wait out of the queue, the last first, as far as that is possible:
    of what was begun and broken off, none is to begin with the next run of any kind."""
    for run in reversed(runs):
        with suppress(LmbenchError, OSError):
            if run.status() == "queued":
                request(run, "stop")


def follow(run: Run) -> Iterator[Look]:
    """Look at a run until it has ended; each look comes with the new events, if any.

    A look is given as often as the run's place allows, even where nothing is new. The last one
    shows the end: its status is none of ``queued``, ``running``, ``paused``. Whoever stops
    iterating changes nothing about the run.

    Raises:
        LmbenchError: the run's folder is gone or its record damaged.
    """
    reader = EventReader(run.events_path)
    while True:
        record, status = _settled_status(run)
        # Read after the status, so that the look which shows the end holds all events.
        yield Look(status, tuple(reader.read()))
        if status != "queued" and status not in LIVE:
            return
        time.sleep(place_named(record.place).look_s)


def _settled_status(run: Run) -> tuple[RunRecord, Status]:
    """The record and status; a worker's death is waited out until its witness has written."""
    deadline = time.monotonic() + _WITNESS_S
    while True:
        record = run.read()
        if record.status == "queued":
            place_named(record.place).poll([run])
            record = run.read()
        status = run.status(record)
        if status != "lost" or record.status == "lost" or time.monotonic() > deadline:
            return record, status
        time.sleep(_POLL_S / 2)


def request(run: Run, action: Action) -> None:
    """Ask something of a run. All but ``kill`` take effect when the worker next looks.

    ``stop`` and ``kill`` take a run that still waits out of the queue. ``kill`` ends the process
    with SIGKILL, after making sure that it is the run's own, and loses what was not saved.

    Raises:
        LmbenchError: the run is in no state for it; says which state, and what to do.
    """
    if action in ("stop", "kill") and run.transition(
        "stopped", only_if=is_queued, reason="stopped in the queue"
    ):
        place_named(run.read().place).stop(run)
        return
    record = run.read()
    status = run.status(record)
    if status not in LIVE:
        raise LmbenchError(f"run {run.ref} is {status}: {_instead(action, status)}")
    if action == "checkpoint" and record.kind not in ("train", "prune"):
        raise LmbenchError(f"run {run.ref} is no training: it has no checkpoint to write")
    if action == "kill":
        _kill(run, record)
    elif action == "pause" and status == "paused":
        raise LmbenchError(f"run {run.ref} is paused already")
    else:
        ask(run, action)


def _instead(action: Action, status: Status) -> str:
    if status == "queued":
        return f"there is nothing to {action}; stop takes it out of the queue"
    if action == "continue" and status in ("stopped", "failed", "lost"):
        return "it has no process to continue; lmbench runs resume goes on from its checkpoint"
    return f"there is no process to {action}"


def _kill(run: Run, record: RunRecord) -> None:
    if record.place != "local":
        ask(run, "kill")
        place_named(record.place).stop(run)
        fence_attempts(run.path)
        run.transition("stopped", only_if=lambda now: now.status in LIVE, reason=KILLED_BY_USER)
        return
    if record.pid is None or record.host != platform.node() or not run.alive(record):
        raise LmbenchError(f"run {run.ref} works on {record.host}: kill it there")
    # By it the supervisor knows who did it; a full disk must not save the process.
    with suppress(LmbenchError):
        ask(run, "kill")
    try:
        if os.getpgid(record.pid) == record.pid:
            # The worker leads a group of its own: its helpers go with it.
            os.killpg(record.pid, signal.SIGKILL)
        else:
            os.kill(record.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It ended by itself in this very moment.
    except PermissionError:
        raise LmbenchError(f"run {run.ref}: process {record.pid} is another user's") from None
    deadline = time.monotonic() + _KILL_S
    while run.alive(record) and time.monotonic() < deadline:
        time.sleep(_POLL_S / 10)
    if run.alive(record):
        # It hangs in the kernel (a dead disk); its supervisor will write the end.
        return
    run.transition(
        "stopped",
        only_if=lambda now: now.status in LIVE and now.pid == record.pid,
        reason=KILLED_BY_USER,
    )


def resume(run: Run, *, queue: bool = True, place: str | None = None) -> None:
    """Go on with a run that was stopped, failed or lost, from its checkpoint ``last``.

    A run that was left in the queue (its supervisor was killed, the machine restarted) is
    started.

    Args:
        place: where it goes on; None for where it was.

    Raises:
        LmbenchError: it is running, paused or finished.
    """
    check_place(place or run.read().place, run.home)
    requeue(run, place)
    start(run, queue=queue)


def requeue(run: Run, place: str | None = None) -> None:
    """Put a run back in the queue, for whoever works through it. Raises as `resume`."""
    moved = {} if place is None else {"place": place}

    def resumable(record: RunRecord) -> bool:
        status = run.status(record)
        if status in LIVE:
            raise LmbenchError(
                f"run {run.ref} is {status}"
                + (": lmbench runs continue lets it go on" if status == "paused" else "")
            )
        if status == "finished":
            raise LmbenchError(f"run {run.ref} is finished: there is nothing to resume")
        # A worker that was taken for lost, on another machine, may come back to life.
        fence_attempts(run.path)
        return True

    run.transition("queued", only_if=resumable, job="", **moved)


def take_over(run: Run, job: str) -> bool:
    """Put a run back in the queue whose job the cluster starts again, whoever worked on it before;
    False for one that has ended for good, that the user has stopped, or that has another job by
    now: it is left as it is."""

    def goes_on(record: RunRecord) -> bool:
        if record.job != job or record.status in ("finished", "failed"):
            return False
        # What is asked before a worker has claimed the run was asked of an earlier one.
        if record.status != "queued" and {"stop", "kill"} & {*asked(run)}:
            return False
        fence_attempts(run.path)
        return True

    return run.transition("queued", only_if=goes_on) is not None


def why_lost(run: Run) -> str:
    """Why a run is ``lost``, in one line: what is known of the process, then its last words."""
    record = run.read()
    if record.reason:
        why = record.reason
    elif record.host != platform.node():
        sign = time.strftime("%F %T", time.localtime(last_sign_of_life(run.path, record)))
        why = f"no sign of life from {record.host} since {sign}"
    elif record.started is not None and psutil.boot_time() > record.started:
        why = "the machine was restarted"
    else:
        why = "its process is gone, and so is the one that watched it"
    words = last_log_lines(run)
    return f"{why}; last lines of its log: {words}" if words else why
