"""The distribution of a tensor's weights as columns, with the zeros apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.style import Style
from rich.text import Text

from lmbench.report.tensor_distribution import Part

__all__ = ["columns_of", "draw_histogram", "sparkbars"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def columns_of(counts: npt.NDArray[np.int64], width: int, log: bool) -> npt.NDArray[np.float64]:
    """Heights in [0, 1] of `width` columns: how dense the values are in each column's part.

    Bins are dealt out evenly; a column with more bins is not higher for that. On a log scale one
    element is just above nothing.
    """
    width = max(min(width, len(counts)), 1)
    edges = np.linspace(0, len(counts), width + 1).astype(np.int64)
    sums = np.add.reduceat(counts, edges[:-1]).astype(np.float64)
    heights = np.log1p(sums) if log else sums / np.diff(edges)
    most = heights.max()
    return heights / most if most > 0 else heights


def _column(height: float, rows: int) -> list[str]:
    """A column's cells from the top; anything above 0 shows."""
    eighths = round(height * rows * 8)
    if height > 0:
        eighths = max(eighths, 1)
    return [_EIGHTHS[min(max(eighths - 8 * row, 0), 8)] for row in reversed(range(rows))]


def draw_histogram(
    part: Part, limits: tuple[float, float], width: int, height: int, *, log: bool, style: Style
) -> Text:
    """`height` lines: the columns, then a line with the limits and where zero lies."""
    rows = height - 1
    if width < 8 or rows < 1:
        return Text()
    heights = columns_of(part.counts, width, log)
    width = len(heights)
    cells = [_column(h, rows) for h in heights]
    lines = [Text("".join(column[row] for column in cells), style) for row in range(rows)]
    return Text("\n").join([*lines, _axis(limits, width)])


def _axis(limits: tuple[float, float], width: int) -> Text:
    low, high = limits
    left, right = f"{low:.3g}", f"{high:.3g}"
    line = list(left + " " * max(width - len(left) - len(right), 1) + right)
    if low < 0 < high:
        at = round(-low / (high - low) * (width - 1))
        if len(left) < at < width - len(right) - 1:
            line[at] = "0"
    return Text("".join(line), "dim")


def sparkbars(counts: Sequence[int], width: int) -> str:
    """The same in one line."""
    heights = columns_of(np.array(counts, np.int64), width, False)
    return "".join(_column(height, 1)[0] for height in heights)
