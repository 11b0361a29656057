"""How the plots are looked at: which one, its axes and its part; kept with the session."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from lmbench.report import numbers
from lmbench.report.plots.layout import Plot, extent
from lmbench.report.plots.series import PLOTS, Colour, Kind, Source, XAxis, gather, moments
from lmbench.tui.bench.run_marks import SERIES_COLOURS, mark_of
from lmbench.tui.bench.snapshots import RunView

__all__ = ["SMOOTHINGS", "X_AXES", "View", "inside", "level_of", "place", "plot_of", "written"]

SMOOTHINGS = (0.0, 0.6, 0.9, 0.98)
X_AXES: tuple[XAxis, ...] = ("step", "epoch", "time")


@dataclass(frozen=True)
class View:
    """How the plots are looked at; all of it is remembered."""

    kind: Kind = "perplexity"
    x_axis: XAxis = "step"
    logs: tuple[str, ...] = ("perplexity",)
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.6
    per_tensor: bool = False
    clipped: bool = True
    window: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inside(
    window: tuple[float, float] | None, whole: tuple[float, float]
) -> tuple[float, float] | None:
    """The part of `window` that lies in `whole`; None where that is nothing, or all of `whole`."""
    if window is None:
        return None
    left, right = max(window[0], whole[0]), min(window[1], whole[1])
    return (left, right) if left < right and (left, right) != whole else None


def plot_of(
    view: View, runs: Sequence[RunView], colour: Callable[[str], Colour], *, brief: bool
) -> Plot:
    """The plot of these runs, looked at as `view` says; `brief` names them by number alone.

    Of the window only what has points is shown; where nothing has, everything is.
    """
    palette = tuple(colour(f"series-{i}") for i in range(1, SERIES_COLOURS + 1))
    sources = [
        Source(
            f"{run.id}" if brief else run.title,
            mark_of(run.id).marker,
            colour(mark_of(run.id).variable),
            run.curves,
            level_of(run),
            palette,
        )
        for run in runs
    ]
    series = tuple(gather(view.kind, sources, view.x_axis, per_tensor=view.per_tensor))
    return Plot(
        series=series,
        moments=tuple(moments(sources, view.x_axis)),
        x_axis=view.x_axis,
        unit=PLOTS[view.kind].unit,
        log=view.kind in view.logs,
        smoothing=view.smoothing,
        window=inside(view.window, extent(series)),
        clipped=view.clipped and PLOTS[view.kind].unit in ("number", "perplexity"),
    )


def place(x: float, axis: str) -> str:
    """A place on the x axis in words."""
    match axis:
        case "epoch":
            return f"epoch {x:.2f}"
        case "time":
            return numbers.duration(60 * x)
    return f"step {x:,.0f}"


def written(value: float | None, unit: str) -> str:
    """A value of a curve as the legend writes it."""
    if value is None:
        return "–"
    match unit:
        case "share":
            return numbers.percent(value)
        case "percent":
            return f"{value:.0f}%"
        case "bytes":
            return numbers.size(value)
        case "perplexity" if math.isfinite(value):
            return numbers.perplexity(value)
    return numbers.short(value)


def level_of(run: RunView) -> float | None:
    """The validation loss of a run that made a model without training it, where it was scored.

    A sensitivity run has a perplexity, too, but of a sample.
    """
    ppl = run.valid_ppl if run.kind in ("quantize", "pack") else None
    return math.log(ppl) if ppl is not None and ppl > 0 else None
