"""The panel of plots where what it shows changes under it: zoom, cursor, legend, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import bench_of, opened, press, screen_of, settled, until, words
from textual.pilot import Pilot
from textual.widgets import Static
from workbench_world import NOON, sparsity, training

from lmbench.report import numbers
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import TEST, Series
from lmbench.session import EventWriter, Run
from lmbench.session import events as ev
from lmbench.tui.bench.saved_state import restored
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.plots.legend import legend
from lmbench.tui.plots.panel import PlotPanel
from lmbench.tui.plots.view import View, inside
from lmbench.tui.settings.screen import SettingsScreen

LONG, SHORT = "001-train", "002-train"


def panel(pilot: Pilot[None]) -> PlotPanel:
    return pilot.app.screen.query_one(PlotPanel)


def trained(run: Run, steps: int) -> None:
    writer = EventWriter(run.events_path)
    training(writer, steps=steps, of=steps, epochs=2, floor=4.5, t=NOON, lr=20.0)
    writer.close()


@pytest.fixture
def two(world: Any) -> Any:
    """A training of 3000 steps, and one of 1000."""
    trained(world.new("train", "long", status="finished"), 3000)
    trained(world.new("train", "short", status="finished"), 1000)
    return world


def is_drawn(pilot: Pilot[None]) -> bool:
    return any(
        "⠀" < sign <= "⣿" for line in panel(pilot)._shown.picture.lines for sign in line.plain
    )


# -- zoom and cursor ---------------------------------------------------------------------------


async def test_plus_zooms_a_shorter_run_though_the_cursor_stood_beyond_its_end(two):
    async with opened(two, "2", "left", "left", run=LONG) as pilot:
        at = panel(pilot).cursor_x
        assert at is not None
        assert at > 2800
        bench_of(pilot).select(SHORT)
        await press(pilot)
        assert panel(pilot).cursor_x is None
        await press(pilot, "plus")
        window = panel(pilot).plot().window
        assert window is not None
        assert 10 < window[0] < window[1] < 1000
        assert is_drawn(pilot)


async def test_a_window_beyond_a_shorter_run_shows_all_of_it_and_comes_back_with_the_longer(two):
    async with opened(two, "2", "end", "plus", "plus", "plus", "plus", run=LONG) as pilot:
        window = panel(pilot).plot().window
        assert window is not None
        assert window[0] > 1000
        bench_of(pilot).select(SHORT)
        await press(pilot)
        assert panel(pilot).plot().window is None
        assert is_drawn(pilot)
        assert "zoomed" not in words(pilot)
        bench_of(pilot).select(LONG)
        await press(pilot)
        assert panel(pilot).plot().window == window
        assert "zoomed" in words(pilot)


async def test_of_a_window_only_the_part_with_points_is_shown(two):
    async with opened(two, "2", "plus", run=LONG) as pilot:
        window = panel(pilot).plot().window
        assert window is not None
        assert 10 < window[0] < 1000 < window[1]
        bench_of(pilot).select(SHORT)
        await press(pilot)
        assert panel(pilot).plot().window == (window[0], 1000)
        await press(pilot, "minus", "minus", "minus", "minus")
        assert panel(pilot).plot().window is None


async def test_the_cursor_starts_at_the_end_of_a_run_that_the_old_one_lies_beyond(two):
    async with opened(two, "2", "end", run=LONG) as pilot:
        bench_of(pilot).select(SHORT)
        await press(pilot)
        assert "step" not in panel(pilot)._shown.lines[0].plain
        await press(pilot, "left")
        assert panel(pilot).cursor_x == 1000
        assert "step 1,000" in words(pilot)


@pytest.mark.parametrize(
    "window, seen",
    [
        (None, None),
        ((2.0, 3.0), (2.0, 3.0)),
        ((0.0, 3.0), (1.0, 3.0)),
        ((1.0, 5.0), None),
        ((0.0, 9.0), None),
        ((6.0, 9.0), None),
        ((5.0, 9.0), None),
        ((3.0, 2.0), None),
    ],
)
def test_a_window_is_cut_to_the_whole(window, seen):
    assert inside(window, (1.0, 5.0)) == seen


# -- the legend --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
async def test_the_cursor_reads_every_tensor_and_its_target(full, size):
    keys = ("right_square_bracket", "right_square_bracket", "t", "end", "left")
    async with opened(full, "2", *keys, run="002-prune", size=size) as pilot:
        lines = [line.plain for line in panel(pilot)._shown.lines]
        head = " ".join(lines[: len(lines) - len(panel(pilot)._shown.picture.lines)])
        for name in ("encoder", "ih_l0", "hh_l0", "ih_l1", "hh_l1"):
            assert name in head
        assert head.count("→") == 5
        assert "…" not in head
        assert " +" not in head
        assert is_drawn(pilot)


def curves(count: int, style: Any = "line") -> tuple[Series, ...]:
    x, y = np.array([0.0, 9.0]), np.array([0.25, 0.5])
    return tuple(Series(f"curve {n}", x, y, "●", style=style) for n in range(count))


def test_without_a_cursor_the_legend_is_short_and_says_how_many_it_leaves_out():
    lines = legend(Plot(curves(9)), 40, 20, None)
    assert len(lines) == 1
    assert lines[-1].plain.rstrip().endswith("+7")
    high = legend(Plot(curves(9)), 40, 28, None)
    assert len(high) == 3
    assert high[-1].plain.rstrip().endswith("+3")


@pytest.mark.parametrize("width", range(20, 60))
def test_the_legend_shows_no_part_of_a_figure(width):
    (line,) = legend(Plot(curves(9)), width, 20, None)
    assert {*re.findall(r"curve \d (\S*)", line.plain)} == {"0.5"}
    assert re.search(r"\+\d$", line.plain.rstrip())


def test_targets_of_tensors_that_are_not_drawn_share_an_entry():
    x = np.array([0.0, 9.0])
    targets = [Series(f"{n} target", x, x / 9 * (n > 2), style="thin") for n in range(5)]
    plot = Plot((*curves(1), *targets))
    text = " ".join(line.plain for line in legend(plot, 60, 20, 9.0))
    assert text.split()[-4:] == ["┄", "targets", "0", "1"]


def test_the_targets_of_several_runs_are_said_run_by_run():
    x = np.array([0.0, 9.0])
    runs = ("2 agp", "3 agp a")
    totals = [Series(f"{run} total", x, x, "●") for run in runs]
    targets = [
        Series(f"{run} {n} target", x, x * place + n, style="thin")
        for place, run in enumerate(runs)
        for n in range(2)
    ]
    text = " ".join(line.plain for line in legend(Plot((*totals, *targets)), 60, 20, 9.0))
    assert " ".join(text.split()).endswith("┄ 2 agp targets 0 1 ┄ 3 agp a targets 9 10")


@pytest.mark.parametrize("width", range(20, 60))
def test_of_many_targets_the_legend_cuts_none(width):
    x = np.array([0.0, 9.0])
    targets = [Series(f"{n} target", x, x + 10.125 * n, style="thin") for n in range(6)]
    lines = legend(Plot((*curves(1), *targets)), width, 20, 9.0)
    entry = next(line.plain for line in lines if "targets" in line.plain)
    figures = entry.split("targets")[1].split()
    whole = [numbers.short(9 + 10.125 * n) for n in range(6)]
    shown = [figure for figure in figures if not figure.startswith("+")]
    assert shown == whole[: len(shown)]
    assert figures[len(shown) :] == ([f"+{6 - len(shown)}"] if len(shown) < 6 else [])


@pytest.mark.parametrize("cursor", [None, 9.0])
def test_a_long_name_is_shortened_and_not_its_figure(cursor):
    x = np.array([0.0, 9.0])
    named = Series("2 " + "lstm-2x200-tied-" * 4, x, x + 0.25, "●")
    lines = legend(Plot((named, *curves(2))), 40, 20, cursor)
    assert any(line.plain.rstrip().split("  ")[0].endswith("… 9.25") for line in lines)


def test_with_a_cursor_the_legend_has_the_rows_that_it_needs():
    lines = legend(Plot(curves(9)), 40, 20, 3.0)
    assert all(f"curve {n} 0.25" in "".join(line.plain for line in lines) for n in range(9))
    assert lines[0].plain.startswith(" step 3")


def test_with_a_cursor_the_legend_leaves_half_of_the_panel_to_the_picture():
    lines = legend(Plot(curves(99)), 40, 20, 3.0)
    assert len(lines) == 10
    assert "+" in lines[-1].plain


@pytest.mark.parametrize("smooth", range(4))
@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
async def test_the_foot_of_the_frame_cuts_no_name(full, size, smooth):
    full.session.run(1).update(name="dense-with-a-long-name")
    async with opened(full, "2", *["m"] * smooth, "plus", "f", run="003-quantize", size=size) as p:
        foot = str(panel(p).border_subtitle)
        assert foot in words(p)
        # That the picture may be of another run than the selected one is said in any width.
        assert foot.startswith("held · log · step")
        if size[0] == 200:
            assert foot.endswith(" · zoomed · of 1 dense-with-a-long-name")


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
async def test_the_legend_begins_with_the_selected_run_though_it_has_but_a_level(full, size):
    async with opened(full, run="003-quantize", size=size) as pilot:
        assert panel(pilot)._shown.lines[0].plain.strip().startswith("▲ 3 ")


def test_before_its_only_point_a_curve_has_no_value_but_a_test_score_has():
    x, y = np.array([6.0]), np.array([0.5])
    plot = Plot((Series("valid", x, y, "●"), Series("test", x, y, TEST)))
    lines = " ".join(line.plain for line in legend(plot, 40, 20, 3.0))
    assert "valid –" in lines
    assert "test 0.5" in lines


def test_a_thin_series_of_its_own_is_read_at_the_cursor_only():
    plot = Plot(curves(1, "thin"))
    assert legend(plot, 40, 20, None) == []
    assert "┄ curve 0 0.25" in legend(plot, 40, 20, 3.0)[0].plain


@pytest.mark.parametrize(
    "key, why", [("t", "t is for the plot of sparsity"), ("0", "everything is shown")]
)
async def test_a_key_of_the_plot_that_can_do_nothing_says_why(full, key, why):
    async with opened(full, "2", key, run="001-train") as pilot:
        assert why in bench_of(pilot).recent_message


@pytest.mark.parametrize(
    "kept", [{"logs": [[]]}, {"window": [0, 10**400]}, {"window": ["0", 1]}, {"kind": []}, [], None]
)
def test_a_view_that_is_kept_and_damaged_becomes_the_default(kept):
    view = restored(View, kept)
    assert (view.kind, view.window) == ("perplexity", None)


async def test_t_is_offered_only_where_one_run_prunes(full):
    other = full.new("prune", "agp-90", full.session.run(1), status="finished")
    writer = EventWriter(other.events_path)
    training(writer, steps=3000, of=6000, epochs=6, floor=4.6, t=NOON, lr=10.0)
    sparsity(writer, upto=3000, of=6000, t=NOON)
    writer.close()
    noted = ev.Sparsity(step=1000, epoch=1, tensors=(), parameters=9, nonzero=9, total=0.0)
    full.write(full.session.run(1), noted)
    turns = ("right_square_bracket", "right_square_bracket")
    async with opened(full, "2", *turns, run="002-prune", size=(200, 50)) as pilot:
        # A dense training notes its sparsity, too.
        bench_of(pilot).mark(("001-train",))
        await press(pilot, "t")
        labels = [series.label for series in panel(pilot).plot().series]
        assert {"1 dense total", "encoder.weight", "encoder.weight target"} < set(labels)
        await press(pilot, "t")
        bench_of(pilot).mark((other.path.name,))
        await press(pilot, "t")
        assert not panel(pilot).view.per_tensor
        # Two runs' targets of one tensor are not the same line.
        labels = [series.label for series in panel(pilot).plot().series]
        assert len(set(labels)) == len(labels) == 12


# -- files -------------------------------------------------------------------------------------


NAME = ("e", *["backspace"] * 20, *"out", "full_stop")


async def test_the_whole_path_of_what_was_written_is_said(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with opened(full, "2", *NAME, *"csv", "enter", run="001-train") as pilot:
        path = tmp_path / "out.csv"
        await until(pilot, lambda: bench_of(pilot).last_message == f"wrote {path}")
        lines = path.read_text().splitlines()
        assert lines[0] == "series,step,value,smoothed"
        assert len(lines) > 360


async def test_a_file_is_replaced_only_when_one_says_so(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out.csv"
    path.write_text("mine")
    async with opened(full, "2", *NAME, *"csv", "enter", run="001-train") as pilot:
        asked = [str(part.render()) for part in screen_of(pilot, QuestionDialog).query(Static)]
        assert f"{path} is there already." in asked
        await press(pilot, "escape")
        screen_of(pilot, MainScreen)
        await pilot.app.workers.wait_for_complete()
        assert path.read_text() == "mine"
        await press(pilot, *NAME, *"csv", "enter", "r")
        await until(pilot, lambda: bench_of(pilot).last_message == f"wrote {path}")
        assert path.read_text() != "mine"


async def test_a_file_that_cannot_be_written_is_left_and_not_said_to_be_written(
    full, tmp_path, monkeypatch
):
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmbench.report.plots.export.write_atomic", refuse)
    (tmp_path / "out.svg").write_text("mine")
    async with opened(full, "2", *NAME, *"svg", "enter", "r", run="001-train") as pilot:
        await until(pilot, lambda: "No space left" in words(pilot))
        assert not bench_of(pilot).last_message.startswith("wrote")
        assert (tmp_path / "out.svg").read_text() == "mine"


async def test_a_narrow_panel_exports_names_and_not_numbers_alone(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with opened(full, "2", *NAME, *"svg", "enter", run="001-train") as pilot:
        assert "1 valid" in words(pilot)
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("wrote"))
        assert ">1 dense valid</text>" in (tmp_path / "out.svg").read_text()


async def test_a_picture_on_white_has_the_colours_for_it_in_every_theme(
    full, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    async with opened(full, run="001-train") as pilot:
        bench = bench_of(pilot)
        bench.theme = "lmbench-contrast"
        await press(pilot, "2", *NAME, *"svg", "enter")
        await until(pilot, lambda: bench.last_message.startswith("wrote"))
        picture = (tmp_path / "out.svg").read_text()
        red, green, blue = bench.colour_on_white("series-1")  # type: ignore[misc]
        assert f"#{red:02x}{green:02x}{blue:02x}" in picture
        assert bench.colour("series-1") != (red, green, blue)
        assert picture.count('"#ffffff"') == 1


async def test_a_folder_is_no_file_to_write_to(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv").mkdir()
    async with opened(full, "2", *NAME, *"csv", "enter", run="001-train") as pilot:
        assert "out.csv is a folder" in words(pilot)


# -- keys --------------------------------------------------------------------------------------


async def test_angle_brackets_turn_from_plot_to_plot_too(two):
    async with opened(two, "2", "greater_than_sign", run=LONG) as pilot:
        assert panel(pilot).view.kind == "loss"
        await press(pilot, "less_than_sign")
        assert panel(pilot).view.kind == "perplexity"


async def test_escape_without_a_cursor_goes_to_the_runs_and_says_nothing(two):
    async with opened(two, "2", run=LONG) as pilot:
        before = bench_of(pilot).last_message
        await press(pilot, "escape")
        assert not panel(pilot).has_focus_within
        assert pilot.app.screen.query_one("#runs").has_focus_within
        assert bench_of(pilot).last_message == before


async def test_a_comma_opens_the_settings_as_everywhere(two):
    async with opened(two, "2", "comma", run=LONG) as pilot:
        screen_of(pilot, SettingsScreen)


async def test_the_curves_take_the_new_theme_s_colours_at_once(full):
    async with opened(full, run="001-train") as pilot:
        app = bench_of(pilot)
        await press(pilot, "ctrl+t")
        colours = {str(span.style) for line in panel(pilot)._shown.lines for span in line.spans}
        colour = app.colour("series-1")
        assert isinstance(colour, tuple)
        red, green, blue = colour
        assert any(
            f"{red:02x}{green:02x}{blue:02x}" in c or f"{red},{green},{blue}" in c for c in colours
        )


async def test_a_shows_the_highest_values_that_are_left_out_of_the_plot(full):
    run = full.new("train", "steep", status="finished")
    writer = EventWriter(run.events_path)
    for number in range(1, 401):
        loss = 9.0 if number < 5 else 4.5
        writer.write(
            ev.Step(
                t=NOON + number, step=number, epoch=1, batch=number, loss=loss, ppl=1.0, lr=1.0,
                grad_norm=1.0, tokens_per_s=1.0,
            )
        )  # fmt: skip
    writer.close()
    async with opened(full, run=run.path.name) as pilot:
        assert panel(pilot)._shown.picture.clipped
        assert panel(pilot)._shown.picture.y[1] < 3
        await press(pilot, "2", "a")
        assert not panel(pilot)._shown.picture.clipped
        assert panel(pilot)._shown.picture.y[1] > 3


async def test_a_where_nothing_is_left_out_says_so(two):
    rates = ["right_square_bracket"] * 3
    async with opened(two, "2", *rates, "a", run=SHORT) as pilot:
        assert panel(pilot).view.kind == "lr"
        assert bench_of(pilot).recent_message.startswith("every value is shown")
        assert panel(pilot).view.clipped


async def test_a_maximised_plot_names_no_fewer_tensors(full):
    async with opened(full, "2", *["right_square_bracket"] * 2, "t", run="002-prune") as pilot:
        left_out = re.search(r" \+(\d)", panel(pilot)._shown.lines[0].plain)
        assert left_out
        await press(pilot, "z")
        whole = re.search(r" \+(\d)", panel(pilot)._shown.lines[0].plain)
        assert whole is None or int(whole[1]) < int(left_out[1])


async def test_going_to_and_fro_between_runs_draws_each_once_until_something_changes(
    two, monkeypatch
):
    drawn: list[str] = []
    real = PlotPanel._draw
    monkeypatch.setattr(PlotPanel, "_draw", lambda *a: (drawn.append("a plot"), real(*a))[1])
    async with opened(two, size=(200, 50), run=LONG) as pilot:
        lines = [line.plain for line in panel(pilot)._shown.lines]
        drawn.clear()
        for run in (SHORT, LONG, SHORT, LONG):
            bench_of(pilot).select(run)
            await press(pilot)
        assert drawn == []
        assert [line.plain for line in panel(pilot)._shown.lines] == lines
        two.session.run(1).update(name="renamed")
        await settled(pilot)
        assert len(drawn) == 1
        assert any("renamed" in line.plain for line in panel(pilot)._shown.lines)


async def test_a_run_that_leaves_the_queue_is_no_longer_said_to_wait(world):
    run = world.new("train", "next", status="queued")
    async with opened(world, size=(200, 50), run=run.path.name) as pilot:
        assert "waits in the queue" in words(pilot)
        await press(pilot, "2", "0")
        assert bench_of(pilot).recent_message == "there is no curve"
        run.update(status="stopped")
        await settled(pilot)
        assert "waits in the queue" not in words(pilot)
