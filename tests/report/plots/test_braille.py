"""Lines in braille are those that plotext draws itself."""

from __future__ import annotations

import numpy as np
import plotext as plt
from hypothesis import given
from hypothesis import strategies as st

from lmbench.report.plots.braille import ACROSS, DOWN, braille, dots

COLUMNS, ROWS = 12, 6

lines = st.lists(
    st.tuples(st.integers(0, COLUMNS * ACROSS - 1), st.integers(0, ROWS * DOWN - 1)),
    min_size=1,
    max_size=30,
)


def by_plotext(x: list[int], y: list[int]) -> list[str]:
    plt.clear_figure()
    plt.limit_size(False, False)
    plt.plot_size(COLUMNS, ROWS)
    plt.theme("clear")
    plt.xaxes(False, False)
    plt.yaxes(False, False)
    plt.xlim(0, COLUMNS * ACROSS - 1)
    plt.ylim(0, ROWS * DOWN - 1)
    plt.xticks([])
    plt.yticks([])
    plt.plot(x, y, marker="braille")
    return plt.uncolorize(plt.build()).splitlines()


@given(lines)
def test_a_line_covers_the_dots_that_plotext_gives_it(points):
    points = sorted(points, key=lambda point: point[0])
    x, y = (np.array(values, dtype=np.int64) for values in zip(*points, strict=True))
    canvas = [[" "] * COLUMNS for _ in range(ROWS)]
    for column, row, sign in zip(*braille(*dots(x, y)), strict=True):
        canvas[ROWS - 1 - row][column] = sign
    assert ["".join(row) for row in canvas] == by_plotext(x.tolist(), y.tolist())


def test_each_dot_of_a_cell_has_its_own_bit():
    signs = set()
    for x in range(ACROSS):
        for y in range(DOWN):
            _, _, [sign] = braille(np.array([x]), np.array([y]))
            signs.add(ord(sign) - 0x2800)
    assert signs == {1 << bit for bit in range(8)}


def test_no_dots_are_no_cells():
    nothing = np.empty(0, dtype=np.int64)
    columns, rows, signs = braille(*dots(nothing, nothing))
    assert (len(columns), len(rows), signs) == (0, 0, [])
