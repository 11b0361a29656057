"""Following a run in the foreground: its progress, Ctrl-C, its end."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.progress import Progress as Bar
from rich.progress import TaskID

from lmbench.cli.common import print_json, stderr
from lmbench.cli.progress import run_progress
from lmbench.errors import ERROR, LmbenchError
from lmbench.jobs import launch
from lmbench.report.tables import run_document
from lmbench.session import Run
from lmbench.session.events import Epoch, Event, Progress, RunStarted, Step, Warned
from lmbench.session.log_lines import whole_lines

__all__ = ["command_line", "work_through"]

BAD_INPUT = 2
INTERRUPTED = 130


def command_line() -> str:
    """The command as the user could type it again."""
    return shlex.join(["lmbench", *sys.argv[1:]])


def work_through(run: Run, *, json: bool, document: bool = True) -> int:
    """Follow `run` to its end and print its document (or, without a terminal, its log).

    `document` False leaves the document to a caller that has several.

    Ctrl-C asks the worker to stop cleanly, a second one kills it.

    Returns:
        The command's exit code: 0 finished, 1 failed, 2 refused its input, 130 interrupted.
    """
    with _on_interrupt(run) as pressed:
        _follow(run, echo=not json)
    record = run.read()
    status = run.status(record)
    if json and document:
        print_json(run_document(run))
    if status in ("failed", "lost"):
        reason = record.reason if status == "failed" else launch.why_lost(run)
        stderr().print(f"lmbench: {run.ref}: {reason}", soft_wrap=True, markup=False)
        return BAD_INPUT if record.exit_code == BAD_INPUT else 1
    return INTERRUPTED if pressed else 0


@contextmanager
def _on_interrupt(run: Run) -> Iterator[list[int]]:
    """While inside, Ctrl-C means the run; gives the list of presses."""
    pressed: list[int] = []

    def on_sigint(signum: int, _frame: FrameType | None) -> None:
        pressed.append(signum)
        if len(pressed) == 1:
            _ask(run, "stop")
            stderr().print(
                "stopping: finishing the step, saving, scoring the test set "
                "(Ctrl-C again stops at once)",
            )
        else:
            _ask(run, "kill")

    before = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _ask(run: Run, action: launch.Action) -> None:
    # A run that has just come to its end needs no asking.
    with suppress(LmbenchError):
        launch.request(run, action)


def _follow(run: Run, *, echo: bool) -> None:
    """Show the run at work: its log on a pipe; on a terminal a bar, and the log between."""
    log = _LogTail(run)
    with run_progress() as bar:
        view = _View(bar, run)
        for look in launch.follow(run):
            view.waits(look.status == "queued", look.status == "paused")
            for event in look.events:
                view.take(event)
            if not echo:
                continue
            for line in log.lines():
                if line.startswith(ERROR) and line == f"{ERROR}{run.read().reason}":
                    # It is said at the end, on stderr.
                    continue
                if not sys.stdout.isatty():
                    print(line, flush=True)
                elif not line.startswith("| epoch "):
                    bar.print(line, markup=False, highlight=False)


class _LogTail:
    """The lines that a run's log gained since this command began."""

    def __init__(self, run: Run) -> None:
        self._path = run.log_path
        self._position = self._path.stat().st_size if self._path.exists() else 0

    def lines(self) -> list[str]:
        found = list(whole_lines(self._path, self._position))
        self._position += sum(len(line) for _, line in found)
        return [line[:-1].decode("utf-8", "replace") for _, line in found]


class _View:
    """One bar that shows where a run is."""

    def __init__(self, bar: Bar, run: Run) -> None:
        self._bar = bar
        self._name = run.path.name
        self._task: TaskID = bar.add_task(self._name, total=None)
        self._valid = ""
        self._epochs = 0
        self._steps: int | None = None

    def waits(self, queued: bool, paused: bool) -> None:
        """Say why nothing moves."""
        if queued or paused:
            state = "waits for the device" if queued else "is paused"
            self._bar.update(self._task, description=f"{self._name} {state}")

    def take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._epochs = event.epochs
                self._steps = event.total_steps or None
                if self._steps:
                    self._bar.update(self._task, total=self._steps)
            case Step():
                self._bar.update(
                    self._task,
                    completed=event.step,
                    total=self._steps,
                    description=(
                        f"{self._name} epoch {event.epoch}/{self._epochs} loss {event.loss:.3f} "
                        f"ppl {event.ppl:.1f}{self._valid} {event.tokens_per_s:,.0f} tok/s"
                    ),
                )
            case Epoch():
                self._valid = f" valid {event.valid_ppl:.1f}"
            case Progress():
                self._bar.update(
                    self._task,
                    completed=event.done,
                    total=event.total,
                    description=f"{self._name} {event.what}",
                )
            case Warned():
                self._bar.print(f"warning: {event.message}", markup=False)
