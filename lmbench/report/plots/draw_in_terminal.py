"""A plot on the terminal: axes with ticks, and curves in braille dots.

Signs, moments and the value cursor are put over the picture of axes and curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

from lmbench.report.plots.braille import ACROSS, DOWN, braille, dots
from lmbench.report.plots.layout import Picture, Plot, Trace, lay_out, marked, moment_rows
from lmbench.report.plots.series import Colour
from lmbench.report.plots.ticks import cell_of

__all__ = ["PlotColours", "draw", "in_colour"]

_SMALLEST = (8, 4)
# More moments than one in so many columns are drawn as a stretch.
_CROWDED = 8


@dataclass(frozen=True)
class PlotColours:
    """The colours of what is no series: axes and their labels, thin lines, what is wrong."""

    axes: Colour = None
    faint: Colour = None
    bad: Colour = None


def draw(
    plot: Plot,
    width: int,
    height: int,
    colours: PlotColours | None = None,
    cursor: float | None = None,
) -> Picture:
    """Draw `plot` into `width` by `height` cells.

    Args:
        cursor: an x at which a vertical line stands.

    Returns:
        a picture of `height` lines of `width` cells; too small a space gives blank lines.
    """
    colours = colours or PlotColours()
    blank = Picture(lines=[Text(" " * max(width, 0)) for _ in range(max(height, 0))])
    if width < _SMALLEST[0] or height < _SMALLEST[1]:
        return blank
    picture = lay_out(plot, width, height - 2, ACROSS, labelled=True)
    if picture.columns < 4:
        return blank
    lines = _lines(picture, width, height, colours)
    canvas = _Canvas(lines, picture)
    # The first series lies on top. A point's sign says where it is, a line's only whose it is.
    bottom_up = picture.traces[::-1]
    for trace in sorted(bottom_up, key=lambda trace: trace.series.style == "points"):
        canvas.markers(trace)
    canvas.moments(plot)
    canvas.bad_values(colours)
    if cursor is not None:
        canvas.cursor(cursor)
    return replace(picture, lines=lines)


def _lines(picture: Picture, width: int, height: int, colours: PlotColours) -> list[Text]:
    """Axes and curves: `picture.rows` lines of the canvas, the axis below it, and its labels."""
    columns, rows, left = picture.columns, picture.rows, picture.left
    signs = np.full((height, width), " ")
    # Which of `used` a cell has.
    painted = np.zeros((height, width), dtype=np.int64)
    used: list[Colour] = [None, colours.axes]

    def write(row: int, column: int, text: str) -> None:
        signs[row, column : column + len(text)] = list(text)
        painted[row, column : column + len(text)] = 1

    write(rows, left - 1, "└" + "─" * columns)
    for row in range(rows):
        write(row, left - 1, "│")
    for y, text in picture.y_ticks:
        row = rows - 1 - cell_of(y, picture.y, rows, DOWN)
        if 0 <= row < rows:
            write(row, 0, f"{text:>{left - 1}}┤")
    for x, text in picture.x_ticks:
        column = left + cell_of(x, picture.x, columns)
        start = _label_start(signs[rows + 1].tolist(), text, column)
        if start is not None:
            write(rows + 1, start, text)
            write(rows, column, "┬")
    # The first series lies on top, thin lines under all.
    bottom_up = [trace for trace in picture.traces[::-1] if len(trace.y)]
    bottom_up.sort(key=lambda trace: trace.series.style != "thin")
    for trace in bottom_up:
        x, y, cells = braille(*dots(trace.columns, _dots_up(trace.y, picture.y, rows)))
        inside = (x < columns) & (y >= 0) & (y < rows)
        at = rows - 1 - y[inside], left + x[inside]
        signs[at] = np.array(cells, dtype="<U1")[inside]
        painted[at] = len(used)
        used.append(colours.faint if trace.series.style == "thin" else trace.series.colour)
    styles = [in_colour(colour) for colour in used]
    return [_line(*row, styles) for row in zip(signs, painted, strict=True)]


def _label_start(row: Sequence[str], text: str, column: int) -> int | None:
    """Where in its row the label of a tick begins: around `column`, or beside it where another
    label or the edge is near; None where there is no room for it and a space on each side."""
    length = len(text)
    first, last = max(column - length + 1, 0), min(column + length, len(row) - 1)
    free = [at for at in range(first, last) if row[at] == " "]
    if free:
        # It moves no further than it must: each after it would have to, too, until one has no room.
        first = free[0] + (free[0] > first)
        last = free[-1]
    start = min(max(column - length // 2, first), last - length + 1)
    end = start + length
    around = row[max(start - 1, 0) : end + 1]
    return start if start >= 0 and end <= len(row) and set(around) == {" "} else None


def _line(signs: np.ndarray, painted: np.ndarray, styles: Sequence[Style]) -> Text:
    line = Text("".join(signs.tolist()))
    edges = [0, *(np.flatnonzero(np.diff(painted)) + 1).tolist(), len(painted)]
    for start, end in pairwise(edges):
        line.stylize(styles[painted[start]], start, end)
    return line


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
        style = in_colour(trace.series.colour)
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
            row, style = rows.index(colour), in_colour(colour)
            if row >= moment_rows(self._rows):
                continue
            crowded = len(where) > self._columns / _CROWDED
            for column in sorted(where):
                at_end = column in (min(where), max(where))
                self._put(column, row, sign if at_end or not crowded else "╌", style)
            if crowded:
                for column in set(range(min(where), max(where))) - where:
                    self._put(column, row, "╌", style)

    def bad_values(self, colours: PlotColours) -> None:
        """A cross at the foot of the plot for each value that could not be drawn."""
        for trace in self._picture.traces:
            for column in np.unique(trace.bad // ACROSS):
                self._put(int(column), self._rows - 1, "✗", in_colour(colours.bad, bold=True))

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


def in_colour(colour: Colour, *, bold: bool | None = None) -> Style:
    """The style of what has this colour."""
    if colour is None:
        return Style(bold=bold)
    known = Color.from_ansi(colour) if isinstance(colour, int) else Color.from_rgb(*colour)
    return Style(color=known, bold=bold)
