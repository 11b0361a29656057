"""The arithmetic of plots: thinning, smoothing, ticks, reading off."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.report.plots.braille import ACROSS
from lmbench.report.plots.layout import (
    Plot,
    extent,
    lay_out,
    smooth,
    sparkline,
    thin,
    value_at,
)
from lmbench.report.plots.series import Moment, Series, perplexity_of
from lmbench.report.plots.ticks import label, ticks

finite = st.floats(-1e6, 1e6)
curves = st.lists(finite, min_size=1, max_size=300).map(np.array)


def series(y, **given_):
    y = np.asarray(y, float)
    return Series("s", np.arange(len(y), dtype=float), y, **given_)


@given(curves, st.integers(2, 200))
def test_a_thinned_curve_keeps_the_least_and_the_greatest_value_of_each_column(y, columns):
    x = np.arange(len(y), dtype=float)
    window = (0.0, max(float(len(y) - 1), 1.0))
    at, shown = thin(x, y, window, columns)
    column = np.floor(x / window[1] * (columns - 1) + 0.5)
    assert shown.min() == y.min()
    assert shown.max() == y.max()
    for c in np.unique(at):
        # A point half-way between two columns may go to either.
        inside = y[np.abs(column - c) <= 1]
        assert set(shown[at == c]) <= set(inside)


@given(curves, st.integers(2, 200))
def test_a_thinned_curve_has_at_most_two_points_a_column_from_left_to_right(y, columns):
    x = np.arange(len(y), dtype=float)
    at, _ = thin(x, y, (0.0, max(float(len(y) - 1), 1.0)), columns)
    assert (np.diff(at) >= 0).all()
    assert np.bincount(at).max() <= 2
    assert at.min() >= 0
    assert at.max() < columns


def test_a_zoomed_curve_enters_and_leaves_at_the_window_s_edges():
    at, shown = thin(np.array([0.0, 10.0]), np.array([0.0, 100.0]), (4.0, 6.0), 11)
    assert at.tolist() == [0, 10] or len(shown) == 0
    at, shown = thin(np.array([0.0, 5.0, 10.0]), np.array([0.0, 50.0, 100.0]), (4.0, 6.0), 11)
    assert (at[0], at[-1]) == (0, 10)
    assert shown[0] == pytest.approx(40)
    assert shown[-1] == pytest.approx(60)


@given(curves, st.sampled_from([0.5, 0.6, 0.9, 0.98, 0.999]))
def test_smoothing_is_the_debiased_moving_average_computed_one_by_one(y, keep):
    mean, wanted = 0.0, []
    for i, value in enumerate(y, start=1):
        mean = keep * mean + (1 - keep) * value
        wanted.append(mean / (1 - keep**i))
    np.testing.assert_allclose(smooth(y, keep), wanted, rtol=1e-9, atol=1e-6)


@given(finite, st.integers(1, 100), st.sampled_from([0.0, 0.6, 0.98]))
def test_smoothing_leaves_a_constant_alone(value, count, keep):
    np.testing.assert_allclose(smooth(np.full(count, value), keep), value, rtol=1e-12, atol=1e-300)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e9), st.integers(1, 20))
def test_ticks_are_evenly_spread_inside_the_range_and_not_too_many(low, span, most):
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most
    if len(found) > 1:
        assert found[0] >= low - 1e-6 * span
        assert found[-1] <= low + span + 1e-6 * span
        steps = np.diff(found)
        assert np.allclose(steps, steps[0], rtol=1e-3)


@given(st.floats(-3, 6), st.floats(0.01, 6), st.integers(4, 60))
def test_a_log_axis_has_ticks_inside_its_limits(low, span, rows):
    y = np.array([10.0**low, 10.0 ** (low + span)])
    picture = lay_out(Plot((series(y),), log=True), 40, rows)
    assert picture.y_ticks
    for at, text in picture.y_ticks:
        assert picture.y[0] - 1e-9 <= at <= picture.y[1] + 1e-9
        assert text


@given(st.floats(1, 1e4), st.floats(1e-3, 10), st.integers(4, 60))
def test_ticks_of_a_narrow_range_are_told_apart(low, span, rows):
    """As of two perplexities that a quantization hardly changed."""
    texts = [text for _, text in lay_out(Plot((series([low, low + span]),)), 40, rows).y_ticks]
    assert len(set(texts)) == len(texts)


def test_what_is_not_finite_is_never_drawn_but_its_place_is_kept():
    picture = lay_out(Plot((series([1, math.nan, 3, math.inf, -math.inf, 2]),)), 6, 10)
    trace = picture.traces[0]
    assert trace.y.tolist() == [1, 3, 2]
    assert trace.bad.tolist() == [1, 3, 4]


def test_what_is_not_positive_is_left_out_of_a_log_axis():
    picture = lay_out(Plot((series([10, 0, -5, 1000]),), log=True), 10, 10)
    assert picture.traces[0].y.tolist() == [1, 3]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50), st.booleans())
def test_any_numbers_at_all_give_limits_that_can_be_drawn(y, log):
    picture = lay_out(Plot((series(y),), log=log, smoothing=0.6), 30, 8)
    assert picture.y[0] < picture.y[1]
    assert all(map(math.isfinite, picture.y))
    assert all(np.isfinite(trace.y).all() for trace in picture.traces)


def test_moments_get_a_free_row_at_the_upper_edge():
    plain = lay_out(Plot((series([0, 1]),)), 20, 10)
    marked = lay_out(Plot((series([0, 1]),), (Moment(0.5, "▼", None),)), 20, 10)
    assert marked.y[1] - 1 >= 0.09 > plain.y[1] - 1


def test_reading_a_curve_gives_the_newest_value_at_or_before_the_place():
    curve = Series("s", np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0]))
    assert value_at(curve, 9.9) is None
    assert value_at(curve, 10) == 1
    assert value_at(curve, 29) == 2
    assert value_at(curve, 1000) == 3


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200), st.sampled_from([0.6, 0.9, 0.98]))
def test_the_value_read_off_is_the_value_drawn(y, keep):
    curve = series(y, smoothed=True)
    drawn = smooth(curve.y, keep)[-1]
    assert value_at(curve, len(y), keep) == pytest.approx(drawn, abs=1e-3)


def test_a_value_that_is_not_finite_is_told_as_it_is():
    assert math.isnan(value_at(series([1, math.nan]), 1, 0.6) or 0.0)


def test_perplexity_of_a_hopeless_loss_is_infinite_and_not_an_error():
    assert perplexity_of(np.array([0.0, 1e5])).tolist() == [1.0, math.inf]


def test_a_plot_of_nothing_or_of_one_point_still_has_an_extent():
    assert extent(()) == (0.0, 1.0)
    left, right = extent((series([7]),))
    assert left < 0 < right


@given(st.floats(-1e12, 1e12), st.sampled_from(["number", "percent", "share", "bytes"]))
def test_labels_are_short(value, unit):
    assert 1 <= len(label(value, unit)) <= 13


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (350, "number", "350"),
        (2000, "number", "2k"),
        (1_500_000, "number", "1.5M"),
        (0.25, "number", "0.25"),
        (0.6, "share", "60%"),
        (187, "percent", "187%"),
        (1.2e9, "bytes", "1.2 GB"),
    ],
)
def test_labels_are_what_one_would_write(value, unit, text):
    assert label(value, unit) == text


@given(st.lists(st.floats(allow_nan=True), max_size=100), st.integers(0, 20))
def test_a_sparkline_fits_its_width(y, width):
    assert len(sparkline(np.array(y), width)) <= width


def test_a_sparkline_shows_the_course():
    assert sparkline(np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([3.0, 3.0]), 8) == "▁▁"


def test_one_axis_writes_its_thousands_in_one_way():
    plot = Plot((Series("a", np.array([0.0, 3000.0]), np.array([1.0, 2.0])),))
    texts = [text for _, text in lay_out(plot, 60, 10).x_ticks]
    assert all(text.endswith("k") for text in texts if float(text.rstrip("k")) and len(text) > 3)
    assert "1500" not in texts


def test_a_value_that_stays_the_same_has_ticks_near_it_on_a_log_axis():
    for value, unit in ((4400.0, "number"), (0.08, "share"), (8.5, "percent")):
        plot = Plot((series([value] * 9),), unit=unit, log=True)
        ticks = lay_out(plot, 60, 12).y_ticks
        assert ticks
        for at, _ in ticks:
            assert 0.5 < 10**at / value < 2


def test_no_tick_lies_beyond_what_a_share_can_be():
    five = tuple(Moment(5, "▼", colour) for colour in range(5))
    for rows in (5, 8, 12, 20):
        for log in (False, True):
            shares = Plot((series([0.2, 0.9]),), five, unit="share", log=log)
            picture = lay_out(shares, 60, rows)
            assert picture.y_ticks
            for at, text in picture.y_ticks:
                assert 0 <= (10**at if log else at) <= 1, text
        assert "100%" in [text for _, text in lay_out(replace(shares, log=False), 60, 12).y_ticks]
        idle = lay_out(Plot((series([0.0] * 9),), unit="percent"), 60, rows)
        assert idle.y_ticks[0] == (0.0, "0%") or idle.y_ticks[0][1] == "0.0%"


def test_moments_of_many_runs_take_a_third_of_the_rows():
    plot = Plot((series([0, 1]),), tuple(Moment(5, "▼", colour) for colour in range(5)))
    low, high = lay_out(plot, 60, 9).y
    assert (high - low) * 6 / 9 == pytest.approx(1.08)


def test_the_labels_of_one_axis_have_as_many_decimals():
    sizes = lay_out(Plot((series([163_400, 164_100]),), unit="bytes"), 60, 12).y_ticks
    assert "164.0 kB" in [text for _, text in sizes]
    short = Series("s", np.array([0, 0.1, 0.2]), np.arange(3.0))
    minutes = lay_out(Plot((short,), x_axis="time"), 60, 12).x_ticks
    assert "0.10m" in [text for _, text in minutes]


@pytest.mark.parametrize("width", [1, 7, 60, 91])
@pytest.mark.parametrize("points", [2, 10, 300])
def test_the_cursor_on_a_point_s_cell_reads_the_newest_point_in_it(width, points):
    rng = np.random.default_rng(points)
    x = np.cumsum(rng.random(points))
    one = Series("s", x, x)
    picture = lay_out(Plot((one,)), width, 12, ACROSS)
    columns = np.array([picture.column_of(float(at)) for at in x])
    trace = picture.traces[0]
    assert set(trace.columns // ACROSS) <= set(columns)
    for column in range(picture.columns):
        before = x[columns <= column]
        assert value_at(one, picture.x_at(column)) == before[-1]
        assert picture.column_of(picture.x_at(column)) == column


def test_steps_are_whole_numbers():
    one = Series("s", np.array([394.0]), np.array([3.0]))
    assert [text for _, text in lay_out(Plot((one,)), 60, 12).x_ticks] == ["394"]


def test_outliers_leave_no_room_below_the_other_values():
    y = np.concatenate((np.linspace(9, 4.7, 5), np.linspace(4.65, 4.5, 200)))
    low, high = lay_out(Plot((series(y),), clipped=True), 60, 12).y
    assert high < 4.8
    assert 4.48 < low < 4.5


def test_the_first_values_of_one_run_do_not_flatten_the_others_beside_it():
    # As many points as two trainings of 230 and 500 steps have.
    steep = series([2534, 1213, 865, 715, 637, 569, 527, 508, 472, 427, *range(395, 185, -10)])
    picture = lay_out(
        Plot((steep, series(np.linspace(173, 110, 60))), log=True, clipped=True), 60, 12
    )
    assert picture.clipped
    assert 10 ** picture.y[1] < 1000
    # A run that lies above the others is no outlier.
    above = (series([500, 510] * 9), *(series([100, 101] * 30) for _ in range(20)))
    assert not lay_out(Plot(above, clipped=True), 60, 12).clipped


@pytest.mark.parametrize("log", [False, True])
def test_outliers_over_a_curve_that_stays_the_same_are_left_out(log):
    flat = Plot((series([10_000, *[100] * 49]),), log=log, clipped=True)
    picture = lay_out(flat, 60, 12)
    low, high = (10**end if log else end for end in picture.y)
    assert 40 < low < 100 < high < 200
    assert picture.clipped


def test_the_axis_of_bytes_begins_at_0_at_the_lowest():
    assert lay_out(Plot((series([0.0, 0.0]),), unit="bytes"), 40, 10).y[0] == 0.0
