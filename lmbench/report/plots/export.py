"""A plot as a file: SVG for documents, text for mail and logs, CSV for one's own plots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from rich.cells import cell_len

from lmbench.errors import LmbenchError
from lmbench.printable import csv_text, printable
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Picture, Plot, Trace, lay_out, marked, smooth
from lmbench.report.plots.series import Colour, Series
from lmbench.session.files import write_atomic

__all__ = ["FORMATS", "as_csv", "as_svg", "as_text", "export"]

FORMATS = ("svg", "txt", "csv")

_WIDTH, _HEIGHT = 900, 420
# Of the canvas; the legend stands to the right of it.
_LEFT, _RIGHT, _TOP, _FOOT = 70, 700, 40, 374
# A sign takes as many pixels; each pixel is a column of a trace, more would not be seen.
_CELL = 8
_COLUMNS = (_RIGHT - _LEFT) // _CELL
_ENTRY = 18
# About the widths of a letter of labels and of the title.
_LETTER, _TITLE_LETTER = 7, 9
_INK = "#333333"
_PALE = "#999999"
_BAD = "#c00000"


def export(plot: Plot, path: Path, title: str = "") -> Path:
    """Write `plot` in the format that the file's ending names; replaces a file of this name.

    Returns:
        the whole path of what was written.

    Raises:
        LmbenchError: another ending, or a file that cannot be written.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise LmbenchError(f"{path.name}: plots are written as .svg, .txt or .csv")
    text = {"svg": as_svg, "txt": as_text, "csv": as_csv}[suffix](plot, title)
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be written ({error.strerror})") from None
    return path.absolute()


def as_csv(plot: Plot, title: str = "") -> str:
    """All points of all series, one a line: series, x, value, and smoothed where it is shown."""
    rows: list[list[Any]] = [["series", plot.x_axis, "value", "smoothed"]]
    for series in plot.series:
        values = series.transform(series.y) if series.transform else series.y
        smoothed = np.full(len(values), math.nan)
        if series.smoothed and plot.smoothing:
            good = np.isfinite(series.y)
            calm = smooth(series.y[good], plot.smoothing)
            smoothed[good] = series.transform(calm) if series.transform else calm
        for x, value, calm in zip(series.x, values, smoothed, strict=True):
            shown = None if math.isnan(calm) else _number(calm)
            rows.append([series.label, f"{x:.10g}", _number(value), shown])
    return csv_text(rows)


