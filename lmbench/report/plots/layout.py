"""From series to what a plot of a given size shows: smoothing, thinning and limits.

Everything here is arithmetic on numpy arrays; `lmbench.report.plots.draw_in_terminal` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from rich.text import Text

from lmbench.report.plots import ticks
from lmbench.report.plots.braille import ACROSS
from lmbench.report.plots.series import Moment, Series

__all__ = [
    "Picture",
    "Plot",
    "Trace",
    "extent",
    "lay_out",
    "marked",
    "moment_rows",
    "smooth",
    "sparkline",
    "thin",
    "value_at",
]

FloatArray = npt.NDArray[np.float64]

_SPARKS = "▁▂▃▄▅▆▇█"
# Left and right of the data, and above and below, in shares of the range.
_MARGIN = 0.04
# Of a cell, in columns of dots: a point half a dot further right is in the next one.
_INSIDE = ACROSS - 0.5 - 1e-9
# Above and below a value that stays the same, in decades.
_FLAT_LOG = 0.15
# A value beyond this is as good as infinite, and arithmetic on limits would overflow.
_HUGE = 1e100
_NEGLIGIBLE = 1e-17
# A clipped axis shows this share of all lines at least, and this of each, and leaves the rest out
# where that takes so much of the range.
_BULK = 0.95
_BULK_OF_EACH = 0.8
_WORTH_CLIPPING = 0.3
# Columns of cells between two signs of one line.
_SIGN_EVERY = 16


@dataclass(frozen=True, eq=False)
class Plot:
    """What to show: the series and moments, and how to look at them.

    `window` is the part of the x axis that is shown, None for all of it. `smoothing` in [0, 1) is
    how much of the past each smoothed value keeps. `unit` as in `series.PlotKind`.
    """

    series: tuple[Series, ...]
    moments: tuple[Moment, ...] = ()
    x_axis: str = "step"
    unit: str = "number"
    log: bool = False
    smoothing: float = 0.0
    window: tuple[float, float] | None = None
    clipped: bool = False
    """Does the y axis leave out few values far above all others, as those of the first batches?"""


@dataclass(frozen=True, eq=False)
class Trace:
    """A series thinned to a raster of columns: `columns` (ints) and `y` in the plot's own scale.

    `y` is log10 of the values on a log axis. `bad` are the columns of values that are not finite
    (or not positive on a log axis): they are marked, never drawn.
    """

    series: Series
    columns: npt.NDArray[np.int64]
    y: FloatArray
    bad: npt.NDArray[np.int64]
    above: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Columns of values above the y axis: they are marked at its end."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A plot at a size: its traces, limits in the plot's own scale, ticks with their labels, and
    its canvas of `columns` by `rows` cells, `left` of which the labels of y stand.

    `lines` is the picture itself where it was drawn for a terminal.
    """

    traces: tuple[Trace, ...] = ()
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    x_ticks: tuple[tuple[float, str], ...] = ()
    y_ticks: tuple[tuple[float, str], ...] = ()
    left: int = 0
    columns: int = 0
    rows: int = 0
    lines: list[Text] = field(default_factory=list)

    @property
    def clipped(self) -> bool:
        """Are there values above the y axis?"""
        return any(len(trace.above) for trace in self.traces)

    def x_at(self, column: int) -> float:
        """The x at the right of a column of a terminal's cells: that of the newest point in it is
        no greater, and that of the oldest in the next is not reached."""
        low, high = self.x
        share = (column * ACROSS + _INSIDE) / (self.columns * ACROSS - 1)
        return low + (high - low) * share if share < 1 else high

    def column_of(self, x: float) -> int:
        """The column of cells in which a point at `x` is drawn."""
        low, high = self.x
        return round((x - low) / (high - low) * (self.columns * ACROSS - 1)) // ACROSS


def smooth(values: FloatArray, keep: float) -> FloatArray:
    """Exponential moving average, freed of its bias towards the start (as Adam frees its own).

    ``s_i = Σ_j keep^j x_{i-j} / Σ_j keep^j``; shape (n,) → (n,). Non-finite values must have been
    dropped. The sum is built by doubling: after k rounds each element holds 2^k terms.
    """
    if not 0 < keep < 1 or len(values) < 2:
        return values
    total = values.astype(np.float64, copy=True)
    shift, weight = 1, keep
    while shift < len(total) and weight > _NEGLIGIBLE:
        total[shift:] += weight * total[:-shift]
        shift, weight = 2 * shift, weight * weight
    total *= 1 - keep
    # Beyond these terms the weights sum to one, as near as a float can tell.
    young = min(len(total), math.ceil(math.log(_NEGLIGIBLE) / math.log(keep)))
    total[:young] /= -np.expm1(np.arange(1, young + 1) * math.log(keep))
    return total


