"""How the plots are looked at: which one, its axes and its part; kept with the session."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from lmbench.report import numbers
from lmbench.report.plots.layout import Plot, extent
from lmbench.report.plots.series import PLOTS, Colour, Kind, Source, XAxis, gather, moments
from lmbench.tui.bench.run_marks import SERIES_COLOURS, mark_of
from lmbench.tui.bench.snapshots import RunView

__all__ = ["SMOOTHINGS", "X_AXES", "View", "inside", "level_of", "place", "plot_of", "written"]

SMOOTHINGS = (0.0, 0.6, 0.9, 0.98)
X_AXES: tuple[XAxis, ...] = ("step", "epoch", "time")
KINDS: tuple[Kind, ...] = tuple(PLOTS)

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """How the plots are looked at; all of it is remembered."""

    kind: Kind = "perplexity"
    x_axis: XAxis = "step"
    logs: tuple[str, ...] = ("perplexity",)
    smoothing: float = 0.6
    per_tensor: bool = False
    clipped: bool = True
    window: tuple[float, float] | None = None

    @classmethod
    def from_json(cls, document: Any) -> View:
        """What was remembered; anything that does not fit becomes the default."""
        kept: dict[str, Any] = document if isinstance(document, dict) else {}
        plain, logs = cls(), kept.get("logs")
        return cls(
            kind=_one_of(KINDS, kept.get("kind"), plain.kind),
            x_axis=_one_of(X_AXES, kept.get("x_axis"), plain.x_axis),
            logs=_logs_of(logs) if isinstance(logs, list | tuple) else plain.logs,
            smoothing=_one_of(SMOOTHINGS, kept.get("smoothing"), plain.smoothing),
            per_tensor=kept.get("per_tensor") is True,
            clipped=kept.get("clipped") is not False,
            window=_window_of(kept.get("window")),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _one_of(choices: tuple[T, ...], kept: object, plain: T) -> T:
    return next((choice for choice in choices if choice == kept), plain)


def _logs_of(kept: Sequence[Any]) -> tuple[str, ...]:
    return tuple(name for name in kept if isinstance(name, str) and name in PLOTS)


def _window_of(kept: Any) -> tuple[float, float] | None:
    if not isinstance(kept, list | tuple) or len(kept) != 2:
        return None
    if not all(isinstance(edge, int | float) for edge in kept):
        return None
    try:
        left, right = map(float, kept)
    except OverflowError:
        return None
    return (left, right) if left < right else None


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
