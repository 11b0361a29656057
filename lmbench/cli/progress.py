"""Progress bars on stderr, so that stdout stays what the user asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from lmbench.cli.output import stderr
from lmbench.printable import one_line

__all__ = ["corpus_progress", "run_progress"]

_BAR, _WIDE_BAR, _WIDE = 10, 40, 120
# Spinner, "left" and the time with the blanks between the columns.
_FIXED = 1 + 4 + 8 + 5


class _Figures(ProgressColumn):
    """The task's name and as many of its figures as leave the other columns their width."""

    def __init__(self, console: Console, bar_width: int) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._console = console
        self._bar_width = bar_width

    def render(self, task: Task) -> Text:
        digits = len(str(int(task.total or task.completed)))
        room = max(self._console.width - _FIXED - self._bar_width - 2 * digits - 1, 0)
        text = one_line(task.description)
        for figure in task.fields.get("figures", ()):
            longer = f"{text} {one_line(figure)}"
            if len(longer) > room:
                break
            text = longer
        return Text(text[:room], no_wrap=True)


@contextmanager
def corpus_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """What `open_corpus` and `data_get` report to: (what, bytes done, bytes in all or None)."""
    console = stderr()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(_WIDE_BAR if console.width >= _WIDE else _BAR),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # A pipe would get a blank line of it.
        disable=not console.is_terminal,
    )
    with bar:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


def run_progress(console: Console | None = None) -> Progress:
    """A bar for a run: what it does, how far it is, the time that is left."""
    console = console or stderr()
    bar_width = _WIDE_BAR if console.width >= _WIDE else _BAR
    return Progress(
        SpinnerColumn(),
        _Figures(console, bar_width),
        BarColumn(bar_width),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
