"""Commands that make a run out of another run: evaluate, sensitivity, quantize."""

from __future__ import annotations

from lmbench.cli.common import console, print_json
from lmbench.cli.foreground import command_line, work_through
from lmbench.config import Config, Kind
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.prepare import make_run
from lmbench.report.tables import run_document
from lmbench.session import Run

__all__ = ["derive", "print_detached"]


def derive(
    parent: Run, kind: Kind, config: Config, *, name: str | None, detach: bool, json: bool
) -> tuple[Run, int]:
    """Make, start and follow a run of `parent`; gives it and the command's exit code.

    Raises:
        LmbenchError: the parent has no checkpoint to work on, so nothing is made.
    """
    if parent.checkpoint("best") is None and not detach:
        raise LmbenchError(f"run {parent.ref} ({parent.status()}) has no model to start from")
    command = command_line()
    run = make_run(parent.session, kind, config, parent=parent, name=name or kind, command=command)
    launch.start(run, queue=detach)
    if detach:
        print_detached(run, json=json)
        return run, 0
    return run, work_through(run, json=json)


def print_detached(run: Run, *, json: bool) -> None:
    if json:
        print_json(run_document(run))
        return
    console().print(
        f"{run.ref} is {run.status()}: `lmbench runs log {run.ref} --follow` or `lmbench tui` "
        "show it",
        soft_wrap=True,
    )
