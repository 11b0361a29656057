"""Plots on the terminal and in files."""

from __future__ import annotations

import csv
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmbench.errors import LmbenchError
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.export import as_csv, as_svg, as_text, export
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Moment, Series, perplexity_of


def plot(*ys, log=False, **given_):
    series = tuple(
        Series(f"{n} run", np.arange(len(y), dtype=float), np.array(y, float), "●◆▲"[n % 3])
        for n, y in enumerate(ys)
    )
    return Plot(series, log=log, **given_)


def text_of(picture):
    return [line.plain for line in picture.lines]


values = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40)


@settings(max_examples=60)
@given(st.lists(values, max_size=3), st.integers(0, 90), st.integers(0, 30), st.booleans())
def test_whatever_the_data_and_the_size_the_drawing_fills_exactly_its_space(ys, width, height, log):
    picture = draw(plot(*ys, log=log), width, height)
    assert len(picture.lines) == height
    assert {line.cell_len for line in picture.lines} <= {width}


@given(st.floats(1, 1e4), st.floats(1.001, 100), st.integers(5, 30), st.booleans())
def test_every_label_of_the_y_axis_stands_in_a_row_of_its_own(low, factor, height, log):
    picture = draw(plot([low, low * factor], log=log), 40, height)
    ends = [line.plain.partition("┤")[0].strip() for line in picture.lines if "┤" in line.plain]
    assert ends == [text for _, text in reversed(picture.y_ticks)]


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(32, 120))
def test_each_tick_of_the_x_axis_has_its_label_around_it_or_near(first, length, width):
    x = np.linspace(first, first + length, 5)
    picture = draw(Plot((Series("run", x, x, "●"),)), width, 10)
    axis, below = text_of(picture)[-2:]
    marks = [column for column, sign in enumerate(axis) if sign == "┬"]
    assert marks
    assert set(below.split()) <= {text for _, text in picture.x_ticks}
    assert len(below.split()) == len(marks)
    for label, mark in zip(re.finditer(r"\S+", below), marks, strict=True):
        assert label.start() - len(label[0]) <= mark < label.end() + len(label[0])


@pytest.mark.parametrize("first", range(110_000, 113_000, 250))
def test_close_ticks_of_the_x_axis_are_none_left_out_between_others(first):
    x = np.linspace(first, first + 26_000, 5)
    axis, below = text_of(draw(Plot((Series("run", x, x, "●"),), x_axis="bytes"), 108, 10))[-2:]
    marks = [column for column, sign in enumerate(axis) if sign == "┬"]
    assert np.ptp(np.diff(marks)) <= 1
    assert below.count("kB") == len(marks)


def test_a_straight_line_goes_from_corner_to_corner():
    lines = text_of(draw(plot(range(100)), 40, 12))
    canvas = [line[line.index(next(c for c in line if c in "┤│└")) + 1 :] for line in lines[:-1]]
    assert canvas[-2].strip()[0] != ""
    assert canvas[0].rstrip().endswith("●")
    assert canvas[0][:10].strip() == ""


def test_series_are_told_apart_by_their_markers_without_colour():
    text = "\n".join(text_of(draw(plot([1, 2, 3], [3, 2, 1]), 60, 14)))
    assert "●" in text
    assert "◆" in text


def test_two_lines_of_training_are_told_apart_on_a_monochrome_terminal():
    """As two runs before their first validation: nothing but signs differs."""
    x = np.arange(100.0)
    lines = (Series("1 train", x, x, "•"), Series("2 train", x, 99 - x, "♦"))
    text = "\n".join(text_of(draw(Plot(lines), 60, 14)))
    assert text.count("•") >= 3
    assert text.count("♦") >= 3


def test_the_sign_of_a_point_is_not_hidden_by_that_of_a_line():
    x = np.arange(100.0)
    y = np.full(100, 5.0)
    # A line has a sign at its end; the line comes first, and so lies on top.
    both = (Series("train", x, y, "•"), Series("valid", x[-1:], y[-1:], "●", style="points"))
    text = "\n".join(text_of(draw(Plot(both), 60, 14)))
    assert "●" in text


def test_a_value_that_is_not_finite_is_marked_at_the_foot():
    picture = draw(plot([1, math.nan, 2]), 40, 10)
    assert "✗" in text_of(picture)[7]


def test_a_single_pruning_step_is_a_sign_and_many_are_a_stretch():
    few = plot(range(10), moments=(Moment(5, "▼", None),))
    assert text_of(draw(few, 50, 12))[0].count("▼") == 1
    many = plot(range(100), moments=tuple(Moment(i, "▼", None) for i in range(5, 95)))
    top = text_of(draw(many, 50, 12))[0]
    assert top.count("▼") == 2
    assert "╌╌╌" in top


def test_the_cursor_is_a_line_through_the_column_of_its_x():
    picture = draw(plot([5.0, 5.0, 5.0]), 41, 12, cursor=1.0)
    column = picture.left + picture.column_of(1.0)
    marked = [line for line in text_of(picture)[: picture.rows] if line[column] == "│"]
    assert len(marked) >= picture.rows - 1
    assert picture.x_at(picture.column_of(1.0)) == pytest.approx(1.0, abs=0.05)


