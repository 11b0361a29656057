"""What the workbench knows of a session: snapshots of its folders, taken off the event loop.

`Watcher.poll` looks at the folders (a few stat calls when nothing has happened) and gives a
`Snapshot` when something has changed. Snapshots are immutable: a widget may keep one, compare
fields by identity to see what changed, and never has to lock anything. Nothing here knows of
Textual, and nothing here writes.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lmbench.errors import LmbenchError
from lmbench.printable import one_line, printable
from lmbench.report import numbers
from lmbench.report.plots.curves import Curves
from lmbench.report.tables import PART_SIGN, size_sign
from lmbench.session import Run, RunRecord, Session, SessionRecord, Status
from lmbench.session import events as ev
from lmbench.session.records import ModelSize
from lmbench.tui.bench.event_reader import EventReader
from lmbench.tui.bench.event_summary import RunSummary, load_summary, save_summary
from lmbench.tui.bench.run_history import Note, RunHistory, RunProgress

__all__ = ["LIVE", "Note", "RunProgress", "RunView", "Snapshot", "Watcher", "lineage", "only_grew"]

LIVE: frozenset[str] = frozenset({"running", "paused"})
# How long a dead worker's supervisor is given to say why, before its run is called lost.
_WITNESS_S = 3.0
# Of a large session, so much is read before what is known is shown, and then twice as much each
# time: drawing holds up the reading.
_FIRST_SLICE_S = 0.25
_PATH_FIRST = re.compile(r"((?:~?/|[A-Za-z]:\\)[^:\n]+): ([^\n]+)")


@dataclass(frozen=True, slots=True, eq=False)
class RunView:
    """One run as a snapshot shows it. `record` is None where ``run.json`` cannot be read, and
    then `problem` says why; `key` is the folder's name, by which all widgets refer to it."""

    run: Run
    key: str
    record: RunRecord | None
    status: Status | None
    parent: str | None = None
    depth: int = 0
    problem: str = ""
    reason: str = ""
    generation: int = 0
    curves: Curves = field(default_factory=Curves)
    started: ev.RunStarted | None = None
    step: ev.Step | None = None
    epoch: ev.Epoch | None = None
    progress: RunProgress | None = None
    sparsity: ev.Sparsity | None = None
    quantized: tuple[ev.QuantResult, ...] = ()
    points: tuple[ev.SensitivityPoint, ...] = ()
    scores: tuple[ev.Score, ...] = ()
    checkpoint: ev.Checkpoint | None = None
    failed: ev.Failed | None = None
    notes: tuple[Note, ...] = ()
    bytes: int | None = None
    as_packed: bool = False
    """Are these bytes those of the file that packing would give?"""
    log: object = None
    """Another one when the worker's log has grown."""

    @property
    def id(self) -> int:
        return self.run.id

    @property
    def name(self) -> str:
        return one_line(self.record.name) if self.record else self.key

    @property
    def kind(self) -> str:
        return self.record.kind if self.record else self.key.partition("-")[2]

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def valid_ppl(self) -> float | None:
        """Best validation perplexity so far, or what the run's results say; None where it is of a
        part of the split, which compares with no other (see `part_ppl`)."""
        if self.part_tokens:
            return None
        stored = self._result("valid_ppl")
        if stored is not None:
            return stored
        losses = self.curves.valid["loss"]
        finite = losses[losses < math.inf]
        return math.exp(min(finite.min(), 700.0)) if len(finite) else None

    @property
    def test_ppl(self) -> float | None:
        """The same of the test split."""
        if self.part_tokens:
            return None
        stored = self._result("test_ppl")
        if stored is not None:
            return stored
        loss = self.curves.test_loss
        return math.exp(min(loss, 700.0)) if loss is not None and math.isfinite(loss) else None

    @property
    def part_tokens(self) -> int | None:
        """How many tokens its perplexities are of, where they are of a part of a split."""
        return self.record.part_tokens if self.record else None

    @property
    def part_ppl(self) -> str:
        """The perplexity of a part of a split, with its mark; "" where there is none."""
        found = [self._result("valid_ppl"), self._result("test_ppl")] if self.part_tokens else []
        return next((numbers.perplexity(ppl) + PART_SIGN for ppl in found if ppl is not None), "")

    @property
    def total_sparsity(self) -> float | None:
        """Share of zero weights in [0, 1], tied weights counted once."""
        if self.sparsity is not None:
            return self.sparsity.total
        nonzero, parameters = self._result("nonzero"), self._result("parameters")
        return 1 - nonzero / parameters if nonzero is not None and parameters else None

    @property
    def size(self) -> str:
        """The model's bytes in words; "≈" before those that it would have packed."""
        if self.bytes is None:
            return ""
        return size_sign(self.as_packed) + numbers.size(self.bytes)

    @property
    def tokens_per_s(self) -> float | None:
        stored = self._result("tokens_per_s")
        return stored if stored is not None else (self.step.tokens_per_s if self.step else None)

    def _result(self, name: str) -> float | None:
        value = self.record.results.get(name) if self.record else None
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A session at one moment. `runs` stand in the tree's order, parents before children;
    `unread` counts those that are still to be read."""

    session: Session | None = None
    record: SessionRecord | None = None
    runs: tuple[RunView, ...] = ()
    problem: str = ""
    unread: int = 0
    by_key: Mapping[str, RunView] = field(default_factory=lambda: MappingProxyType({}))

    def run(self, key: str) -> RunView | None:
        return self.by_key.get(key)

    @property
    def current(self) -> RunView | None:
        """The run that works right now (the oldest, should there be several)."""
        live = [view for view in self.runs if view.live]
        running = [view for view in live if view.status == "running"]
        return min(running or live, key=lambda view: view.id, default=None)

    @property
    def queue(self) -> tuple[RunView, ...]:
        return tuple(sorted((v for v in self.runs if v.status == "queued"), key=lambda v: v.id))


_GROWING = frozenset({"curves", "step", "progress", "sparsity", "notes", "log"})
_STEADY = tuple(f.name for f in dataclasses.fields(RunView) if f.name not in _GROWING)


def only_grew(before: Snapshot, now: Snapshot) -> bool:
    """Have runs only gone on as they went: longer curves, a later step, another line of log?"""
    if (before.session, before.problem) != (now.session, now.problem):
        return False
    if before.record is not now.record or len(before.runs) != len(now.runs):
        return False
    pairs = zip(before.runs, now.runs, strict=True)
    return all(
        old is new or all(getattr(old, name) == getattr(new, name) for name in _STEADY)
        for old, new in pairs
    )


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
        self._last: Snapshot | None = None
        self._record_stamp: object = None
        self._record: SessionRecord | None = None
        self._problem = ""
        self.unread = 0

    def poll(self) -> Snapshot | None:
        """A new snapshot, or None where nothing has changed since the last one. Runs that were
        not known are read until some time is up, the newest first; the next call goes on."""
        changed = self._read_record() or self._last is None
        try:
            runs = self.session.runs()
        except OSError as error:
            self._problem = f"{self.session.runs_path}: {error.strerror}"
            runs, changed = [], True
        keys = {run.path.name for run in runs}
        for gone in [key for key in self._runs if key not in keys]:
            del self._runs[gone]
            changed = True
        for watcher in self._runs.values():
            changed = watcher.poll() or changed
        changed = self._read_new(runs) or changed
        self.unread = len(runs) - len(self._runs)
        if not changed:
            return None
        views = [watcher.view for watcher in self._runs.values()]
        ordered = tuple(lineage(views))
        self._last = Snapshot(
            session=self.session,
            record=self._record,
            runs=ordered,
            problem=self._problem,
            unread=self.unread,
            by_key=MappingProxyType({view.key: view for view in ordered}),
        )
        return self._last

    def _read_new(self, runs: list[Run]) -> bool:
        """Read runs that are not known yet until the slice is over, one at least."""
        new = [run for run in runs if run.path.name not in self._runs]
        if not new:
            return False
        new.sort(key=lambda run: (run.path.name not in self._first, -run.id))
        end = time.monotonic() + self._slice_s
        self._slice_s *= 2
        for run in new:
            watcher = self._runs[run.path.name] = _RunWatcher(run, self._why_lost)
            watcher.poll()
            if time.monotonic() > end:
                break
        return True

    def _read_record(self) -> bool:
        stamp = _stamp(self.session.path / "session.json")
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


def short_module(name: str) -> str:
    """A module's name without what all but two have in common."""
    return one_line(name).removeprefix("rnn.cells.")


