"""A plot on the terminal, drawn by plotext in braille dots.

plotext (5.3) is asked for as little as possible: a braille sign in each cell that a line touches,
and axes with ticks that were chosen and scaled before. Logarithms are taken by us, non-finite
values never get there, and the figure is cleared, drawn and built anew each time; its own ways with
all three end in crashes. Signs, moments and the value cursor are put over its picture afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from rich.style import Style
from rich.text import Text

from lmbench.report.plots.braille import ACROSS, DOWN, braille, dots
from lmbench.report.plots.layout import Picture, Plot, Trace, lay_out, marked
from lmbench.report.plots.series import Colour

__all__ = ["Look", "draw"]

_SMALLEST = (8, 4)
# More moments than one in so many columns are drawn as a stretch.
_CROWDED = 8


@dataclass(frozen=True)
class Look:
    """The colours of what is no series: axes and their labels, thin lines, what is wrong."""

    axes: Colour = None
    faint: Colour = None
    bad: Colour = None


def draw(
    plot: Plot, width: int, height: int, look: Look | None = None, cursor: float | None = None
) -> Picture:
    """Draw `plot` into `width` by `height` cells.

    Args:
        cursor: an x at which a vertical line stands.

    Returns:
        a picture of `height` lines of `width` cells; too small a space gives blank lines.
    """
    look = look or Look()
    blank = Picture(lines=[Text(" " * max(width, 0)) for _ in range(max(height, 0))])
    if width < _SMALLEST[0] or height < _SMALLEST[1]:
        return blank
    picture = lay_out(plot, width, height - 2, ACROSS, labelled=True)
    if picture.columns < 4:
        return blank
    lines = _lines(picture, width, height, look)
    canvas = _Canvas(lines, picture)
    # The first series lies on top. A point's sign says where it is, a line's only whose it is.
    bottom_up = picture.traces[::-1]
    for trace in sorted(bottom_up, key=lambda trace: trace.series.style == "points"):
        canvas.markers(trace)
    canvas.moments(plot)
    canvas.bad_values(look)
    if cursor is not None:
        canvas.cursor(cursor)
    return replace(picture, lines=lines)


def _lines(picture: Picture, width: int, height: int, look: Look) -> list[Text]:
    """Axes and curves."""
    import plotext as plt

    columns, rows = picture.columns, picture.rows

    plt.clear_figure()
    plt.limit_size(False, False)
    plt.plot_size(width, height)
    plt.theme("clear")
    if look.axes is not None:
        plt.ticks_color(look.axes)
        plt.axes_color("default")
    plt.xaxes(True, False)
    plt.yaxes(True, False)
    plt.xlim(0, columns - 1)
    plt.ylim(0, rows - 1)
    (first, last), (low, high) = picture.x, picture.y
    plt.xticks(
        [(x - first) / (last - first) * (columns - 1) for x, _ in picture.x_ticks],
        [text for _, text in picture.x_ticks],
    )
    plt.yticks(
        [(y - low) / (high - low) * (rows - 1) for y, _ in picture.y_ticks],
        [text for _, text in picture.y_ticks],
    )
    drawn = [trace for trace in picture.traces if len(trace.y)]
    # The first series lies on top, thin lines under all.
    bottom_up = drawn[::-1]
    bottom_up.sort(key=lambda trace: trace.series.style != "thin")
    for trace in bottom_up:
        colour = look.faint if trace.series.style == "thin" else trace.series.colour
        kwargs = {} if colour is None else {"color": colour}
        x, y, signs = braille(*dots(trace.columns, _dots_up(trace.y, picture.y, rows)))
        plt.scatter(x.tolist(), y.tolist(), marker=signs, **kwargs)
    if not drawn:
        # Without any data plotext leaves the axes out.
        plt.scatter([-1], [-1], marker=" ")
    text = Text.from_ansi(plt.build(), no_wrap=True, end="")
    lines = list(text.split("\n", allow_blank=True))[:height]
    for line in lines:
        line.truncate(width, pad=True)
    return lines + [Text(" " * width) for _ in range(height - len(lines))]


class _Canvas:
    """The finished picture, to put signs on."""

    def __init__(self, lines: list[Text], picture: Picture) -> None:
        self._lines = lines
        self._picture = picture
        self._columns, self._rows = picture.columns, picture.rows

    def _put(self, column: int, row: int, sign: str, style: Style | str) -> None:
        """`row` counts from the top of the canvas."""
        if 0 <= column < self._columns and 0 <= row < self._rows:
            line, at = self._lines[row], self._picture.left + column
            plain = line.plain
            line.plain = plain[:at] + sign + plain[at + 1 :]
            line.stylize(style, at, at + 1)

    @property
    def _top_row(self) -> int:
        """The row of the highest value that is drawn, below those of moments."""
        tops = [float(trace.y.max()) for trace in self._picture.traces if len(trace.y)]
        return self._row(max(tops)) if tops else 0

    def _row(self, y: float) -> int:
        dot = int(_dots_up(np.array([y]), self._picture.y, self._rows)[0])
        return self._rows - 1 - dot // DOWN

    def markers(self, trace: Trace) -> None:
        """The series' marker along its line, and where it is above the axis an arrow."""
        style = Style(color=_rich(trace.series.colour))
        for column in np.unique(trace.above // ACROSS):
            self._put(int(column), self._top_row, "↑", style)
        for index in marked(trace, self._picture.x, self._columns, ACROSS):
            column, row = int(trace.columns[index]) // ACROSS, self._row(float(trace.y[index]))
            self._put(column, row, trace.series.marker, style)

    def moments(self, plot: Plot) -> None:
        """A row for each run at the upper edge; many moments of one kind become a stretch."""
        low, high = self._picture.x
        columns: dict[tuple[Colour, str], set[int]] = {}
        for moment in plot.moments:
            if low <= moment.x <= high:
                column = self._picture.column_of(moment.x)
                columns.setdefault((moment.colour, moment.sign), set()).add(column)
        rows = list(dict.fromkeys(colour for colour, _ in columns))
        for (colour, sign), where in columns.items():
            row, style = rows.index(colour), Style(color=_rich(colour))
            if row >= self._rows // 2:
                continue
            crowded = len(where) > self._columns / _CROWDED
            for column in sorted(where):
                at_end = column in (min(where), max(where))
                self._put(column, row, sign if at_end or not crowded else "╌", style)
            if crowded:
                for column in set(range(min(where), max(where))) - where:
                    self._put(column, row, "╌", style)

    def bad_values(self, look: Look) -> None:
        """A cross at the foot of the plot for each value that could not be drawn."""
        for trace in self._picture.traces:
            for column in np.unique(trace.bad // ACROSS):
                self._put(int(column), self._rows - 1, "✗", Style(color=_rich(look.bad), bold=True))

    def cursor(self, x: float) -> None:
        column = self._picture.column_of(x)
        if not 0 <= column < self._columns:
            return
        at = self._picture.left + column
        for row in range(self._rows):
            if self._lines[row].plain[at] == " ":
                self._put(column, row, "│", Style(bold=True))
            else:
                self._lines[row].stylize(Style(reverse=True), at, at + 1)


def _dots_up(y: np.ndarray, limits: tuple[float, float], rows: int) -> np.ndarray:
    """Which dot each value of `y`, within the limits, has in its column, from the foot up."""
    low, high = limits
    return np.floor((y - low) / (high - low) * (rows * DOWN - 1) + 0.5).astype(np.int64)


def _rich(colour: Colour) -> str | None:
    if colour is None:
        return None
    return f"color({colour})" if isinstance(colour, int) else "rgb({},{},{})".format(*colour)
