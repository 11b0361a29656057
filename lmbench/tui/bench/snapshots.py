"""What the workbench knows of a session: snapshots of its folders (`session_watcher` takes them).

Snapshots are immutable: a widget may keep one, compare fields by identity to see what changed, and
never has to lock anything. Nothing here knows of Textual.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.report.plots.curve_data import Curves
from lmbench.report.tables import PART_SIGN
from lmbench.session import Run, RunRecord, Session, SessionRecord, Status
from lmbench.session import events as ev
from lmbench.session.records import LIVE
from lmbench.tui.bench.run_history import Note, RunProgress

__all__ = [
    "Note",
    "RunProgress",
    "RunView",
    "Snapshot",
    "lineage",
    "neighbour",
    "only_grew",
    "short_module",
]


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
    read: float = 1.0
    """The share of its events that was read; less than 1 for a moment, of a long log."""

    @property
    def id(self) -> int:
        return self.run.id

    @property
    def name(self) -> str:
        return one_line(self.record.name) if self.record else self.key

    @property
    def title(self) -> str:
        """Its number and name."""
        return f"{self.id} {self.name}"

    @property
    def kind(self) -> str:
        return self.record.kind if self.record else self.key.partition("-")[2]

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def never_began(self) -> bool:
        """Was it stopped while it waited in the queue?"""
        return self.status == "stopped" and self.record is not None and not self.record.started

    @property
    def has_model(self) -> bool:
        """Has it written a model? By what was read of it: nothing is looked up in its folder."""
        return self.checkpoint is not None or self.bytes is not None

    @property
    def has_best(self) -> bool:
        """Has it written the model that all which is made of a run begins with: of a training the
        best checkpoint? By what was read of it, too."""
        if self.checkpoint is None:
            return self.has_model
        found = self.epoch is not None and self.epoch.best_epoch > 0
        return found or self.checkpoint.which == "best"

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
        return numbers.size(self.bytes, self.as_packed)

    @property
    def tokens_per_s(self) -> float | None:
        stored = self._result("tokens_per_s")
        return stored if stored is not None else (self.step.tokens_per_s if self.step else None)

    def _result(self, name: str) -> float | None:
        return numbers.as_float(self.record.results.get(name)) if self.record else None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A session at one moment. `runs` stand in the tree's order, parents before children; `unread`
    of its `count` runs are still to be read, in whole or in part."""

    session: Session | None = None
    record: SessionRecord | None = None
    runs: tuple[RunView, ...] = ()
    problem: str = ""
    count: int = 0
    unread: int = 0
    by_key: Mapping[str, RunView] = field(default_factory=lambda: MappingProxyType({}))

    def run(self, key: str) -> RunView | None:
        return self.by_key.get(key)

    @property
    def reading(self) -> bool:
        """May there be runs that were not read yet?"""
        return self.session is None or self.unread > 0

    @property
    def complete(self) -> bool:
        """Are these all runs that there are? Not where some were not read yet, and nobody knows
        where the session cannot be."""
        return not (self.reading or self.problem)

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


def short_module(name: str) -> str:
    """A module's name without what all but two have in common."""
    return one_line(name).removeprefix("rnn.cells.")


def neighbour(keys: Sequence[str], key: str, gone: Container[str]) -> str:
    """Of runs in reading order the first from `key` on that is not gone, else the last before it;
    "" for none."""
    at = keys.index(key) if key in keys else len(keys)
    order = [*keys[at:], *reversed(keys[:at])]
    return next((other for other in order if other not in gone), "")


def lineage(views: list[RunView]) -> list[RunView]:
    """The runs as a tree in reading order: each child under its parent, `depth` set.

    A parent that is not among them (deleted, or of another session) makes a root of its child.
    """
    by_parent: dict[str | None, list[RunView]] = {}
    ids = {view.key: view.id for view in views}
    for view in sorted(views, key=lambda v: v.id, reverse=True):
        # A run cannot stand under a later one, so no circle can arise from a damaged record.
        known = ids.get(view.parent or "", view.id) < view.id
        by_parent.setdefault(view.parent if known else None, []).append(view)
    ordered: list[RunView] = []
    waiting = [(view, 0) for view in by_parent.get(None, [])]
    while waiting:
        view, depth = waiting.pop()
        ordered.append(view if view.depth == depth else dataclasses.replace(view, depth=depth))
        waiting += [(child, depth + 1) for child in by_parent.get(view.key, [])]
    return ordered
