"""What a worker hands to the code that does the work: the run, its events, and the user's wishes.

Wishes reach a live worker through the file ``control`` in the run's folder. Each is one line
(``pause``, ``continue``, ``checkpoint``, ``stop``), appended and never rewritten, so that none is
lost however fast they follow each other. No torch here.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, Literal

from lmbench.config import Config
from lmbench.session.event_log import EventWriter
from lmbench.session.events import Event, Finished, StatusChanged, Warned
from lmbench.session.store import Home, Run, RunRecord, Session

__all__ = ["Job", "Wish"]

Wish = Literal["checkpoint", "stop"]

# How often a paused worker looks for the user's next wish.
_PAUSE_POLL_S = 0.1


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
        carries_on: the run was started again, has no checkpoint, and goes on from its events,
            which say all that it found out; the worker has logged that too.
        stopped: the handler was told to stop.
        paused_s: seconds that this attempt was paused so far.
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
        self.paused_s = 0.0
        self.finished_logged = False
        self._record = record
        self._writer = EventWriter(run.events_path)
        self._began = time.monotonic()
        self._seconds_before = float(record.results.get("seconds") or 0.0)
        self._seconds_given = False
        self._control = str(run.control_path)
        self._heard = 0
        self._stopping = False
        self._pausing = False
        self._checkpoint_wanted = False

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
        """Append an event to the run's log; it is on its way to the disk when this returns."""
        self._writer.write(event)
        self.finished_logged = self.finished_logged or isinstance(event, Finished)

    def warn(self, message: str) -> None:
        """Tell the user something that stops nothing: an event, and a line in ``log.txt``."""
        self.emit(Warned(message=message))
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def update(self, **changes: Any) -> RunRecord:
        """Change fields of ``run.json`` (see `RunRecord`); gives the new record."""
        self._record = self.run.update(**changes)
        return self._record

    def add_results(self, **results: Any) -> None:
        """Add to ``results`` of ``run.json``. A number that is not finite is stored as null."""
        self._seconds_given = self._seconds_given or "seconds" in results
        self.update(results={**self._record.results, **_finite(results)})

    def seconds(self) -> float:
        """Time this run has worked, over all its attempts that ended by themselves, pauses out."""
        given = self._record.results.get("seconds")
        if self._seconds_given and given is not None:
            return float(given)
        return self._seconds_before + time.monotonic() - self._began - self.paused_s

    def stop(self) -> None:
        """Have `control` answer ``stop``, as if the user had asked; safe in a signal handler."""
        self._stopping = True

    def control(self) -> Wish | None:
        """What the user wants now; cheap enough for every batch (one `stat` of a file).

        While the run is paused this does not return: the wait happens here, and the status in
        ``run.json`` and the events follow it. A wish for a checkpoint is handed out even so, and
        the next call goes on waiting.

        Returns:
            ``stop`` (from then on at each call), ``checkpoint`` (once a wish), or None.
        """
        self._hear()
        if self._pausing or self._record.status == "paused":
            self._wait()
        if self._stopping:
            self.stopped = True
            return "stop"
        if self._checkpoint_wanted:
            self._checkpoint_wanted = False
            return "checkpoint"
        return None

    def close(self) -> None:
        self._writer.close()

    def _wait(self) -> None:
        began = time.monotonic()
        if self._waiting and self._record.status != "paused":
            self._show_status("paused")
        while self._waiting and not self._checkpoint_wanted:
            time.sleep(_PAUSE_POLL_S)
            self._hear()
        if not self._waiting and self._record.status == "paused":
            self._show_status("running")
        self.paused_s += time.monotonic() - began

    @property
    def _waiting(self) -> bool:
        return self._pausing and not self._stopping

    def _show_status(self, status: Literal["paused", "running"]) -> None:
        self.update(status=status)
        self.emit(StatusChanged(status=status))

    def _hear(self) -> None:
        """Take in the lines that were added to the control file since the last look."""
        try:
            size = os.stat(self._control).st_size  # noqa: PTH116 (a Path costs more than the call)
        except FileNotFoundError:
            return
        if size == self._heard:
            return
        text = self.run.control_path.read_bytes()
        # Someone who writes it by hand (echo stop > control) starts the file over.
        fresh = text[self._heard if size > self._heard else 0 :]
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._heard = len(text) - len(fresh) + len(whole)
        for line in whole.decode("utf-8", "replace").split("\n"):
            self._heed(line.strip())

    def _heed(self, wish: str) -> None:
        if wish == "stop":
            self._stopping = True
        elif wish == "checkpoint":
            self._checkpoint_wanted = True
        elif wish in ("pause", "continue"):
            self._pausing = wish == "pause"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
