"""Which curves a plot shows: chosen from runs' `Curves` by the kind of plot.

A `Series` still holds every point; `layout` thins and scales it for the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lmbench.report.plots.curve_data import Columns, Curves

__all__ = [
    "MARKERS",
    "PLOTS",
    "TEST",
    "Colour",
    "Kind",
    "Moment",
    "PlotKind",
    "Series",
    "Source",
    "XAxis",
    "count_pruned",
    "gather",
    "moments",
]

FloatArray = npt.NDArray[np.float64]
XAxis = Literal["step", "epoch", "time"]
Kind = Literal["perplexity", "loss", "sparsity", "lr", "gradient", "speed", "memory", "load"]
Colour = tuple[int, int, int] | int | None
"""RGB, one of the terminal's 256 colours, or the terminal's own foreground."""

MARKERS = "●◆▲■▼✚○◇△"
"""Signs one cell wide that tell series apart on a monochrome terminal."""

TEST = "✶"
"""The sign of a test score, which holds for all x."""

# e^700 is about the largest float64; a loss beyond it is as infinite as one can tell.
_LOSS_LIMIT = 700.0


@dataclass(frozen=True)
class PlotKind:
    """A plot the workbench offers. `unit` says how its values are written (see `plots.label`)."""

    title: str
    unit: Literal["number", "perplexity", "percent", "bytes", "share"]


PLOTS: dict[Kind, PlotKind] = {
    "perplexity": PlotKind("Perplexity", "perplexity"),
    "loss": PlotKind("Loss", "number"),
    "sparsity": PlotKind("Sparsity", "share"),
    "lr": PlotKind("LR", "number"),
    "gradient": PlotKind("Grad", "number"),
    "speed": PlotKind("Speed", "number"),
    "memory": PlotKind("Memory", "bytes"),
    "load": PlotKind("Load", "percent"),
}


@dataclass(frozen=True, eq=False)
class Source:
    """A run as a plot sees it: its label ("2 agp-80"), look, and curves.

    `level` is the validation loss of a run that has one and no curve: a line across the others.
    """

    label: str
    marker: str
    colour: Colour
    curves: Curves
    level: float | None = None
    palette: Sequence[Colour] = ()
    """Colours of its tensors, where each has a curve of its own."""


@dataclass(frozen=True, eq=False)
class Series:
    """One curve. `x` rises; `style` is ``line`` (a sign here and there), ``points`` (joined, a sign
    at each) or ``thin`` (faint, without a sign); `transform` turns what is smoothed into what is
    shown."""

    label: str
    x: FloatArray
    y: FloatArray
    marker: str = ""
    colour: Colour = None
    style: Literal["line", "points", "thin"] = "line"
    smoothed: bool = False
    transform: Callable[[FloatArray], FloatArray] | None = None

    @property
    def sign(self) -> str:
        """What stands for it in a legend of text: ● for points, ─● for a line, ┄ for a thin one."""
        if self.style == "thin":
            return "┄"
        return self.marker or "─" if self.style == "points" else f"─{self.marker}"


@dataclass(frozen=True)
class Moment:
    """Something that happened at `x`, to be marked at the plot's upper edge."""

    x: float
    sign: str
    colour: Colour


def perplexity_of(loss: FloatArray) -> FloatArray:
    """exp(loss), with infinity where it is too large to write."""
    return np.where(loss < _LOSS_LIMIT, np.exp(np.minimum(loss, _LOSS_LIMIT)), np.inf)


def count_pruned(curves: Iterable[Curves]) -> int:
    """How many of the runs prune: a dense training, too, notes its sparsity at each epoch."""
    return sum(len(each.prunes) > 0 for each in curves)


def gather(
    kind: Kind, sources: Iterable[Source], x: XAxis, *, per_tensor: bool = False
) -> list[Series]:
    """The series of one plot, for all runs that have any of it.

    Args:
        per_tensor: of the run that prunes, if it is but one, the sparsity of each tensor instead
            of the total.
    """
    runs = list(sources)
    found: list[Series] = []
    pruned = count_pruned(source.curves for source in runs)
    trained = sum(len(source.curves.steps) > 0 for source in runs)
    for source in runs:
        match kind:
            case "perplexity" | "loss":
                found += _losses(source, x, kind == "perplexity", alone=trained < 2)
            case "sparsity":
                each = per_tensor and pruned == 1 and len(source.curves.prunes) > 0
                found += _sparsities(source, x, each, alone=pruned < 2)
            case _:
                column, smoothed = _COLUMNS[kind]
                found += _column(source, x, column, smoothed)
    found = [series for series in found if len(series.x)]
    if kind in ("perplexity", "loss"):
        found += _levels(runs, found, kind == "perplexity")
    return found