def lineage(views: list[RunView]) -> list[RunView]:
    """The runs as a tree in reading order: each child under its parent, `depth` set.

    A parent that is not among them (deleted, or of another session) makes a root of its child.
    """
    by_parent: dict[str | None, list[RunView]] = {}
    keys = {view.key for view in views}
    for view in sorted(views, key=lambda v: v.id):
        # A run cannot stand under a later one, so no circle can arise from a damaged record.
        known = view.parent in keys and view.parent is not None and view.parent < view.key
        by_parent.setdefault(view.parent if known else None, []).append(view)
    ordered: list[RunView] = []

    def walk(parent: str | None, depth: int) -> None:
        for view in by_parent.get(parent, []):
            ordered.append(view if view.depth == depth else dataclasses.replace(view, depth=depth))
            walk(view.key, depth + 1)

    walk(None, 0)
    return ordered


class _RunWatcher:
    """Keeps one run's view up to date."""

    def __init__(self, run: Run, why_lost: Callable[[Run], str]) -> None:
        self.run = run
        self._why_lost = why_lost
        self._reader = EventReader(run.events_path)
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

    def poll(self) -> bool:
        """Look again; was there anything new?"""
        changed = self._read_record()
        changed = self._read_events() or changed
        changed = self._read_status() or changed
        # What has ended writes no more.
        changed = ((changed or self._status in LIVE) and self._see_log()) or changed
        if changed:
            self.view = self._make()
        if self._summary_is_due and self._has_ended:
            self._summary_is_due = False
            save_summary(self.run.events_path, self._summarise(), self._reader.position)
        return changed

    @property
    def _has_ended(self) -> bool:
        return self._record is not None and self._record.status not in ("queued", *LIVE)

    def _summarise(self) -> RunSummary:
        if self._summary is not None:
            return self._summary
        history = self._history
        progress = history.progress(self._status)
        return RunSummary(history.curves.view(), history.facts(), progress, self._reader.unread)

    def _read_record(self) -> bool:
        stamp = _stamp(self.run.path / "run.json")
        if stamp == self._record_stamp:
            return False
        self._record_stamp = stamp
        try:
            self._record, self._problem = self.run.read(), ""
        except LmbenchError as error:
            self._record, self._problem = None, error.message
        self._size = self._model_size()
        return True

    def _read_events(self) -> bool:
        if not self._reader.changed():
            return False
        if self._reader.position == 0 and self._has_ended:
            self._summary = load_summary(self.run.events_path)
            if self._summary is not None:
                self._reader.skip()
                return True
        self._summary, self._summary_is_due = None, True
        for event in self._reader.read():
            if self._reader.generation != self._history.generation:
                self._history = RunHistory(self._reader.generation)
            self._history.add(event)
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
        stamp = _stamp(self.run.log_path)
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
        if not problem and summary.unread:
            lines = "line" if summary.unread == 1 else "lines"
            problem = (
                f"{self._reader.path}: {summary.unread} {lines} passed over (damaged, or "
                "written by a newer lmbench)"
            )
        reason = self._reason or (record.reason if record else "")
        if not reason and summary.facts["failed"] is not None:
            reason = summary.facts["failed"].reason
        return RunView(
            run=self.run,
            key=self.run.path.name,
            record=record,
            status=self._status,
            parent=_local(record.parent, self.run) if record and record.parent else None,
            problem=_cause_first(printable(problem)),
            reason=_cause_first(printable(reason)),
            generation=self._reader.generation,
            curves=summary.curves,
            progress=summary.progress,
            bytes=self._size.bytes,
            as_packed=self._size.as_packed,
            log=self._log,
            **summary.facts,
        )


def _cause_first(text: str) -> str:
    """A reason that begins with a file's path, with the path at its end: lines are cut there."""
    match = _PATH_FIRST.match(text)
    return f"{match[2]} ({match[1]}){text[match.end() :]}" if match else text


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells whether a file was replaced or written to; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _local(ref: str, run: Run) -> str | None:
    """The folder name of the parent that `ref` names, where it is of the same session."""
    session, _, folder = ref.rpartition("/")
    return folder if session in ("", run.session.name) else None
