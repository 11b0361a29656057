"""A plot as a file: SVG for documents, text for mail and logs, CSV for one's own plots."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from lmbench.errors import LmbenchError
from lmbench.report.draw import draw
from lmbench.report.plots import Plot, Scene, Trace, smooth, stage
from lmbench.report.series import Colour

__all__ = ["FORMATS", "as_csv", "as_svg", "as_text", "export"]

FORMATS = ("svg", "txt", "csv")

_WIDTH, _HEIGHT = 900, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 200, 40, 46
# Each pixel is a column; more would not be seen.
_COLUMNS = _WIDTH - _LEFT - _RIGHT
_INK = "#333333"
_PALE = "#999999"


def export(plot: Plot, path: Path, title: str = "") -> None:
    """Write `plot` in the format that the file's ending names.

    Raises:
        LmbenchError: another ending, or a file that cannot be written.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise LmbenchError(f"{path.name}: plots are written as .svg, .txt or .csv")
    text = {"svg": as_svg, "txt": as_text, "csv": as_csv}[suffix](plot, title)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be written ({error.strerror})") from None


def as_csv(plot: Plot, title: str = "") -> str:
    """All points of all series, one a line: series, x, value, and smoothed where it is shown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["series", plot.x_axis, "value", "smoothed"])
    for series in plot.series:
        values = series.transform(series.y) if series.transform else series.y
        smoothed = np.full(len(values), math.nan)
        if series.smoothed and plot.smoothing:
            good = np.isfinite(series.y)
            calm = smooth(series.y[good], plot.smoothing)
            smoothed[good] = series.transform(calm) if series.transform else calm
        for x, value, calm in zip(series.x, values, smoothed, strict=True):
            calm_text = "" if math.isnan(calm) else repr(float(calm))
            writer.writerow([series.label, f"{x:.10g}", repr(float(value)), calm_text])
    return out.getvalue()


def as_text(plot: Plot, title: str = "") -> str:
    """The plot as it looks on the terminal, without colours, 100 cells wide, with its legend."""
    drawing = draw(plot, 100, 26)
    legend = [f"{series.marker or '─'} {series.label}" for series in plot.series]
    head = [title] if title else []
    lines = [*head, *(line.plain.rstrip() for line in drawing.lines), "  ".join(legend)]
    return "\n".join(lines) + "\n"


def as_svg(plot: Plot, title: str = "") -> str:
    """A drawing of 900 by 420 pixels without scripts, fonts or anything from elsewhere."""
    scene = stage(plot, _COLUMNS // 8, (_HEIGHT - _TOP - _BOTTOM) // 14, 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" fill="{_INK}">{escape(title)}</text>',
        *_axes(scene, plot),
    ]
    for trace in scene.traces:
        parts += _curve(trace, scene)
    parts += _moments(plot, scene)
    parts += _legend(scene)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _px(x: float, scene: Scene) -> float:
    low, high = scene.x
    return _LEFT + (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)


def _py(y: float, scene: Scene) -> float:
    low, high = scene.y
    return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scene: Scene, plot: Plot) -> list[str]:
    right, foot = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<path d="M{_LEFT},{_TOP}V{foot}H{right}" fill="none" stroke="{_INK}"/>']
    for value, text in scene.x_ticks:
        x = _px(value, scene)
        parts.append(f'<path d="M{x:.1f},{foot}v5" stroke="{_INK}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{foot + 19}" text-anchor="middle" fill="{_INK}">{text}</text>'
        )
    for value, text in scene.y_ticks:
        y = _py(value, scene)
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


def _curve(trace: Trace, scene: Scene) -> list[str]:
    if not len(trace.y):
        return []
    last = _COLUMNS // 8 * 8 - 1
    low, high = scene.x
    xs = [_px(low + (high - low) * column / last, scene) for column in trace.columns]
    points = [f"{x:.1f},{_py(float(y), scene):.1f}" for x, y in zip(xs, trace.y, strict=True)]
    thin = trace.series.style == "thin"
    colour = _PALE if thin else _hex(trace.series.colour)
    width, dash = (1, ' stroke-dasharray="4 3"') if thin else (1.6, "")
    parts = [
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width}"{dash}/>'
    ]
    if trace.series.style == "points":
        for point in points:
            x, _, y = point.partition(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.2" fill="{colour}"/>')
    return parts


def _moments(plot: Plot, scene: Scene) -> list[str]:
    low, high = scene.x
    return [
        f'<text x="{_px(m.x, scene):.1f}" y="{_TOP - 3}" text-anchor="middle" '
        f'font-size="9" fill="{_hex(m.colour)}">{m.sign}</text>'
        for m in plot.moments
        if low <= m.x <= high
    ]


def _legend(scene: Scene) -> list[str]:
    parts, y = [], _TOP + 8
    for trace in scene.traces:
        series = trace.series
        if series.style == "thin":
            continue
        x, colour = _WIDTH - _RIGHT + 16, _hex(series.colour)
        parts.append(
            f'<path d="M{x},{y}h18" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x + 24}" y="{y + 4}" fill="{_INK}">{escape(series.marker)} '
            f"{escape(series.label)}</text>"
        )
        y += 18
    return parts


def _hex(colour: Colour) -> str:
    if colour is None:
        return _INK
    if isinstance(colour, int):
        from rich.color import Color

        return Color.from_ansi(colour).get_truecolor().hex
    return "#{:02x}{:02x}{:02x}".format(*colour)
