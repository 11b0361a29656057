"""Reading a session's folder for the workbench, off the event loop.

`Watcher.poll` looks at the folders (a few stat calls when nothing has happened) and gives a
`Snapshot` when something has changed. Nothing here knows of Textual, and nothing here writes but
summaries of runs that have ended.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from types import MappingProxyType

from lmbench.errors import LmbenchError
from lmbench.printable import printable
from lmbench.session import Run, RunRecord, Session, SessionRecord, Status
from lmbench.session import events as ev
from lmbench.session.event_log import EventReader
from lmbench.session.files import file_stamp
from lmbench.session.records import LIVE, ModelSize
from lmbench.tui.bench.event_summary import RunSummary, load_summary, save_summary
from lmbench.tui.bench.run_history import RunHistory
from lmbench.tui.bench.snapshots import RunView, Snapshot, lineage

__all__ = ["Watcher"]

# A pause between slices of a log lets the screen's thread have the interpreter at once.
_PAUSE_S = 0.0005
# How long a dead worker's supervisor is given to say why, before its run is called lost.
_WITNESS_S = 3.0
# Of a large session, so much is read before what is known is shown, and then twice as much each
# time up to the most: drawing holds up the reading, and leaving waits for a slice.
_FIRST_SLICE_S = 0.25
_LONGEST_SLICE_S = 1.0
# Of more runs than `_FEW`, those that have ended are looked at in turns, every fourth each time.
_FEW = 40
_TURNS = 4
_PATH_FIRST = re.compile(r"((?:~?/|[A-Za-z]:\\)[^:\n]+): ([^\n]+)")


class Watcher:
    """Looks after one session's folder."""

    def __init__(
        self,
        session: Session,
        *,
        why_lost: Callable[[Run], str] = lambda run: "",
        first: Sequence[str] = (),
    ) -> None:
        """`first` are the keys of runs to be read before all others."""
        self.session = session
        self._why_lost = why_lost
        self._first = frozenset(first)
        self._slice_s = _FIRST_SLICE_S
        self._runs: dict[str, _RunWatcher] = {}
        self._names = frozenset[str]()
        self._listed: list[Run] = []
        self._turn = 0
        self._last: Snapshot | None = None
        self._record_stamp: object = None
        self._record: SessionRecord | None = None
        self._problem = self._list_problem = ""
        self.unread = 0

    def poll(self, *, in_turns: bool = False) -> Snapshot | None:
        """A new snapshot, or None where nothing has changed since the last one. Runs that were
        not known are read until some time is up, the newest first, and then long logs; the next
        call goes on. `in_turns`, where it is called again and again, what is new of many runs
        that have ended may be seen a few calls later."""
        changed = self._read_record() or self._last is None
        before, self._list_problem = self._list_problem, ""
        try:
            runs = self._list()
        except OSError as error:
            self._list_problem = f"{error.strerror} ({self.session.runs_path})"
            runs = []
        changed = changed or self._list_problem != before
        keys = {run.path.name for run in runs}
        for gone in [key for key in self._runs if key not in keys]:
            del self._runs[gone]
            changed = True
        deadline = time.monotonic() + self._slice_s
        known = list(self._runs.values())
        self._turn += 1
        some = in_turns and len(known) > _FEW
        for number, watcher in enumerate(known):
            rests = some and watcher.has_ended and (number + self._turn) % _TURNS
            if not (rests or watcher.unfinished):
                changed = watcher.poll(deadline) or changed
        changed = self._read_new(runs, deadline) or changed
        for watcher in known:
            if watcher.unfinished:
                changed = watcher.poll(deadline) or changed
        unfinished = sum(watcher.unfinished for watcher in self._runs.values())
        self.unread = len(runs) - len(self._runs) + unfinished
        if self.unread:
            self._slice_s = min(2 * self._slice_s, _LONGEST_SLICE_S)
        if not changed:
            return None
        views = [watcher.view for watcher in self._runs.values()]
        ordered = tuple(lineage(views))
        for view in ordered:
            # With its depth: as long as nothing changes it is the same.
            self._runs[view.key].view = view
        self._last = Snapshot(
            session=self.session,
            record=self._record,
            runs=ordered,
            problem=self._problem or self._list_problem,
            count=len(runs),
            unread=self.unread,
            by_key=MappingProxyType({view.key: view for view in ordered}),
        )
        return self._last

    def _list(self) -> list[Run]:
        """The session's runs; the same list again while no folder came or went, and each that
        looks like a run's has its record."""
        try:
            names = frozenset(os.listdir(self.session.runs_path))  # noqa: PTH208
        except FileNotFoundError:
            names = frozenset[str]()
        whole = len(self._listed) == len(names) and not any(w.lost for w in self._runs.values())
        if names != self._names or not whole:
            self._names, self._listed = names, self.session.runs()
        return self._listed

    def _read_new(self, runs: list[Run], deadline: float) -> bool:
        """Read runs that are not known yet until `deadline`, one at least."""
        new = [run for run in runs if run.path.name not in self._runs]
        if not new:
            return False
        new.sort(key=lambda run: (run.path.name not in self._first, -run.id))
        for run in new:
            watcher = self._runs[run.path.name] = _RunWatcher(run, self._why_lost)
            watcher.poll(deadline)
            if time.monotonic() > deadline:
                break
        return True

    def _read_record(self) -> bool:
        stamp = file_stamp(self.session.path / "session.json")
        if stamp == self._record_stamp and self._record_stamp is not None:
            return False
        first_look_at_nothing = stamp is None and self._problem
        self._record_stamp = stamp
        if first_look_at_nothing:
            return False
        try:
            self._record, self._problem = self.session.read(), ""
        except LmbenchError as error:
            self._record, self._problem = None, error.message
        return True