def _number(value: float) -> str:
    """In the digits that a curve keeps."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.8g}"


def as_text(plot: Plot, title: str = "") -> str:
    """The plot as it looks on the terminal, without colours, 100 cells wide, and below it a line
    for each series."""
    picture = draw(plot, 100, 26)
    legend = [f"{series.sign:<2} {series.label}" for series in plot.series]
    head = [title] if title else []
    lines = [*head, *(line.plain.rstrip() for line in picture.lines), "", *legend]
    return printable("\n".join(lines)) + "\n"


def as_svg(plot: Plot, title: str = "") -> str:
    """A picture of 900 by 420 pixels, or more where the legend or the title is long, without
    scripts, fonts or anything from elsewhere."""
    picture = lay_out(plot, _COLUMNS, (_FOOT - _TOP) // 14, _CELL)
    labels = [trace.series.label for trace in _named(picture)]
    longest = max(map(cell_len, labels), default=0)
    width = max(_WIDTH, _RIGHT + 48 + _LETTER * longest, _LEFT + _TITLE_LETTER * cell_len(title))
    height = max(_HEIGHT, _TOP + _ENTRY * (len(labels) + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" fill="{_INK}">{escape(title)}</text>',
        *_axes(picture, plot),
    ]
    for trace in reversed(picture.traces):
        parts += _curve(trace, picture)
    for trace in picture.traces:
        parts += _bad(trace)
    parts += _moments(plot, picture)
    parts += _legend(picture)
    return printable("\n".join([*parts, "</svg>"])) + "\n"


def _px(x: float, picture: Picture) -> float:
    low, high = picture.x
    return _LEFT + (x - low) / (high - low) * (_RIGHT - _LEFT)


def _column_px(column: int) -> float:
    return _LEFT + column / (_COLUMNS * _CELL - 1) * (_RIGHT - _LEFT)


def _py(y: float, picture: Picture) -> float:
    low, high = picture.y
    return _FOOT - (y - low) / (high - low) * (_FOOT - _TOP)


def _axes(picture: Picture, plot: Plot) -> list[str]:
    right, foot = _RIGHT, _FOOT
    parts = [f'<path d="M{_LEFT},{_TOP}V{foot}H{right}" fill="none" stroke="{_INK}"/>']
    for value, text in picture.x_ticks:
        x = _px(value, picture)
        parts.append(f'<path d="M{x:.1f},{foot}v5" stroke="{_INK}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{foot + 19}" text-anchor="middle" fill="{_INK}">{text}</text>'
        )
    for value, text in picture.y_ticks:
        y = _py(value, picture)
        parts.append(f'<path d="M{_LEFT},{y:.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_INK}">{text}</text>'
        )
    middle = (_LEFT + right) / 2
    axis = escape(plot.x_axis)
    parts.append(
        f'<text x="{middle:.0f}" y="{foot + 38}" text-anchor="middle" fill="{_INK}">{axis}</text>'
    )
    return parts


def _curve(trace: Trace, picture: Picture) -> list[str]:
    if not len(trace.y):
        return []
    points = [
        (_column_px(int(column)), _py(float(y), picture))
        for column, y in zip(trace.columns, trace.y, strict=True)
    ]
    thin = trace.series.style == "thin"
    colour = _PALE if thin else _hex(trace.series.colour)
    width, dash = (1, ' stroke-dasharray="4 3"') if thin else (1.6, "")
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
    ]
    for index in marked(trace, picture.x, _COLUMNS, _CELL):
        x, y = points[index]
        parts.append(_sign(x, y, trace.series, colour))
    return parts


def _sign(x: float, y: float, series: Series, colour: str) -> str:
    """A series' marker with its middle at a place; letters stand on a line below theirs."""
    # Those of lines are small, and would drown in them.
    size = 18 if series.style == "line" else 12
    return (
        f'<text x="{x:.1f}" y="{y + size / 3:.1f}" font-size="{size}" text-anchor="middle" '
        f'fill="{colour}">{escape(series.marker)}</text>'
    )


def _bad(trace: Trace) -> list[str]:
    """A cross at the foot for each place with values that could not be drawn."""
    return [
        f'<text x="{_column_px(cell * _CELL + _CELL // 2):.1f}" y="{_FOOT - 3}" '
        f'text-anchor="middle" font-weight="bold" fill="{_BAD}">✗</text>'
        for cell in sorted({int(column) // _CELL for column in trace.bad})
    ]


def _moments(plot: Plot, picture: Picture) -> list[str]:
    low, high = picture.x
    return [
        f'<text x="{_px(m.x, picture):.1f}" y="{_TOP - 3}" text-anchor="middle" '
        f'font-size="9" fill="{_hex(m.colour)}">{m.sign}</text>'
        for m in plot.moments
        if low <= m.x <= high
    ]


def _legend(picture: Picture) -> list[str]:
    parts, x = [], _RIGHT + 16
    for turn, trace in enumerate(_named(picture)):
        series, y = trace.series, _TOP + 8 + _ENTRY * turn
        colour = _hex(series.colour)
        # Points have their sign at each end of what joins them, a line now and then.
        joined = series.style != "points" or len(series.x) > 1
        ends = (x, x + 18) if series.style == "points" and joined else (x + 9,)
        if joined:
            parts.append(f'<path d="M{x},{y}h18" stroke="{colour}" stroke-width="2"/>')
        if series.marker:
            parts += [_sign(at, y, series, colour) for at in ends]
        parts.append(f'<text x="{x + 28}" y="{y + 4}" fill="{_INK}">{escape(series.label)}</text>')
    return parts


def _named(picture: Picture) -> list[Trace]:
    return [trace for trace in picture.traces if trace.series.style != "thin"]


def _hex(colour: Colour) -> str:
    if colour is None:
        return _INK
    if isinstance(colour, int):
        from rich.color import Color

        return Color.from_ansi(colour).get_truecolor().hex
    return "#{:02x}{:02x}{:02x}".format(*colour)
