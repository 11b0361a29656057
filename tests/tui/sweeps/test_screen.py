"""The sweep's screen by keys alone: its table, its plots, and the sweep as a whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
from driving import bench_of, opened, press_in_turn, screen_of, settled, until, words
from study_world import REASON, StudyWorld
from textual.pilot import Pilot
from textual.widgets import Static

from lmbench.jobs.control_file import asked
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.grid import Cell, Grid
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.sweeps.columns import TableColumn, fitted
from lmbench.tui.sweeps.panels import FrontPanel, ImportancePanel, SlicePanel, SweepTable
from lmbench.tui.sweeps.screen import SweepScreen

pytestmark = pytest.mark.usefixtures("started")


def titles(pilot: Pilot[None]) -> list[str]:
    return [column.title for column in screen_of(pilot, SweepScreen).query_one(Grid).columns]


def keys_of(pilot: Pilot[None]) -> list[str]:
    return [key for key, _ in screen_of(pilot, SweepScreen).query_one(Grid).rows]


def cells(pilot: Pilot[None], key: str) -> dict[str, str]:
    """The row of this run, by the columns' titles."""
    grid = screen_of(pilot, SweepScreen).query_one(Grid)
    row = dict(grid.rows)[key]
    return {c.title: cell.text for c, cell in zip(grid.columns, row, strict=True)}


async def test_w_shows_the_runs_with_the_columns_that_vary_and_no_other(study):
    async with opened(study, "W", size=(200, 50)) as pilot:
        shown = titles(pilot)
        assert shown[:5] == ["run", "stage", "lr", "compress", "seed"]
        assert "epochs" not in shown
        assert "where" not in shown
        assert len(keys_of(pilot)) == 18
        row = cells(pilot, "009-prune")
        assert (row["lr"], row["compress"], row["seed"]) == ("5", "agp-50", "1111")
        assert (row["valid"], row["size"], row["rung"]) == ("87.2", "≈3.3 kB", "1 (ep 2)")
        assert cells(pilot, "003-train")["why it ended"] == REASON


async def test_where_a_run_is_stands_there_and_in_the_runs_panel_where_it_is_not_here(study):
    study.live(study.runs[16], place="slurm", host="node3", device="cuda")
    async with opened(study, size=(120, 30), run="016-prune") as pilot:
        assert "slurm node3 cuda" in words(pilot)
        await press_in_turn(pilot, "W")
        assert cells(pilot, "016-prune")["where"] == "slurm node3 cuda"
        assert cells(pilot, "001-train")["where"] == ""


async def test_the_line_below_says_why_a_run_was_stopped(study):
    async with opened(study, "W", "down", "down", "down", "down") as pilot:
        detail = pilot.app.screen.query_one("#detail", Static)
        assert str(detail.content) == f"3 train 20 s1111 · {REASON}"


async def test_t_sorts_and_rows_without_a_figure_stand_last(study):
    async with opened(study, "W", size=(120, 30)) as pilot:
        screen = screen_of(pilot, SweepScreen)
        while screen.study.order.by != "valid":
            await press_in_turn(pilot, "t")
        assert keys_of(pilot)[0] == "002-train"
        assert set(keys_of(pilot)[-2:]) <= {f"0{n}-prune" for n in (11, 12, 15, 16, 17, 18)}
        assert bench_of(pilot).last_message == "sorted by valid, ascending"
        await press_in_turn(pilot, "T")
        assert bench_of(pilot).last_message == "sorted by valid, descending"
        assert keys_of(pilot)[0] in ("003-train", "006-train")
        assert bench_of(pilot).recall("sweep")["sort"] == "valid"


async def test_the_order_is_that_of_the_stages_where_the_table_lacks_the_column(study):
    async with opened(study, "W", size=(200, 50)) as pilot:
        screen = screen_of(pilot, SweepScreen)
        while screen.study.order.by != "seed":
            await press_in_turn(pilot, "t")
        await press_in_turn(pilot, "a", "T")
        assert bench_of(pilot).last_message == "in the order of the stages, the last first"
        await press_in_turn(pilot, "a", "T")
        assert bench_of(pilot).last_message == "sorted by seed, ascending"


