"""Lines in braille against the same lines drawn dot by dot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmbench.report.plots.braille import ACROSS, DOWN, braille, dots

COLUMNS, ROWS = 12, 6

lines = st.lists(
    st.tuples(st.integers(0, COLUMNS * ACROSS - 1), st.integers(0, ROWS * DOWN - 1)),
    min_size=1,
    max_size=30,
)


def dot_by_dot(points: list[tuple[int, int]]) -> list[str]:
    """The picture of the line through the points, each of its dots set in a cell of its own."""
    covered = {points[0]}
    for (x, y), (to_x, to_y) in pairwise(points):
        length = max(abs(to_x - x), abs(to_y - y))
        for step in range(length):
            across, up = (to_x - x) / length, (to_y - y) / length
            covered.add((int(x + step * across), int(y + step * up)))
        covered.add((to_x, to_y))
    places = ("⡀⢀", "⠄⠠", "⠂⠐", "⠁⠈")  # from the foot of a cell up
    canvas = [[0] * COLUMNS for _ in range(ROWS)]
    for x, y in covered:
        canvas[ROWS - 1 - y // DOWN][x // ACROSS] |= ord(places[y % DOWN][x % ACROSS]) - 0x2800
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in canvas]


@given(lines)
def test_a_line_covers_the_dots_between_its_points(points):
    points = sorted(points, key=lambda point: point[0])
    x, y = (np.array(values, dtype=np.int64) for values in zip(*points, strict=True))
    canvas = [[" "] * COLUMNS for _ in range(ROWS)]
    for column, row, sign in zip(*braille(*dots(x, y)), strict=True):
        canvas[ROWS - 1 - row][column] = sign
    assert ["".join(row) for row in canvas] == dot_by_dot(points)


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
