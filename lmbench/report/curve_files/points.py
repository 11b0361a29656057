"""The curves of runs as points, one number each, and as CSV. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from lmbench.errors import LmbenchError
from lmbench.printable import csv_text, printable
from lmbench.session import Run, read_events
from lmbench.session.events import Epoch, Event, PruneStep, Score, Sparsity, Step

__all__ = ["Point", "as_csv", "points_of"]


@dataclass(frozen=True, slots=True)
class Point:
    """One number of one curve. `step` counts batches over the whole run, `time` is in seconds since
    the epoch; losses are in nats a token, sparsities in [0, 1]."""

    curve: str
    step: int
    epoch: int
    time: float
    value: float


def points_of(run: Run) -> list[Point]:
    """The points of a run's curves in the order of its events.

    Raises:
        LmbenchError: it has none.
    """
    found, step, epoch = [], 0, 0
    for event in read_events(run.events_path):
        step, epoch = getattr(event, "step", step), getattr(event, "epoch", epoch)
        found += [Point(curve, step, epoch, event.t, value) for curve, value in _values(event)]
    if not found:
        raise LmbenchError(f"run {run.ref} has no curves yet: name a run that has begun to train")
    return found


def _values(event: Event) -> Iterator[tuple[str, float]]:
    match event:
        case Step():
            yield "train/loss", event.loss
            yield "train/perplexity", event.ppl
            yield "train/gradient_norm", event.grad_norm
            yield "train/tokens_per_second", event.tokens_per_s
            yield "learning_rate", event.lr
        case Epoch():
            yield "valid/loss", event.valid_loss
            yield "valid/perplexity", event.valid_ppl
        case Sparsity():
            yield "sparsity/total", event.total
            for row in event.tensors:
                if isinstance(row.get("fine"), int | float):
                    yield f"sparsity/{printable(row.get('name'))}", row["fine"] / 100
        case PruneStep() if event.target is not None:
            yield f"sparsity_target/{printable(event.param)}", event.target
        case Score():
            curve = f"{printable(event.split)}/{printable(event.name)}"
            yield f"{curve}loss", event.loss
            yield f"{curve}perplexity", event.ppl


def as_csv(runs: Sequence[Run]) -> str:
    """All points of all runs, a line each: run, name, then the fields of `Point`.

    Raises:
        LmbenchError: a run has none, or its record is damaged.
    """
    rows = [("run", "name", *(field.name for field in fields(Point)))]
    for run in runs:
        name = run.read().name
        rows += [(run.ref, name, *astuple(point)) for point in points_of(run)]
    return csv_text(rows)