async def test_the_filter_takes_words_of_values_and_status_and_escape_takes_it_away(study):
    async with opened(study, "W", "slash", *"agp-50 fin", "enter") as pilot:
        assert keys_of(pilot) == ["007-prune", "013-prune", "009-prune"]
        await press_in_turn(pilot, "slash", "escape")
        assert len(keys_of(pilot)) == 18


async def test_a_gives_mean_and_deviation_over_the_seeds(study):
    async with opened(study, "W", "a", size=(200, 50)) as pilot:
        assert len(keys_of(pilot)) == 9
        assert "seed" not in titles(pilot)
        row = cells(pilot, "002-train")
        assert (row["runs"], row["valid"]) == ("2 of 2", "83.4 ± 0.6")
        assert row["against the best"] == "best"
        assert cells(pilot, "009-prune")["valid"] == "87.2"
        assert cells(pilot, "003-train")["valid"] == ""


async def test_a_leaves_the_cursor_on_the_setting_of_the_run(study):
    async with opened(study, "W", size=(200, 50)) as pilot:
        grid, looked_at = pilot.app.screen.query_one(Grid), screen_of(pilot, SweepScreen).study
        keys = [key for key in keys_of(pilot) if key.endswith("prune")]
        await press_in_turn(pilot, *["down"] * keys_of(pilot).index(keys[-1]))
        before = looked_at.cursor
        assert before is not None
        assert len(before.setting.runs) > 1
        await press_in_turn(pilot, "a")
        assert looked_at.cursor is not None
        assert looked_at.cursor.setting.runs == before.setting.runs
        assert grid.cursor_key != keys[-1]


async def test_the_table_follows_the_runs(study):
    async with opened(study, "W") as pilot:
        study.finish(study.runs[16])
        await settled(pilot)
        await until(pilot, lambda: cells(pilot, "016-prune")["status"] == "✓ finished")
        await until(pilot, lambda: "10 finished" in words(pilot))


async def test_enter_goes_to_the_run(study):
    async with opened(study, "W", "down", "enter") as pilot:
        screen_of(pilot, MainScreen)
        assert bench_of(pilot).selected == "004-train"


async def test_capital_q_goes_on_with_the_run_under_the_cursor(study):
    async with opened(study, "W", "down", "Q") as pilot:
        form = screen_of(pilot, NewRunScreen)
        assert form.origin is not None
        assert (form.origin.key, form.given) == ("004-train", {"preset": "int8-best"})


async def test_of_a_run_that_has_not_finished_q_says_why_it_cannot_go_on(study):
    async with opened(study, "W", "slash", *"queued", "enter", "Q") as pilot:
        screen_of(pilot, SweepScreen)
        assert "16 prune 5 agp-80 s1112 has not finished" in bench_of(pilot).recent_message


# -- the plots -----------------------------------------------------------------------------------


async def test_narrow_the_plots_share_a_place_and_wide_they_stand_side_by_side(study):
    async with opened(study, "W", "right_square_bracket") as pilot:
        screen = screen_of(pilot, SweepScreen)
        assert screen.query_one(ImportancePanel).is_in_view
        assert not screen.query_one(FrontPanel).is_in_view
        await pilot.resize_terminal(120, 30)
        await settled(pilot)
        for panel in (FrontPanel, ImportancePanel, SlicePanel):
            assert screen.query_one(panel).is_in_view


async def test_the_front_has_error_bars_and_goes_by_size_or_sparsity(study):
    async with opened(study, "W") as pilot:
        state = screen_of(pilot, SweepScreen).study
        plot = state.front(lambda name: None)
        assert plot is not None
        assert any(series.label == "train 5 ± 0.57" for series in plot.series)
        assert plot.series[-1].x.tolist() == [1680.0, 3300.0, 6000.0]
        await press_in_turn(pilot, "b")
        assert "by sparsity" in words(pilot)
        plot = state.front(lambda name: None)
        assert plot is not None
        assert plot.series[-1].x.tolist() == [0.0, 50.0, 80.0]
        await press_in_turn(pilot, "x")
        assert "test ppl by sparsity" in words(pilot)


