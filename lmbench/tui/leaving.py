"""Leaving the workbench while runs are alive or wait for the device."""

from __future__ import annotations

from contextlib import suppress

from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.kept_file import has_sweep
from lmbench.session import Run, Session
from lmbench.session.records import LIVE
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.snapshots import RunView, Snapshot
from lmbench.tui.kit.dialog import Answer, QuestionDialog

__all__ = ["confirm_quit", "has_unfinished_runs"]


def has_unfinished_runs(snapshot: Snapshot) -> bool:
    """Is there work that goes on without the workbench? Between one worker's end and the next
    one's beginning only the queue tells."""
    return bool(snapshot.queue) or snapshot.current is not None


def confirm_quit(bench: Bench) -> None:
    """Ask what becomes of the runs at work and in the queue: left running, stopped cleanly, or do
    not quit."""

    async def answered(answer: str | None) -> None:
        session = bench.session
        if answer == "stop" and session is not None:
            if await bench.run_in_thread(_stop_all, session, doing="while stopping the runs"):
                bench.exit()
        elif answer in ("leave", "stop"):
            bench.exit()

    answers = (
        Answer("leave", "l", "leave running"),
        Answer("stop", "s", "stop cleanly"),
        Answer("", "escape", "stay"),
    )
    bench.push_screen(QuestionDialog("Quit", _question(bench.snapshot), answers), answered)


def _question(snapshot: Snapshot) -> str:
    live = [view for view in snapshot.runs if view.live]
    lines = []
    if live:
        lines.append(f"Still at work: {_names(live)}.")
    if snapshot.queue:
        lines.append(f"Waiting in the queue: {_names(snapshot.queue)}.")
    lines.append(
        "Runs do not need the workbench: left running, they go on and are here when you come back."
    )
    if snapshot.queue:
        lines.append("Stopped, those that wait leave the queue; R resumes any of them.")
    return "\n".join(lines)


def _names(views: list[RunView] | tuple[RunView, ...]) -> str:
    return ", ".join(view.title for view in views)


def _stop_all(session: Session) -> bool:
    """In a thread. What waits is taken out of the queue first: the supervisor begins the next run
    as soon as the one at work has ended.

    Raises:
        LmbenchError: a run could not be asked.
    """
    from lmbench.jobs.sweeps import control

    # What a sweep would queue when the run at work has ended is drawn first. One that cannot be
    # read queues nothing.
    if has_sweep(session):
        with suppress(LmbenchError):
            control.stop(session)
    for status in (("queued",), LIVE):
        for run in session.runs():
            if run.status_if_readable() in status:
                _stop(run)
    return True


def _stop(run: Run) -> None:
    from lmbench.jobs import launch

    try:
        launch.request(run, "stop")
    except LmbenchError:
        # It may have ended in this very moment, which is what was wanted.
        if run.status_if_readable() in ("queued", *LIVE):
            raise
