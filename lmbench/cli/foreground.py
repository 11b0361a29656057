"""A run in the foreground: its start, its progress, Ctrl-C, its end."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.progress import Progress as Bar
from rich.progress import TaskID

from lmbench.cli.output import complain, note, print_json, write
from lmbench.cli.progress import run_progress
from lmbench.errors import BAD_INPUT, ERROR, INTERRUPTED, LmbenchError
from lmbench.jobs import launch
from lmbench.report.tables import run_document
from lmbench.session import Run
from lmbench.session.events import Epoch, Event, Progress, RunStarted, Step, Warned
from lmbench.session.log_lines import read_log

__all__ = ["command_line", "interrupts_after", "work_through"]


def command_line() -> str:
    """The command as the user could type it again."""
    return shlex.join(["lmbench", *sys.argv[1:]])


def work_through(begin: Callable[[], Run], *, json: bool, document: bool = True) -> tuple[Run, int]:
    """Start a run, follow it to its end and print its document (or, without a terminal, its log).

    Ctrl-C asks the worker to stop cleanly, a second one kills it.

    Args:
        begin: makes the run, has it started at once, and gives it.
        document: False leaves the document to a caller that has several.

    Returns:
        The run and the command's exit code: 0 finished or ended by its sweep, 1 failed or stopped
        by another command, 2 refused its input, 130 interrupted.

    Raises:
        LmbenchError: nobody reads what is printed of it any more; the run goes on.
    """
    with _Interrupts() as interrupts:
        run = begin()
        interrupts.concern(run)
        try:
            _follow(run, echo=not json)
        except BrokenPipeError:
            line = (
                f"{run.ref}: nobody reads its log any more (| head); it goes on in the background"
            )
            raise LmbenchError(f"{line}: lmbench runs list") from None
    record = run.read()
    status = run.status(record)
    if json and document:
        print_json(run_document(run))
    if status in ("failed", "lost"):
        reason = record.reason if status == "failed" else launch.why_lost(run)
        complain(f"{run.ref}: {reason}")
        return run, BAD_INPUT if record.exit_code == BAD_INPUT else 1
    if interrupts.count:
        return run, INTERRUPTED
    if status == "stopped" and not record.stopped_early:
        complain(f"{run.ref} was stopped before its end")
        return run, 1
    return run, 0


@contextmanager
def interrupts_after() -> Iterator[None]:
    """Ctrl-C breaks off nothing in here, and interrupts at the end."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


class _Interrupts:
    """Catches Ctrl-C from before a run's folder is there until the run has ended."""

    def __init__(self) -> None:
        self.count = 0
        self._run: Run | None = None
        self._asking = False

    def __enter__(self) -> _Interrupts:
        self._before = signal.signal(signal.SIGINT, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def concern(self, run: Run) -> None:
        """From now on Ctrl-C means this run, and so does one that came before."""
        self._run = run
        if self.count:
            self._ask(run)

    def _caught(self, _signum: int, _frame: FrameType | None) -> None:
        self.count += 1
        # While the run is being asked, another would wait for its lock, which is held below.
        if self._run is not None and not self._asking:
            self._ask(self._run)

    def _ask(self, run: Run) -> None:
        self._asking, asked = True, 0
        while asked < self.count:
            asked = self.count
            self._stop(run)
        self._asking = False

    def _stop(self, run: Run) -> None:
        if self.count == 1:
            note(
                "stopping: finishing the step, saving, scoring the test set "
                "(Ctrl-C again stops at once)"
            )
        # A run that has just come to its end needs no asking.
        with suppress(LmbenchError):
            launch.request(run, "stop" if self.count == 1 else "kill")


def _follow(run: Run, *, echo: bool) -> None:
    """Show the run at work: its log on a pipe; on a terminal a bar, and the log between."""
    position = run.log_path.stat().st_size if run.log_path.exists() else 0
    with run_progress() as bar:
        view = _View(bar, run)
        for look in launch.follow(run):
            view.waits(look.status == "queued", look.status == "paused")
            for event in look.events:
                view.take(event)
                if isinstance(event, Warned) and not echo:
                    # Else the log shows it.
                    bar.print(f"warning: {event.message}")
            if not echo:
                continue
            log = read_log(run.log_path, position, sys.maxsize)
            # 0 where it cannot be looked at for the moment.
            position = log.position or position
            for line in log.lines:
                if line.startswith(ERROR) and line == f"{ERROR}{run.read().reason}":
                    # It is printed at the end, on stderr.
                    continue
                if not sys.stdout.isatty():
                    write(f"{line}\n")
                elif not line.startswith("| epoch "):
                    bar.print(line)


class _View:
    """One bar that shows where a run is."""

    def __init__(self, bar: Bar, run: Run) -> None:
        self._bar = bar
        self._task: TaskID = bar.add_task(run.path.name, total=None)
        self._valid: tuple[str, ...] = ()
        self._epochs = 0
        self._steps: int | None = None

    def _show(self, *figures: str) -> None:
        """Figures in the order in which a narrow terminal keeps them."""
        self._bar.update(self._task, figures=figures)

    def waits(self, queued: bool, paused: bool) -> None:
        """Show why nothing moves."""
        if queued or paused:
            self._show("waits for the device" if queued else "is paused")

    def take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._epochs = event.epochs
                self._steps = event.total_steps or None
                if self._steps:
                    self._bar.update(self._task, total=self._steps)
            case Step():
                self._bar.update(self._task, completed=event.step, total=self._steps)
                self._show(
                    f"epoch {event.epoch}/{self._epochs}",
                    f"ppl {event.ppl:.1f}",
                    *self._valid,
                    f"loss {event.loss:.3f}",
                    f"{event.tokens_per_s:,.0f} tok/s",
                )
            case Epoch():
                self._valid = (f"valid {event.valid_ppl:.1f}",)
            case Progress():
                self._bar.update(self._task, completed=event.done, total=event.total)
                self._show(event.what)