async def test_importance_and_slice_are_of_the_stage_under_the_cursor(study):
    async with opened(study, "W", "end", size=(120, 30)) as pilot:
        state = screen_of(pilot, SweepScreen).study
        assert (state.stage, state.axes) == ("prune", ["lr", "compress"])
        importances, asked = state.importances()
        assert not asked
        assert set(importances) == {"lr", "compress"}
        assert "spread of the means" in words(pilot)
        assert [level.words for level in state.levels()] == ["1", "5", "20"]
        await press_in_turn(pilot, "right")
        assert [level.words for level in state.levels()] == ["agp-50", "agp-80"]
        await press_in_turn(pilot, "home")
        assert state.axes == ["lr"]


async def test_axes_that_have_no_room_are_counted(study, monkeypatch):
    async with opened(study, "W", "right_square_bracket") as pilot:
        state = screen_of(pilot, SweepScreen).study
        many = {f"axis {n}": float(n) for n in range(40)}
        monkeypatch.setattr(type(state), "importances", lambda _: (many, False))
        panel = pilot.app.screen.query_one(ImportancePanel)
        lines = panel.picture().plain.splitlines()
        assert len(lines) == panel.content_size.height
        assert lines[-1] == f"… {41 - len(lines) + 1} more"


async def test_ped_anova_says_how_many_settings_it_wants(study):
    async with opened(study, "W", "i") as pilot:
        assert "needs 10 settings" in bench_of(pilot).recent_message


# -- the whole sweep -----------------------------------------------------------------------------


async def test_p_asks_the_run_at_work_to_pause(study):
    async with opened(study, "W", "p") as pilot:
        assert bench_of(pilot).last_message == "1 run asked to pause"
        assert asked(study.runs[14]) == ["pause"]


async def test_s_stops_the_sweep_once_y_has_answered(study):
    async with opened(study, "W", "s", "s") as pilot:
        screen_of(pilot, QuestionDialog)
        assert study.runs[16].status() == "queued"
        await press_in_turn(pilot, "y")
        await until(pilot, lambda: study.runs[16].status() == "stopped")
        assert asked(study.runs[14]) == ["stop"]
        assert bench_of(pilot).last_message == "2 runs stopped or left the queue"


async def test_r_goes_on_with_what_was_stopped_and_with_failed_runs_if_they_are_wanted(
    study, begun: list[Any]
):
    study.runs[14].update(status="stopped")
    async with opened(study, "W", "R", "l") as pilot:
        await until(pilot, lambda: study.runs[14].status() == "queued")
        assert len(begun) == 18
        assert study.runs[15].status() == "failed"
        # What early stopping has stopped stays so.
        assert study.runs[3].status() == "stopped"
        await settled(pilot)
        await press_in_turn(pilot, "R", "f")
        await until(pilot, lambda: study.runs[15].status() == "queued")


async def test_without_a_sweep_it_says_how_to_start_one(full):
    async with opened(full, "W") as pilot:
        assert "This session has no sweep." in words(pilot)
        assert "lmbench sweep start FILE" in words(pilot)
        assert "n new sweep" in words(pilot).splitlines()[-1]
        assert screen_of(pilot, SweepScreen).query_one(SweepTable).has_focus
        await press_in_turn(pilot, "escape")
        screen_of(pilot, MainScreen)


async def test_a_damaged_sweep_is_said_in_the_table_s_place(study: StudyWorld):
    (study.session.path / "sweep.yaml").write_text("version: 1\nstages: 3\n")
    async with opened(study, "W") as pilot:
        assert "stages: list at least one" in re.sub(r"\s+", " ", words(pilot))


def test_a_column_is_as_wide_as_its_words_are_on_the_screen():
    column = TableColumn("stage", lambda line: None, lambda line: Cell())
    assert fitted(column, [Cell("日本語の訓練")]).width == 12
