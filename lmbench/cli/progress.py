"""Progress bars on stderr, so that stdout stays what the user asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from lmbench.cli.common import stderr

__all__ = ["corpus_progress", "run_progress"]


@contextmanager
def corpus_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """What `open_corpus` and `data_get` report to: (what, bytes done, bytes in all or None)."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )
    with bar:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


def run_progress() -> Progress:
    """A bar for a run: what it does, how far it is, the time that is left."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=stderr(),
        transient=True,
    )
