"""Commands that make a run: how they start it, and what they print where they do not follow it."""

from __future__ import annotations

from collections.abc import Callable

from lmbench.cli.foreground import command_line, work_through
from lmbench.cli.output import print_json, print_line
from lmbench.config import Config, Kind
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.prepare import make_run
from lmbench.report.tables import run_document
from lmbench.session import Run

__all__ = ["derive", "resume_run", "start"]


def derive(
    parent: Run, kind: Kind, config: Config, *, name: str | None, detach: bool, json: bool
) -> tuple[Run, int]:
    """Make, start and follow a run of `parent`; gives it and the command's exit code.

    Raises:
        LmbenchError: the parent has no checkpoint to work on, so nothing is made.
    """
    if parent.checkpoint("best") is None and not detach:
        raise LmbenchError(f"run {parent.ref} ({parent.status()}) has no model to start from")

    def make() -> Run:
        return make_run(
            parent.session, kind, config, parent=parent, name=name or kind, command=command_line()
        )

    return start(make, detach=detach, json=json)


def start(
    make: Callable[[], Run], *, detach: bool, json: bool, document: bool = True
) -> tuple[Run, int]:
    """Make a run and follow it, or leave it in the background; gives it and the exit code.

    Args:
        document: False leaves the JSON document to a caller that has several.
    """

    def begin() -> Run:
        run = make()
        launch.start(run, queue=detach)
        return run

    if not detach:
        return work_through(begin, json=json, document=document)
    run = begin()
    if document or not json:
        _print_detached(run, json=json)
    return run, 0


def resume_run(run: Run, *, detach: bool, json: bool) -> tuple[Run, int]:
    """Have a run go on and follow it, or leave it in the background; gives it and the exit code."""

    def begin() -> Run:
        launch.resume(run, queue=detach)
        return run

    if not detach:
        return work_through(begin, json=json)
    begin()
    if json:
        print_json(run_document(run))
    else:
        print_line(f"{run.ref} goes on")
    return run, 0


def _print_detached(run: Run, *, json: bool) -> None:
    if json:
        print_json(run_document(run))
        return
    print_line(
        f"{run.ref} is {run.status()}: `lmbench runs log {run.ref} --follow` or `lmbench tui` "
        "show it"
    )
