"""What a worker gives to the code that does the work: the run, its events and its requests.

No torch here.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

from lmbench.config import Config
from lmbench.jobs.wait_while_paused import Request, Requests
from lmbench.printable import finite
from lmbench.session.attempts import check_attempt
from lmbench.session.event_log import EventWriter
from lmbench.session.events import Event, StatusChanged, Warned
from lmbench.session.store import Home, Run, RunRecord, Session

__all__ = ["Halt", "Job", "Request"]


@dataclass(frozen=True)
class Halt:
    """Why a run ends at a rung of its sweep's early stopping, in a line, and whether for good or
    until it is promoted."""

    kind: Literal["waits", "stopped"]
    reason: str


class Job:
    """One attempt at a run, inside its worker process.

    A handler computes, calls `emit` for what it finds out, `add_results` for what the record
    should hold, and `control` between two pieces of work. The worker around it writes the
    statuses and the `Finished` or `Failed` event.

    Attributes:
        run: the run's folder.
        config: its settings, checked.
        resuming: the run goes on from its checkpoint ``last``. The handler then emits
            `RunResumed` with the offset that the checkpoint keeps. A run that is started again
            without a checkpoint begins anew, which the worker has already logged.
        carries_on: the run was started again, has no checkpoint, and goes on from its events up to
            the last that a search found, which say all of it; the worker has logged that too.
        stopped: the handler was given ``stop``.
        halt: why the early stopping of its sweep ends it here; None where that does not.
    """

    def __init__(
        self,
        run: Run,
        record: RunRecord,
        config: Config,
        *,
        resuming: bool,
        carries_on: bool = False,
    ) -> None:
        self.run = run
        self.config = config
        self.resuming = resuming
        self.carries_on = carries_on
        self.stopped = False
        self.halt: Halt | None = None
        self._record = record
        self._writer = EventWriter(run.events_path)
        self._began = time.monotonic()
        self._seconds_before = float(record.results.get("seconds") or 0.0)
        self._seconds_given = False
        self._requests = Requests(run, record.status == "paused", self._show_status)

    @property
    def record(self) -> RunRecord:
        """The record as this process last wrote it."""
        return self._record

    @property
    def session(self) -> Session:
        return self.run.session

    @property
    def home(self) -> Home:
        return self.run.home

    @property
    def events_offset(self) -> int:
        """Bytes in the event log: what a checkpoint keeps for the `RunResumed` of its resume."""
        return self._writer.offset

    def emit(self, event: Event) -> None:
        """Append an event to the run's log; it is on its way to the disk when this returns.

        Raises:
            FencedError: a newer attempt at the run has begun.
        """
        check_attempt(self.run.staging)
        self._writer.write(event)

    def warn(self, message: str) -> None:
        """Note what stops nothing but should be known: an event, and a line in ``log.txt``."""
        self.emit(Warned(message=message))
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def update(self, **changes: Any) -> RunRecord:
        """Change fields of ``run.json`` (see `RunRecord`); gives the new record."""
        self._record = self.run.update(**changes)
        return self._record

    def add_results(self, **results: Any) -> None:
        """Add to ``results`` of ``run.json``. A number that is not finite is stored as null."""
        self._seconds_given = self._seconds_given or "seconds" in results
        self.update(results={**self._record.results, **finite(results)})

    def drop_results(self, beginning: str) -> None:
        """Take out of ``results`` what has a name of that beginning."""
        kept = {k: v for k, v in self._record.results.items() if not k.startswith(beginning)}
        if kept.keys() != self._record.results.keys():
            self.update(results=kept)

    def seconds(self) -> float:
        """Time this run has worked, over all its attempts that ended by themselves, pauses out."""
        given = self._record.results.get("seconds")
        if self._seconds_given and given is not None:
            return float(given)
        return self._seconds_before + time.monotonic() - self._began - self._requests.paused_s

    def stop(self) -> None:
        """Have `control` answer ``stop``, as if the user had asked; safe in a signal handler."""
        self._requests.stop()

    @property
    def stop_requested(self) -> bool:
        """Was `stop` called?"""
        return self._requests.stop_requested

    def control(self) -> Request | None:
        """What is requested of the run; a paused one waits in here (see `Requests.next`).

        Returns:
            ``stop`` (from then on at each call), ``checkpoint`` (once a request), or None.
        """
        request = self._requests.next()
        self.stopped = self.stopped or request == "stop"
        return request

    def close(self) -> None:
        self._writer.close()

    def _show_status(self, status: Literal["paused", "running"]) -> None:
        self._record = self.run.transition(status) or self._record
        self.emit(StatusChanged(status=status))