class _RunWatcher:
    """Keeps one run's view up to date."""

    def __init__(self, run: Run, why_lost: Callable[[Run], str]) -> None:
        self.run = run
        self._why_lost = why_lost
        self._reader = EventReader(run.events_path, pause_s=_PAUSE_S)
        # The most bytes that its log had since the run has ended.
        self._most = 0
        # As text: with hundreds of runs making paths takes half the time of a poll.
        self._record_path, self._log_path = str(run.path / "run.json"), str(run.log_path)
        self._history = RunHistory(0)
        # In place of the history, where the log was not read.
        self._summary: RunSummary | None = None
        self._summary_is_due = False
        self._record_stamp: object = None
        self._record: RunRecord | None = None
        self._problem = ""
        self._status: Status | None = None
        self._missed_since: float | None = None
        self._reason = ""
        self._size = ModelSize(None, False)
        self._log: object = None
        self.view = self._make()

    @property
    def unfinished(self) -> bool:
        """Is there more of its log than there was time for?"""
        return self._reader.unfinished

    @property
    def lost(self) -> bool:
        """Had it no record, when it was last looked for?"""
        return self._record_stamp is None

    def poll(self, deadline: float) -> bool:
        """Look again; was there anything new?"""
        changed = self._read_record()
        changed = self._read_events(deadline) or changed
        changed = self._read_status() or changed
        # What has ended writes no more.
        changed = ((changed or self._status in LIVE) and self._see_log()) or changed
        if changed:
            self.view = self._make()
        if self._summary_is_due and self.has_ended and not self.unfinished:
            self._summary_is_due = False
            save_summary(self.run.events_path, self._summarise(), self._reader.position)
        return changed

    @property
    def has_ended(self) -> bool:
        """Does its record say so?"""
        return self._record is not None and self._record.status not in ("queued", *LIVE)

    def _summarise(self) -> RunSummary:
        if self._summary is not None:
            return self._summary
        history = self._history
        progress = history.progress(self._status)
        return RunSummary(history.curves.view(), history.facts(), progress, self._reader.unread)

    def _read_record(self) -> bool:
        stamp = file_stamp(self._record_path)
        if stamp == self._record_stamp:
            return False
        self._record_stamp = stamp
        try:
            self._record, self._problem = self.run.read(), ""
        except LmbenchError as error:
            self._record, self._problem = None, error.message
        self._size = self._model_size()
        return True

    def _read_events(self, deadline: float) -> bool:
        if not self._reader.changed():
            return False
        changed = self._read_changed(deadline)
        self._most = max(self._most, self._reader.size) if self.has_ended else 0
        return changed

    def _read_changed(self, deadline: float) -> bool:
        if self._reader.position == 0 and self.has_ended:
            self._summary = load_summary(self.run.events_path)
            if self._summary is not None:
                self._reader.skip()
                return True
        self._summary, self._summary_is_due = None, True
        for event in self._reader.read(deadline):
            if self._reader.generation != self._history.generation:
                self._history = RunHistory(self._reader.generation)
            try:
                self._history.add(event)
            except OverflowError:
                # No lmbench wrote such a number.
                self._reader.unread += 1
            if isinstance(event, ev.Checkpoint | ev.Finished):
                self._size = self._model_size()
        if self._reader.generation != self._history.generation:
            self._history = RunHistory(self._reader.generation)
        return True

    def _read_status(self) -> bool:
        status = self.run.status(self._record) if self._record else None
        if status == "lost" and self._record is not None and self._record.status != "lost":
            # Its supervisor is about to write down what it saw; until then nothing is known.
            self._missed_since = self._missed_since or time.monotonic()
            if time.monotonic() - self._missed_since < _WITNESS_S:
                return False
        else:
            self._missed_since = None
        if status == self._status:
            return False
        self._status = status
        self._reason = self._why_lost(self.run) if status == "lost" else ""
        return True

    def _see_log(self) -> bool:
        stamp = file_stamp(self._log_path)
        if stamp == self._log:
            return False
        self._log = stamp
        return True

    def _model_size(self) -> ModelSize:
        if self._record is not None and self._record.size.bytes is not None:
            return self._record.size
        try:
            return ModelSize(self.run.model_bytes(), False)
        except OSError:
            return ModelSize(None, False)

    def _make(self) -> RunView:
        record, summary = self._record, self._summarise()
        problem = self._problem
        if not problem and self._reader.size < self._most:
            what = "not whole any more: the file was cut off" if self._reader.size else "gone"
            problem = f"its events are {what} ({self._reader.path})"
        if not problem and summary.unread:
            lines = "line" if summary.unread == 1 else "lines"
            problem = (
                f"{summary.unread} {lines} passed over, damaged or written by a newer lmbench "
                f"({self._reader.path})"
            )
        reason = self._reason or (record.reason if record else "")
        waits_or_works = self._status in ("queued", *LIVE)
        if not reason and not waits_or_works and summary.facts["failed"] is not None:
            reason = summary.facts["failed"].reason
        return RunView(
            run=self.run,
            key=self.run.path.name,
            record=record,
            status=self._status,
            parent=_local(record.parent, self.run) if record and record.parent else None,
            problem=printable(problem),
            reason=_cause_first(printable(reason)),
            generation=self._reader.generation,
            curves=summary.curves,
            progress=summary.progress,
            bytes=self._size.bytes,
            as_packed=self._size.as_packed,
            log=self._log,
            read=self._reader.share_read,
            **summary.facts,
        )


def _cause_first(text: str) -> str:
    """A reason that begins with a file's path, with the path at its end: lines are cut there."""
    match = _PATH_FIRST.match(text)
    return f"{match[2]} ({match[1]}){text[match.end() :]}" if match else text


def _local(ref: str, run: Run) -> str | None:
    """The folder name of the parent that `ref` names, where it is of the same session."""
    session, _, folder = ref.rpartition("/")
    return folder if session in ("", run.session.name) else None
