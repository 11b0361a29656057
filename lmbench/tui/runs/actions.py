"""What can be requested of a run, and why not where it is not possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text

from lmbench.errors import LmbenchError
from lmbench.jobs.queue import waiting_for
from lmbench.printable import printable
from lmbench.report.run_command import run_command
from lmbench.session.manage import rename_run, run_name_problem
from lmbench.session.store import Run
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.deletions import named, what_becomes_of_queued
from lmbench.tui.bench.float_model_run import is_training
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.dialog import Answer, QuestionDialog, TextDialog

__all__ = [
    "command_of",
    "delete",
    "is_possible",
    "pause_or_continue",
    "rename",
    "resume",
    "show_reason",
    "stop",
    "undo_delete",
    "why_not",
]

RESUMABLE = frozenset({"stopped", "failed", "lost"})

# What a run does before it stops; those of other kinds leave off where they are.
_STOPPING = {
    "train": "; it finishes its batch and is scored",
    "prune": "; it finishes its batch and is scored",
    "sensitivity": "; what it has measured stays",
}


def is_possible(action: str, view: RunView | None) -> bool:
    """May `action` be requested of this run as it is now?"""
    return not why_not(action, view)


def why_not(action: str, view: RunView | None) -> str:
    """Why `action` cannot be requested of this run; "" where it can."""
    if view is None:
        return "no run is selected"
    who = view.title
    waits = f"{who} waits in the queue: s takes it out"
    match action:
        case "pause" if not view.live:
            return waits if view.status == "queued" else f"{who} is not running"
        case "stop" if not view.live and view.status != "queued":
            return f"{who} is not running: there is nothing to stop"
        case "resume" if view.status not in RESUMABLE:
            if view.status == "queued":
                return waits
            if view.record is None:
                return f"{who} cannot be read"
            return f"{who} has finished" if view.status == "finished" else f"{who} is running"
        case "lab" | "sensitivity":
            return why_no_model(view, who)
        case "delete" if view.live:
            return f"{who} is running: s stops it first"
        case "delete" if view.status == "queued":
            return f"{waits} first"
        case "rename" if view.record is None:
            return f"{who} cannot be read"
        case "why" if not (view.reason or view.problem):
            return f"{who} ended without a problem"
    return ""


def why_no_model(view: RunView, who: str) -> str:
    """Why there is no model to work on; "" where there is one. What measures a model stands for
    the one that it measures, and an integer model for the one that it was made from."""
    if view.kind in ("quantize", "pack") and view.status == "queued":
        return f"{who} has no model yet: it waits in the queue"
    if not is_training(view) or view.has_best:
        return ""
    if view.status == "queued":
        return f"{who} has no model yet: it waits in the queue"
    if view.live:
        return f"{who} has no best checkpoint yet: it comes with an epoch's end"
    if view.epoch is not None:
        return f"{who} has no best checkpoint: no epoch of it ended with a finite loss"
    if view.never_began:
        return f"{who} has no model: it was taken out of the queue"
    return f"{who} has no best checkpoint: it ended before its first epoch did"


async def _succeeded(
    bench: Bench, function: Callable[..., Any], *arguments: Any, doing: str
) -> bool:
    """Have it done in a thread; where it fails, the user has seen why."""

    def whole() -> bool:
        function(*arguments)
        return True

    return await bench.run_in_thread(whole, doing=doing) is True


async def pause_or_continue(bench: Bench, view: RunView) -> None:
    from lmbench.jobs import launch

    action = "continue" if view.status == "paused" else "pause"
    if await _succeeded(bench, launch.request, view.run, action, doing="while asking the run"):
        bench.show_message(f"{view.title}: asked to {action}")


async def stop(bench: Bench, view: RunView) -> None:
    from lmbench.jobs import launch

    def asked() -> str:
        launch.request(view.run, "stop")
        return view.run.status()

    status = await bench.run_in_thread(asked, doing="while asking the run")
    if status is None:
        return
    # The run may have left the queue for a worker since it was looked at.
    waited = view.status == "queued" and status == "stopped"
    what = "taken out of the queue" if waited else f"asked to stop{_STOPPING.get(view.kind, '')}"
    bench.show_message(f"{view.title}: {what}")


def _what_resuming_does(view: RunView) -> tuple[str, str]:
    """A verb, and what stands behind it."""
    if view.run.checkpoint("last") is not None:
        return "resume", " from its last checkpoint"
    begun = view.record is not None and view.record.started is not None
    return "start", " again" if begun else ""


async def resume(bench: Bench, view: RunView) -> None:
    from lmbench.jobs import launch

    verb, how = _what_resuming_does(view)
    if await _succeeded(bench, launch.resume, view.run, doing="while resuming the run"):
        bench.show_message(f"{view.title}: {verb}s{how}")
        await bench.refresh_snapshot()


def rename(bench: Bench, view: RunView) -> None:
    def done(name: str | None) -> None:
        if name and name != view.name:
            bench.start_work(_rename(bench, view, name))

    question = f"A name for run {view.id}:"
    bench.push_screen(TextDialog("Rename", question, view.name, run_name_problem), done)


async def _rename(bench: Bench, view: RunView, name: str) -> None:
    await bench.run_in_thread(lambda: rename_run(view.run, name), doing="while renaming the run")
    await bench.refresh_snapshot()


async def delete(bench: Bench, views: list[RunView], then: str = "") -> None:
    """Ask, then take these runs away until the workbench is left, and select the run `then` (a
    key)."""
    runs = [view.run for view in views]
    needing = await bench.run_in_thread(
        waiting_for, bench.home, runs, doing="while looking at runs"
    )

    def done(answer: str | None) -> None:
        if answer == "delete":
            bench.start_work(_delete(bench, views, then))

    names = ", ".join(view.title for view in views)
    what = f"run {names}" if len(views) == 1 else f"runs {names}"
    question = f"Delete {what}, with checkpoints and history?"
    question += _what_becomes_of_others(bench, views, needing or [])
    answers = (Answer("delete", "y", "delete", danger=True), Answer("", "escape", "keep"))
    bench.push_screen(QuestionDialog("Delete", question, answers), done)


def _what_becomes_of_others(bench: Bench, views: list[RunView], needing: list[Run]) -> str:
    """Which runs were made from these, and which `needing` them wait, as the end of a question."""
    keys = {view.key for view in views}
    others = [v for v in bench.snapshot.runs if v.parent in keys and v.key not in keys]
    it = "it" if len(views) == 1 else "them"
    text = ""
    if made := [str(view.id) for view in others if view.run not in needing]:
        were, stay = ("was", "stays") if len(made) == 1 else ("were", "stay")
        text += f"\n{named(made)}, which {were} made from {it}, {stay}."
    here = views[0].run.session
    waiting = [str(run.id) if run.session == here else run.ref for run in needing]
    return text + what_becomes_of_queued(waiting, it)


async def _delete(bench: Bench, views: list[RunView], then: str) -> None:
    from lmbench.session.manage import set_aside_run

    bench.deleted |= {view.key for view in views}
    if then and bench.selected in {view.key for view in views}:
        # Before the session is read between two of them, and another neighbour taken.
        bench.select(then)
    gone = []
    for view in views:
        deletion = await bench.run_in_thread(set_aside_run, view.run, doing="while deleting a run")
        if deletion is not None:
            bench.deletions.add(f"run {view.title}", deletion)
            gone.append(view)
        else:
            bench.deleted.discard(view.key)
    if gone:
        names = ", ".join(view.title for view in gone)
        back = "U brings it back" if len(gone) == 1 else "U brings back one after another"
        runs = "run" if len(gone) == 1 else "runs"
        bench.show_message(f"deleted {runs} {names}: {back} until you quit")
    await bench.refresh_snapshot()


async def undo_delete(bench: Bench) -> None:
    """Put back the run that was deleted last, and select it."""
    folder = await bench.undo_deletion()
    if folder and bench.session and folder.parent == bench.session.runs_path:
        await bench.refresh_snapshot()
        bench.select(folder.name)


def command_of(view: RunView) -> str:
    """The command line that would do the same as this run."""
    if view.record is None:
        raise LmbenchError(f"{view.problem}")
    command = run_command(view.run, view.record)
    if not command:
        raise LmbenchError(f"{view.key}: its settings are not in order: no command gives them")
    return command


def show_reason(bench: Bench, view: RunView) -> None:
    """Why a run ended as it did, and which key does something about it."""
    text = Text()
    if view.reason:
        text.append(view.reason)
    if view.problem:
        text.append(("\n\n" if text else "") + view.problem)
    if view.failed is not None and view.failed.traceback:
        last = view.failed.traceback.strip().splitlines()[-8:]
        text.append(printable("\n\n" + "\n".join(last)), "dim")
    text.append(f"\n\nIts log: {view.run.log_path}", "dim")
    answers = (Answer("", "escape", "back"),)
    if is_possible("resume", view):
        answers = (Answer("resume", "R", "".join(_what_resuming_does(view))), *answers)

    def done(answer: str | None) -> None:
        if answer == "resume":
            bench.start_work(resume(bench, view))

    status = view.status or "unreadable"
    bench.push_screen(QuestionDialog(f"{view.title}: {status}", text, answers), done)