_SMALL = dict(zip(MARKERS, "•♦▴▪▾+◦⋄▵", strict=True))

_COLUMNS: dict[str, tuple[str, bool]] = {
    "lr": ("lr", False),
    "gradient": ("grad_norm", True),
    "speed": ("tokens_per_s", True),
    "memory": ("memory", False),
    "load": ("utilisation", True),
}


def _column(source: Source, x: XAxis, column: str, smoothed: bool) -> Iterator[Series]:
    steps = source.curves.steps
    yield Series(
        source.label, _x(steps, x), steps[column], source.marker, source.colour, smoothed=smoothed
    )


def _losses(source: Source, x: XAxis, as_perplexity: bool, *, alone: bool) -> Iterator[Series]:
    curves = source.curves
    turn = perplexity_of if as_perplexity else None
    looks = (source.marker, source.colour)
    steps, valid = curves.steps, curves.valid
    # A single line needs no sign; two are told apart without colour only by theirs, and from the
    # points of validation by their size.
    marker = "" if alone else _SMALL.get(source.marker, source.marker)
    label = f"{source.label} train"
    yield Series(label, _x(steps, x), steps["loss"], marker, source.colour, "line", True, turn)
    yield Series(
        f"{source.label} valid", _x(valid, x), valid["loss"], *looks, "points", False, turn
    )
    end = valid if len(valid) else steps
    if curves.test_loss is not None and len(end):
        at = _x(end, x)[-1:]
        loss = np.array([curves.test_loss])
        yield Series(f"{source.label} test", at, loss, TEST, source.colour, "points", False, turn)


def _levels(
    sources: Sequence[Source], curves: Sequence[Series], as_perplexity: bool
) -> Iterator[Series]:
    """From the first to the last point of the curves; nothing where there are none."""
    if not curves:
        return
    ends = np.array([min(s.x[0] for s in curves), max(s.x[-1] for s in curves)])
    turn = perplexity_of if as_perplexity else None
    for source in sources:
        if source.level is not None:
            loss, looks = np.full(2, source.level), (source.marker, source.colour)
            yield Series(f"{source.label} valid", ends, loss, *looks, "points", False, turn)


def _sparsities(source: Source, x: XAxis, per_tensor: bool, *, alone: bool) -> Iterator[Series]:
    reached, targets = source.curves.sparsity, source.curves.targets
    total = reached.get("total")
    if not per_tensor:
        if total is not None:
            yield Series(
                f"{source.label} total", _x(total, x), total["value"], source.marker, source.colour
            )
        whose = "" if alone else f"{source.label} "
        for name, target in targets.items():
            yield Series(f"{whose}{name} target", _x(target, x), target["value"], "", None, "thin")
        return
    for turn, name in enumerate(name for name in reached if name != "total"):
        columns, palette = reached[name], source.palette or (source.colour,)
        marker, colour = MARKERS[turn % len(MARKERS)], palette[turn % len(palette)]
        yield Series(name, _x(columns, x), columns["value"], marker, colour)
        if name in targets:
            target = targets[name]
            yield Series(f"{name} target", _x(target, x), target["value"], "", None, "thin")


def moments(sources: Sequence[Source], x: XAxis) -> list[Moment]:
    """Pruning steps and drops of the learning rate of all runs."""
    found = []
    for source in sources:
        for columns, sign in ((source.curves.prunes, "▼"), (source.curves.lr_drops, "↘")):
            found += [Moment(float(at), sign, source.colour) for at in _x(columns, x)]
    return found


def _x(columns: Columns, axis: XAxis) -> FloatArray:
    values = columns[axis]
    # A clock that was set back must not fold the curve over itself.
    return np.maximum.accumulate(values) if axis == "time" and len(values) else values