def thin(
    x: FloatArray, y: FloatArray, window: tuple[float, float], columns: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The least and the greatest value in each of `columns` columns: what a line through all
    points would cover.

    Args:
        x, y: shape (n,), finite, x not falling.
        window: x of the first and of the last column's middle.

    Returns:
        column numbers (not falling, at most two of each) and values.
    """
    left, right = window
    first, last = np.searchsorted(x, left, "left"), np.searchsorted(x, right, "right")
    inside_x, inside_y = x[first:last], y[first:last]
    # The line comes in from a point left of the window and goes on to one right of it.
    if 0 < first < len(x):
        inside_x = np.concatenate(([left], inside_x))
        inside_y = np.concatenate(
            ([np.interp(left, x[first - 1 : first + 1], y[first - 1 : first + 1])], inside_y)
        )
    if 0 < last < len(x):
        inside_x = np.concatenate((inside_x, [right]))
        inside_y = np.concatenate(
            (inside_y, [np.interp(right, x[last - 1 : last + 1], y[last - 1 : last + 1])])
        )
    if not len(inside_x):
        return np.empty(0, np.int64), np.empty(0)
    edges = left + (np.arange(columns + 1) - 0.5) * ((right - left) / max(columns - 1, 1))
    bounds = np.searchsorted(inside_x, edges)
    bounds[0], bounds[-1] = 0, len(inside_x)
    filled = np.flatnonzero(np.diff(bounds))
    starts = bounds[filled]
    low = np.minimum.reduceat(inside_y, starts)
    high = np.maximum.reduceat(inside_y, starts)
    # Of the two, the one that is nearer to where the line comes from stands first.
    came_from = np.concatenate((inside_y[:1], (low[:-1] + high[:-1]) / 2))
    rising = np.abs(came_from - low) <= np.abs(came_from - high)
    pairs = np.where(rising, (low, high), (high, low)).T
    doubled = np.repeat(filled, 2)
    single = np.repeat(low == high, 2)
    single[::2] = False
    return doubled[~single], pairs.ravel()[~single]


def extent(series: Sequence[Series]) -> tuple[float, float]:
    """From the least to the greatest x of all series; never empty."""
    ends = [(s.x[0], s.x[-1]) for s in series if len(s.x)]
    if not ends:
        return 0.0, 1.0
    left, right = min(a for a, _ in ends), max(b for _, b in ends)
    return (float(left), float(right)) if right > left else (float(left) - 0.5, float(left) + 0.5)


def lay_out(
    plot: Plot, width: int, rows: int, raster: int = 1, *, labelled: bool = False
) -> Picture:
    """`plot` on a canvas of `width` by `rows` character cells; with `labelled` the labels of the y
    axis take their share of the width.

    `raster` is how many columns of dots a cell has; traces count those.
    """
    window = plot.window or extent(plot.series)
    curves = [_finite(series, plot.smoothing) for series in plot.series]

    def thinned(columns: int) -> tuple[Trace, ...]:
        return tuple(_trace(curve, plot, window, columns) for curve in curves)

    # Limits, and so the labels, are the same at any number of columns.
    traces = thinned(width if labelled else width * raster)
    y = _y_limits(traces, plot)
    if plot.clipped:
        y = _without_outliers(traces, y, plot)
    top = y[1]
    if plot.moments:
        head = min(len({moment.colour for moment in plot.moments}), moment_rows(rows))
        y = (y[0], y[1] + (y[1] - y[0]) * head / max(rows - head, head))
    y_ticks = tuple(ticks.y_ticks(y, rows, unit=plot.unit, log=plot.log))
    left, columns = 0, width
    if labelled:
        left = max((len(text) for _, text in y_ticks), default=0) + 1
        columns = max(width - left, 1)
        traces = thinned(columns * raster)
    if plot.clipped:
        traces = tuple(_up_to(trace, top) for trace in traces)
    x_ticks = tuple(ticks.x_ticks(window, plot.x_axis, max(2, columns // 10)))
    return Picture(traces, window, y, x_ticks, y_ticks, left, columns, rows)


def moment_rows(rows: int) -> int:
    """How many of so many rows, at the upper edge, runs have for their moments: a row each."""
    return max(rows // 3, 1)


def _finite(series: Series, smoothing: float) -> tuple[Series, FloatArray]:
    """The series of its finite points, smoothed where it is to be, and the x of the others."""
    x, y, bad = series.x, series.y, np.empty(0)
    good = np.abs(y) < _HUGE
    if not good.all():
        bad, x, y = x[~good], x[good], y[good]
    return replace(series, x=x, y=smooth(y, smoothing) if series.smoothed else y), bad


def _trace(
    curve: tuple[Series, FloatArray], plot: Plot, window: tuple[float, float], columns: int
) -> Trace:
    series, bad = curve
    at, shown = thin(series.x, series.y, window, columns)
    if series.transform is not None:
        shown = series.transform(shown)
    fine = np.abs(shown) < _HUGE
    if plot.log:
        fine &= shown > 1 / _HUGE
    where = np.union1d(_columns_of(bad, window, columns), at[~fine])
    shown = np.log10(shown[fine]) if plot.log else shown[fine]
    return Trace(series, at[fine], shown, where)


def _columns_of(x: FloatArray, window: tuple[float, float], columns: int) -> npt.NDArray[np.int64]:
    """The columns of the x that lie in the window, each once."""
    left, right = window
    inside = x[(x >= left) & (x <= right)]
    where = np.floor((inside - left) / (right - left) * (columns - 1) + 0.5)
    return np.unique(where.astype(np.int64))


def marked(
    trace: Trace, window: tuple[float, float], columns: int, raster: int
) -> npt.NDArray[np.int64]:
    """Which points of a trace bear its series' marker, so that it is known without colour.

    Args:
        window, columns, raster: as the trace was made.

    Returns:
        indices, rising: of ``points`` each true point, of a line one here and there and its end.
    """
    series, at = trace.series, trace.columns
    if not series.marker or not len(at):
        return np.empty(0, np.int64)
    if series.style == "points":
        found = np.searchsorted(at, _columns_of(series.x, window, columns * raster))
        return np.unique(np.minimum(found, len(at) - 1))
    # Lines that lie on each other have their signs in different columns.
    offset = 3 + 5 * (ord(series.marker) % 3)
    found = np.searchsorted(at // raster, np.arange(offset, columns, _SIGN_EVERY))
    return np.unique(np.append(found[found < len(at)], len(at) - 1))


def _y_limits(traces: Sequence[Trace], plot: Plot) -> tuple[float, float]:
    shown = [trace.y for trace in traces if len(trace.y)]
    if not shown:
        return (0.0, 1.0) if not plot.log else (0.0, 3.0)
    low, high = min(float(y.min()) for y in shown), max(float(y.max()) for y in shown)
    if plot.unit in ("share", "percent") and not plot.log:
        low, high = min(low, 0.0), max(high, 1.0 if plot.unit == "share" else high)
    return _with_room(low, high, plot)


def _with_room(low: float, high: float, plot: Plot) -> tuple[float, float]:
    """Limits a little beyond the values, or well beyond one that stays the same."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        # Logarithms are near a half more and a third less, too.
        room = _FLAT_LOG if plot.log else 0.5 * abs(high) or 0.5
    else:
        room = _MARGIN * (high - low)
    # There are no fewer than 0 bytes.
    least = 0.0 if plot.unit == "bytes" and not plot.log else -math.inf
    return max(low - room, least), high + room


def _without_outliers(
    traces: Sequence[Trace], y: tuple[float, float], plot: Plot
) -> tuple[float, float]:
    """Limits without the few highest values of lines, where these take much of the range."""
    lines = [trace.y for trace in traces if trace.series.style == "line" and len(trace.y)]
    points = [trace.y for trace in traces if trace.series.style == "points" and len(trace.y)]
    if not lines:
        return y
    low = min(float(values.min()) for values in (*lines, *points))
    bulk = [np.quantile(np.concatenate(lines), _BULK)]
    bulk += [np.quantile(values, _BULK_OF_EACH) for values in lines]
    top = max(map(float, [*bulk, *(max(values) for values in points)]))
    highest = max(float(values.max()) for values in lines)
    clipped = y[1] - top >= _WORTH_CLIPPING * (y[1] - y[0]) and max(top, highest) > low
    return _with_room(low, top, plot) if clipped else y


def _up_to(trace: Trace, top: float) -> Trace:
    over = trace.y > top
    above = np.unique(trace.columns[over])
    return replace(trace, columns=trace.columns[~over], y=trace.y[~over], above=above)


def value_at(series: Series, x: float, smoothing: float = 0.0) -> float | None:
    """What the curve shows at `x`: the newest point at or before it; None before the first.

    A value that is not finite is given as it is: the reader should know.
    """
    index = int(np.searchsorted(series.x, x, "right")) - 1
    if index < 0:
        return None
    value = series.y[index]
    if series.smoothed and smoothing and math.isfinite(value):
        # Terms older than this weigh less than a millionth.
        reach = max(2, math.ceil(math.log(1e-6) / math.log(smoothing)))
        past = series.y[max(0, index + 1 - reach) : index + 1]
        value = smooth(past[np.isfinite(past)], smoothing)[-1]
    shown = np.array([value])
    return float(series.transform(shown)[0] if series.transform else shown[0])


def sparkline(values: FloatArray, width: int) -> str:
    """The course of the values in at most `width` cells; what is not finite is left out."""
    values = values[np.abs(values) < _HUGE]
    if not len(values) or width < 1:
        return ""
    if len(values) > width:
        edges = np.linspace(0, len(values), width + 1).astype(np.int64)
        values = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return _SPARKS[0] * len(values)
    levels = (values - low) / (high - low) * (len(_SPARKS) - 1)
    return "".join([_SPARKS[level] for level in np.rint(levels).astype(np.int64).tolist()])