def test_an_exported_csv_holds_every_point_and_what_was_smoothed():
    curve = Series("a", np.arange(3.0), np.array([0.0, math.inf, math.log(8.0)]), smoothed=True,
                   transform=perplexity_of)  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(as_csv(Plot((curve,), smoothing=0.5)))))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert float(rows[2]["value"]) == pytest.approx(8.0)
    assert rows[1]["value"] == "inf"
    assert rows[1]["smoothed"] == ""
    assert float(rows[2]["smoothed"]) == pytest.approx(4.0)


def test_an_exported_svg_is_well_formed_and_names_its_series():
    curve = Series("<a & b>", np.arange(50.0), np.arange(50.0) + 1)
    root = ElementTree.fromstring(as_svg(Plot((curve,), log=True), "Perplexity <1>"))
    words = "".join(root.itertext())
    assert "<a & b>" in words
    assert "Perplexity <1>" in words
    assert root.findall(".//{*}polyline")


def signs_of(svg: str, sign: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(svg).findall(".//{*}text")
    return [(float(t.get("x", 0)), float(t.get("y", 0))) for t in found if t.text == sign]


def test_an_exported_svg_has_each_series_own_marker_at_its_points_and_in_the_legend():
    x, y = np.array([0.0, 1.0, 4.0]), np.array([1.0, 2.0, 3.0])
    points = (Series("a", x, y, "◆", style="points"), Series("b", x, y, "▲", style="points"))
    svg = as_svg(Plot(points))
    assert "<circle" not in svg
    for sign in "◆▲":
        places = signs_of(svg, sign)
        assert [at for at, _ in places if at <= 700] == pytest.approx([70, 227.5, 700], abs=1)
        assert len([at for at, _ in places if at > 700]) == 2


def test_an_exported_svg_has_signs_at_true_points_only_where_it_is_zoomed():
    x, y = np.array([0.0, 1.0, 4.0]), np.array([1.0, 2.0, 3.0])
    svg = as_svg(Plot((Series("a", x, y, "◆", style="points"),), window=(0.5, 2.0)))
    assert len([at for at, _ in signs_of(svg, "◆") if at <= 700]) == 1


def test_a_single_point_has_no_line_in_the_legend_of_an_exported_svg():
    one = np.array([1.0])
    svg = as_svg(Plot((Series("a", one, one, "◆", style="points"),)))
    assert len([at for at, _ in signs_of(svg, "◆") if at > 700]) == 1
    assert "h18" not in svg


def test_an_exported_svg_marks_what_is_not_finite_at_its_foot():
    svg = as_svg(plot([1, math.nan, 2, math.inf, 3]))
    assert [at for at, _ in signs_of(svg, "✗")] == pytest.approx([227.5, 542.5], abs=8)
    assert {y for _, y in signs_of(svg, "✗")} == {371}
    assert signs_of(as_svg(plot([math.nan])), "✗")
    assert not signs_of(as_svg(plot([1, 2])), "✗")


def test_an_exported_svg_has_room_for_long_names_and_many_series():
    x = np.arange(3.0)
    svg = as_svg(Plot(tuple(Series("n" * 60, x, x, "●") for _ in range(30))))
    root = ElementTree.fromstring(svg)
    names = [t for t in root.findall(".//{*}text") if t.text == "n" * 60]
    assert float(root.get("width", 0)) > float(names[0].get("x", 0)) + 60 * 6.5
    assert float(root.get("height", 0)) > max(float(t.get("y", 0)) for t in names)


def test_an_exported_text_has_no_colours_and_a_legend():
    text = as_text(plot([1, 2, 3]), "Loss")
    assert "\x1b" not in text
    assert text.startswith("Loss\n")
    assert "─● 0 run" in text.splitlines()


def test_an_ending_that_is_no_format_is_refused_by_name(tmp_path):
    with pytest.raises(LmbenchError, match=r"plot\.png: plots are written as \.svg, \.txt or"):
        export(plot([1]), tmp_path / "plot.png")


def test_a_plot_is_written_to_the_file_that_is_named(tmp_path):
    for suffix in ("svg", "txt", "csv"):
        assert export(plot([1, 2]), tmp_path / f"p.{suffix}") == tmp_path / f"p.{suffix}"
        assert (tmp_path / f"p.{suffix}").stat().st_size > 20


@pytest.mark.parametrize("height", range(7, 24))
def test_a_value_lies_in_the_row_of_its_tick(height):
    levels = (0.0, 20.0, 40.0, 60.0, 80.0)
    x = np.arange(2.0)
    flat = tuple(Series(f"{level}", x, np.full(2, level), "●") for level in levels)
    picture = draw(Plot(flat, unit="percent"), 40, height)
    at = dict.fromkeys(f"{level:g}%" for level in levels)
    for line in text_of(picture):
        tick, _, canvas = line.partition("┤")
        if tick.strip() in at and canvas:
            assert set(canvas) - {" "}, (height, tick)
