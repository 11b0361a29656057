"""The main screen by keys alone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import shutil
import time
from typing import Any

import pytest
from driving import (
    at_rest,
    bench_of,
    offered,
    opened,
    press,
    press_in_turn,
    screen_of,
    settled,
    until,
    words,
)
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input, Static
from workbench_world import NOON, step

from lmbench.config import TrainConfig
from lmbench.jobs.control_file import asked
from lmbench.session import events as ev
from lmbench.session import manage
from lmbench.session.store import Corpus
from lmbench.tui.app import Workbench
from lmbench.tui.bench import session_watcher
from lmbench.tui.bench.bench import SnapshotChanged
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.kit.dialog import QuestionDialog, TextDialog
from lmbench.tui.kit.filter_input import FilterInput
from lmbench.tui.kit.panel import Panel
from lmbench.tui.kit.status_lines import KeyBar
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.plots.panel import PlotPanel
from lmbench.tui.runs.tree import RunTree

NARROW, WIDE = (80, 24), (120, 30)


def tree(pilot: Pilot[None]) -> RunTree:
    return pilot.app.screen.query_one(RunTree)


def plots(pilot: Pilot[None]) -> PlotPanel:
    return pilot.app.screen.query_one(PlotPanel)


def shown(pilot: Pilot[None]) -> list[int]:
    return [view.id for view in tree(pilot).shown]


async def test_the_tree_shows_children_under_their_parents_and_selects_the_live_run(full):
    async with opened(full) as pilot:
        assert shown(pilot) == [1, 2, 4, 3]
        assert [view.depth for view in tree(pilot).shown] == [0, 1, 2, 1]
        assert bench_of(pilot).selected == "002-prune"
        assert pilot.app.focused is tree(pilot)


async def test_the_live_run_is_selected_also_where_others_are_read_first(full, monkeypatch):
    monkeypatch.setattr(session_watcher, "_FIRST_SLICE_S", -1.0)
    async with opened(full) as pilot:
        assert bench_of(pilot).selected == "002-prune"


@pytest.mark.parametrize("slice_s", [-1.0, 600.0])
async def test_the_newest_note_is_shown_however_slowly_runs_are_read(full, monkeypatch, slice_s):
    monkeypatch.setattr(session_watcher, "_FIRST_SLICE_S", slice_s)
    async with opened(full) as pilot:
        assert bench_of(pilot).last_message.startswith("2 agp-80: pruned 5 tensors")


async def test_what_the_user_selects_while_others_are_read_stays(full, monkeypatch):
    monkeypatch.setattr(session_watcher, "_FIRST_SLICE_S", -1.0)
    take = Workbench.on_snapshot_changed

    def take_and_select(app: Workbench, message: SnapshotChanged) -> None:
        take(app, message)
        if message.snapshot.unread == 2:
            app.select("003-quantize")

    monkeypatch.setattr(Workbench, "on_snapshot_changed", take_and_select)
    async with opened(full) as pilot:
        assert bench_of(pilot).selected == "003-quantize"


async def test_no_run_of_the_session_before_is_shown_under_another_s_name(full):
    """Their folders have the same names: a key would act on the other's run."""
    other = full.home.open_session("other")
    other.new_run(TrainConfig(), "train")
    async with opened(full, run="001-train") as pilot:
        bench = bench_of(pilot)
        bench.change_session(other)
        assert bench.selected_run is None
        assert bench.snapshot.runs == ()
        await settled(pilot)
        assert [view.run.session for view in bench.snapshot.runs] == [other]


async def test_no_panel_says_that_there_is_no_run_before_they_were_read(full, monkeypatch):
    async def unread(app: Workbench, *, defer_growth: bool) -> None: ...

    monkeypatch.setattr(Workbench, "_poll_once", unread)
    async with Workbench(full.home, full.session, follow=False).run_test(size=WIDE) as pilot:
        await at_rest(pilot)
        assert "Reading the runs" in words(pilot)
        assert "n starts" not in words(pilot)
        assert "A run is needed" not in words(pilot)


async def test_up_and_down_and_their_letters_move_the_selection(full):
    async with opened(full) as pilot:
        await press(pilot, "j")
        assert bench_of(pilot).selected == "004-quantize"
        await press(pilot, "down", "down", "down")
        assert bench_of(pilot).selected == "003-quantize"
        await press(pilot, "k", "up", "up", "up", "up")
        assert bench_of(pilot).selected == "001-train"
        await press(pilot, "G")
        assert bench_of(pilot).selected == "003-quantize"


async def test_slash_filters_as_one_types_and_escape_takes_the_filter_away(full):
    async with opened(full) as pilot:
        await press(pilot, "slash", *"int8")
        assert shown(pilot) == [4, 3]
        assert bench_of(pilot).selected in ("003-quantize", "004-quantize")
        await press(pilot, "enter")
        assert pilot.app.focused is tree(pilot)
        await press(pilot, "slash", "escape")
        assert shown(pilot) == [1, 2, 4, 3]
        assert not pilot.app.screen.query_one(FilterInput).value


async def test_escape_in_the_list_takes_the_filter_away(full):
    async with opened(full) as pilot:
        await press(pilot, "slash", *"int8", "enter", "escape")
        assert shown(pilot) == [1, 2, 4, 3]
        assert not pilot.app.screen.query_one(FilterInput).display
        assert pilot.app.focused is tree(pilot)


async def test_the_key_bar_offers_what_applies_while_the_filter_is_typed_or_a_dialog_is_open(full):
    async with opened(full, run="001-train") as pilot:
        bar = pilot.app.screen.query_one(KeyBar)
        assert "/ filter" in str(bar.render())
        await press(pilot, "slash")
        typing = str(bar.render())
        assert "/ filter" not in typing
        assert "no filter" in typing
        assert "⏎ to the list" in typing
        await press(pilot, "escape", "d")
        assert not str(bar.render()).strip()
        await press(pilot, "escape")
        assert "/ filter" in str(bar.render())


async def test_z_says_where_there_is_nothing_to_maximise(full):
    async with opened(full, "o", "z") as pilot:
        assert bench_of(pilot).recent_message == "there is no panel here to maximise"


async def test_a_new_run_that_the_filter_hides_takes_it_away(full):
    async with opened(full, "slash", *"dense", "enter") as pilot:
        app, tree = bench_of(pilot), pilot.app.screen.query_one(RunTree)
        assert [view.key for view in tree.shown] == ["001-train"]
        app.select(full.new("pack", "packed").path.name)
        await settled(pilot)
        assert app.selected == "005-pack"
        assert tree.cursor >= 0
        assert not pilot.app.screen.query_one(FilterInput).display
        await press(pilot, "slash", *"int8", "enter")
        full.session.run(1).update(name="another")
        await settled(pilot)
        assert len(tree.shown) == 2


async def test_a_filter_that_no_run_matches_says_so(full):
    async with opened(full) as pilot:
        await press(pilot, "slash", *"int9")
        assert shown(pilot) == []
        assert "No run matches the" in words(pilot)
        await press(pilot, "backspace")
        assert "No run matches" not in words(pilot)
        await press(pilot, "9", "escape")
        assert shown(pilot) == [1, 2, 4, 3]
        assert "No run matches" not in words(pilot)


async def test_t_sorts_by_one_figure_after_another(full):
    async with opened(full) as pilot:
        await press(pilot, "t")
        assert shown(pilot)[:2] == [1, 3]
        await press(pilot, "t")
        assert shown(pilot)[0] == 2
        await press(pilot, "t", "t")
        assert shown(pilot) == [4, 3, 2, 1]
        await press(pilot, "t")
        assert shown(pilot) == [1, 2, 4, 3]


async def test_space_marks_runs_and_u_unmarks_them_all(full):
    async with opened(full) as pilot:
        await press(pilot, "space", "up", "space")
        assert bench_of(pilot).marked == ("002-prune", "001-train")
        assert [run.id for run in plots(pilot).runs] == [1, 2]
        await press(pilot, "space")
        assert bench_of(pilot).marked == ("002-prune",)
        await press(pilot, "u")
        assert bench_of(pilot).marked == ()


async def test_p_asks_the_live_run_to_pause_and_a_paused_one_to_continue(full):
    run = full.session.run(2)
    async with opened(full) as pilot:
        await press(pilot, "p")
        assert asked(run) == ["pause"]
        run.update(status="paused")
        await settled(pilot)
        await press(pilot, "p")
        assert asked(run) == ["pause", "continue"]


async def test_a_finished_run_offers_neither_pause_nor_stop_nor_resume(full):
    async with opened(full) as pilot:
        await press(pilot, "up")
        assert not offered(pilot) & {"main.pause", "main.stop", "main.resume"}


async def test_r_renames_a_run_and_refuses_an_empty_name(full):
    async with opened(full) as pilot:
        await press(pilot, "up", "r")
        assert isinstance(pilot.app.screen, TextDialog)
        await press(pilot, *["backspace"] * 5, "enter")
        assert isinstance(pilot.app.screen, TextDialog)
        await press(pilot, *"base", "enter")
        await settled(pilot)
        assert full.session.run(1).read().name == "base"


async def test_d_asks_before_it_deletes_and_escape_keeps_the_run(full):
    run = full.session.run(3)
    async with opened(full) as pilot:
        await press(pilot, "G", "d")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        await press(pilot, "d", "d")
        assert run.path.exists(), "the key that asks is not the one that answers"
        assert "press y or escape" in words(pilot)
        await press(pilot, "enter")
        assert run.path.exists()
        await press(pilot, "d", "y")
        await pilot.app.workers.wait_for_complete()
        await settled(pilot)
        assert not run.path.exists()
        assert shown(pilot) == [1, 2, 4]
        assert bench_of(pilot).selected == "004-quantize"


async def test_the_question_names_the_runs_that_start_from_the_one_to_delete(full):
    full.new("prune", "later", full.session.run(1), status="queued")
    resumed = full.new("prune", "resumed", full.session.run(1), status="queued")
    (resumed.path / "last").mkdir()
    async with opened(full, "d", run="001-train") as pilot:
        assert "2, 3 and 6, which were made from it, stay." in words(pilot)
        assert "5 in the queue needs it and will fail." in words(pilot)
    full.new("train", "student", status="queued").update(config={"teacher": "1"})
    async with opened(full, "d", run="001-train") as pilot:
        assert "5 and 7 in the queue need it and will fail." in words(pilot)
    async with opened(full, "G", "d") as pilot:
        assert "made from" not in words(pilot)


async def test_a_live_run_cannot_be_deleted(full):
    async with opened(full) as pilot:
        await press(pilot, "d")
        assert isinstance(pilot.app.screen, MainScreen)
        assert "is running: s stops it first" in bench_of(pilot).recent_message


async def test_w_copies_the_command_and_f_the_path(full):
    full.session.run(1).update(config={"epochs": 6}, name="lstm-2x200", command="rm -rf ~\nlmbench")
    async with opened(full) as pilot:
        await press(pilot, "up", "w")
        assert pilot.app.clipboard == "lmbench train --epochs 6 --session demo"
        await press(pilot, "f")
        assert pilot.app.clipboard == str(full.session.run(1).path)


async def test_enter_on_a_failed_run_says_why_and_offers_to_resume(full):
    full.session.run(3).update(status="failed", reason="the loss is not finite at step 12")
    async with opened(full) as pilot:
        await press(pilot, "G", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        words = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "not finite at step 12" in words
        assert {b.name for b in pilot.app.screen.query("Button")} == {"resume", ""}


async def test_brackets_turn_from_plot_to_plot_and_round(full):
    async with opened(full) as pilot:
        await press(pilot, "2", "right_square_bracket")
        assert plots(pilot).view.kind == "loss"
        await press(pilot, "left_square_bracket", "left_square_bracket")
        assert plots(pilot).view.kind == "load"


async def test_y_x_m_change_scale_axis_and_smoothing(full):
    async with opened(full) as pilot:
        await press(pilot, "2", "y", "x", "m")
        view = plots(pilot).view
        assert (view.logs, view.x_axis, view.smoothing) == ((), "epoch", 0.9)


async def test_the_cursor_moves_by_columns_and_zoom_keeps_it_in_place(full):
    async with opened(full) as pilot:
        await press(pilot, "2", "left", "left")
        at = plots(pilot).cursor_x
        assert at is not None
        assert 3000 < at < 3660
        await press(pilot, "plus", "plus")
        window = plots(pilot).view.window
        assert window is not None
        assert plots(pilot).cursor_x == at
        assert window[0] < at < window[1]
        await press(pilot, "shift+left")
        panned = plots(pilot).view.window
        assert panned is not None
        assert panned[0] < window[0]
        await press(pilot, "0")
        assert plots(pilot).view.window is None
        await press(pilot, "escape")
        assert plots(pilot).cursor_x is None


async def test_f_holds_the_picture_while_the_run_goes_on(full):
    run = full.session.run(2)
    async with opened(full) as pilot:
        await press(pilot, "2", "f")
        held = plots(pilot).runs[0].curves
        full.write(run, step(3700, NOON + 1600))
        await settled(pilot)
        assert plots(pilot).runs[0].curves is held
        await press(pilot, "f")
        assert plots(pilot).runs[0].curves.steps["step"][-1] == 3700


async def test_t_shows_each_tensor_s_sparsity_in_the_sparsity_plot_only(full):
    async with opened(full) as pilot:
        await press(pilot, "2", "t")
        assert not plots(pilot).view.per_tensor
        await press(pilot, "right_square_bracket", "right_square_bracket", "t")
        assert plots(pilot).view.per_tensor
        assert len([s for s in plots(pilot).plot().series if s.style != "thin"]) == 5


@pytest.mark.parametrize(
    "size, order",
    [
        (NARROW, ["runs", "plots", "layers"]),
        (WIDE, ["runs", "plots", "layers", "generate"]),
    ],
)
async def test_tab_goes_round_the_panels_in_reading_order(full, size, order):
    async with opened(full, size=size) as pilot:
        seen = []
        for _ in range(len(order) + 1):
            seen.append(focused_panel(pilot))
            await press(pilot, "tab")
        assert seen == [*order, "runs"]
        await press(pilot, "shift+tab")
        assert focused_panel(pilot) == "runs"


async def test_digits_go_to_panels_and_bring_hidden_ones_up(full):
    async with opened(full) as pilot:
        for key, name in (("2", "plots"), ("3", "layers"), ("4", "generate"), ("5", "log")):
            await press(pilot, key)
            assert focused_panel(pilot) == name
            await press(pilot, "escape", "escape")
            assert focused_panel(pilot) == "runs"


async def test_growing_and_shrinking_moves_generation_and_keeps_everything_else(full):
    async with opened(full) as pilot:
        screen = pilot.app.screen
        assert not screen.query_one("#generate").display
        await pilot.resize_terminal(*WIDE)
        await pilot.pause()
        assert screen.query_one("#generate").display
        assert screen.query_one("#layers").display
        await pilot.resize_terminal(*NARROW)
        await pilot.pause()
        assert not screen.query_one("#generate").display
        assert tree(pilot).has_focus


async def test_the_log_tells_the_selected_run_s_story_and_x_shows_its_worker_s_log(full):
    full.session.run(2).log_path.write_text("torch says hello\n")
    async with opened(full) as pilot:
        await press(pilot, "5")
        assert "pruned 5 tensors" in log_text(pilot)
        await press(pilot, "x")
        await until(pilot, lambda: "torch says hello" in log_text(pilot))


async def test_the_worker_s_log_is_followed_line_by_line_without_any_event(full):
    path = full.session.run(2).log_path
    path.write_text("one\ntw")
    async with opened(full) as pilot:
        await press(pilot, "5", "x")
        await until(pilot, lambda: log_text(pilot).rstrip() == "one")
        with path.open("a") as log:
            log.write("o\nthree\n")
        await settled(pilot)
        await until(pilot, lambda: log_text(pilot).split() == ["one", "two", "three"])
        path.write_text("anew\n")
        await settled(pilot)
        await until(pilot, lambda: log_text(pilot).split() == ["anew"])


async def test_everything_is_where_it_was_when_the_workbench_comes_back(full):
    async with opened(full) as pilot:
        await press(pilot, "up", "space", "2", "right_square_bracket", "x", "5", "ctrl+t")
    workbench = json.loads((full.session.path / "session.json").read_text())["workbench"]
    assert workbench["selected"] == "001-train"
    async with opened(full) as pilot:
        bench = bench_of(pilot)
        assert bench.selected == "001-train"
        assert bench.marked == ("001-train",)
        assert plots(pilot).view.kind == "loss"
        assert plots(pilot).view.x_axis == "epoch"
        assert focused_panel(pilot) == "log"
        assert bench.theme == "lmbench-light"


async def test_a_theme_that_this_version_does_not_have_is_no_obstacle(full):
    record = full.session.read()
    full.session.write(record.model_copy(update={"workbench": {"theme": "from-the-future"}}))
    async with opened(full) as pilot:
        assert bench_of(pilot).theme == "lmbench-dark"


async def test_an_error_in_a_panel_is_a_dialog_and_the_panel_lives_on(full, monkeypatch):
    async with opened(full) as pilot:

        def broken(self: RunTree, by: int) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(RunTree, "action_move", broken)
        await press(pilot, "down")
        assert isinstance(pilot.app.screen, QuestionDialog)
        words = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "a defect" in words
        assert "workbench.log" in words
        monkeypatch.undo()
        await press(pilot, "escape", "down")
        assert bench_of(pilot).selected == "004-quantize"
    assert "RuntimeError" in (full.home.sessions_path / "workbench.log").read_text()


@pytest.mark.parametrize(
    "place, keys",
    [
        ("lmbench.tui.runs.log_panel.read_log", ("5", "x")),
        ("sampler_double.SamplerDouble.start", ("4", "i", "a")),
    ],
    ids=["in the log panel's thread", "on the way to the sampler"],
)
async def test_an_error_beside_a_panel_is_a_dialog_and_the_workbench_lives_on(
    full, monkeypatch, place, keys
):
    def broken(*arguments: object) -> None:
        raise RuntimeError("a defect")

    async with opened(full) as pilot:
        monkeypatch.setattr(place, broken)
        await press_in_turn(pilot, *keys)
        await until(pilot, lambda: isinstance(pilot.app.screen, QuestionDialog))
        assert "a defect" in words(pilot)
        await press(pilot, "escape")
        assert not isinstance(pilot.app.screen, QuestionDialog)


async def test_the_palette_offers_what_is_possible_and_nothing_else(full):
    async with opened(full) as pilot:
        screen = pilot.app.screen
        titles = {command.title for command in pilot.app.get_system_commands(screen)}
        assert "Pause or continue the run" in titles
        assert "Plots: Next plot" in titles
        assert "Resume the run from its last checkpoint" not in titles
        assert "Runs: Delete the run (asks)" not in titles


async def test_the_palette_shows_a_name_as_it_is_written(full):
    name = "AWD [lr=1e-3] [lr=5]"
    full.session.run(1).update(name=name)
    async with opened(full) as pilot:
        await press(pilot, "home", "ctrl+p", *"one small")
        await until(pilot, lambda: f"Pack 1 {name} into one small" in words(pilot))


async def test_the_palette_s_cursor_does_not_blink(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+p")
        assert isinstance(pilot.app.screen, CommandPalette)
        assert not pilot.app.screen.query_one(Input).cursor_blink


async def test_an_empty_session_is_offered_no_screen_about_runs_until_it_has_one(world):
    about_runs = {"main.generate", "main.compare", "main.lab", "main.sensitivity"}
    async with opened(world, size=WIDE) as pilot:
        titles = {command.title for command in pilot.app.get_system_commands(pilot.app.screen)}
        assert "New run" in titles
        assert not titles & {
            "Generate text", "Compare runs", "Quantization laboratory", "Sensitivity of tensors"
        }  # fmt: skip
        assert not offered(pilot) & about_runs
        assert "compare" not in str(pilot.app.screen.query_one(KeyBar).render())
        world.new("train", "dense", status="finished", results={"bytes": 29_300_000})
        await settled(pilot)
        assert about_runs <= offered(pilot)
        assert "compare" in str(pilot.app.screen.query_one(KeyBar).render())


def focused_panel(pilot: Pilot[None]) -> str | None:
    names = [panel.id for panel in pilot.app.screen.query(Panel) if panel.has_focus_within]
    return names[0] if names else None


def log_text(pilot: Pilot[None]) -> str:
    from textual.widgets import RichLog

    return "\n".join(strip.text for strip in pilot.app.screen.query_one(RichLog).lines)


# In the tree 4, which was made from 2, stands above 3.
@pytest.mark.parametrize(
    "keys, number, beside",
    [
        ((), 1, "002-prune"),
        ((), 4, "003-quantize"),
        ((), 3, "004-quantize"),
        (("slash", *"agp", "enter"), 4, "002-prune"),
        (("t",) * 4, 3, "002-prune"),
    ],
)
async def test_the_cursor_goes_to_the_neighbour_of_a_run_deleted_elsewhere(
    full, keys, number, beside
):
    async with opened(full, *keys, run=full.session.run(number).path.name) as pilot:
        before = shown(pilot)
        shutil.rmtree(full.session.run(number).path)
        await settled(pilot)
        assert bench_of(pilot).selected == beside
        assert shown(pilot) == [n for n in before if n != number]


async def test_a_look_between_two_deletions_takes_the_cursor_nowhere_else(full, monkeypatch):
    for name in ("a", "b"):
        full.new("quantize", name, full.session.run(1), status="finished")
    async with opened(full, *("t",) * 4, run="005-quantize") as pilot:
        app, loop = bench_of(pilot), asyncio.get_running_loop()
        set_aside = manage.set_aside_run

        def slowly(run: Any) -> Any:
            deletion = set_aside(run)
            asyncio.run_coroutine_threadsafe(app.refresh_snapshot(), loop).result()
            while app.snapshot.run(run.path.name) is not None:
                time.sleep(0.01)
            return deletion

        monkeypatch.setattr(manage, "set_aside_run", slowly)
        app.mark(("005-quantize", "003-quantize"))
        await press(pilot, "d", "y")
        await pilot.app.workers.wait_for_complete()
        await settled(pilot)
        assert shown(pilot) == [6, 4, 2, 1]
        assert app.selected == "004-quantize"


async def test_a_session_of_a_newer_version_says_so_where_the_runs_would_be(full):
    path = full.session.path / "session.json"
    path.write_text(json.dumps({"version": 99, "name": "demo"}))
    async with opened(full) as pilot:
        words = str(pilot.app.screen.query_one("#empty", Static).render())
        assert "upgrade lmbench" in words
        assert pilot.app.screen.query_one("#empty").display


async def test_a_run_that_dies_is_told_at_once_with_its_reason(full):
    run = full.session.run(2)
    async with opened(full) as pilot:
        run.update(status="failed", reason="killed, probably out of memory")
        await settled(pilot)
        assert bench_of(pilot).last_message == "2 agp-80 failed: killed, probably out of memory"
        assert "main.resume" in offered(pilot)


async def test_a_loss_that_is_not_finite_is_marked_and_the_plot_goes_on(full):
    run = full.session.run(2)
    async with opened(full) as pilot:
        full.write(run, dataclasses.replace(step(3700, NOON + 1600), loss=math.nan, ppl=math.nan))
        await settled(pilot)
        await press(pilot, "2")
        assert any("✗" in line for line in lines_of(pilot))
        await press(pilot, "end")
        assert any("not finite" in line for line in lines_of(pilot))


CODES = "\x1bc\x1b]0;title\x07\x9b31m\x1b[2J"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids="{0[0]}x{0[1]}".format)
async def test_nothing_that_a_run_s_files_hold_is_a_code_to_the_terminal(full, size):
    for run in full.session.runs():
        run.update(corpus=Corpus(name=f"texts{CODES}", fingerprint="00"))
    full.write(
        full.session.run(2),
        ev.RunStarted(t=NOON + 1500, device=f"cpu{CODES}"),
        ev.Progress(t=NOON + 1510, what=f"valid{CODES}", done=1, total=2),
    )
    failed = full.session.run(3)
    full.write(failed, ev.Failed(t=1.0, reason="why", traceback=f"line{CODES}"))
    failed.update(status="failed", reason="why", name="\x1b[1ma\n[b]")
    failed.log_path.write_text(f"epoch \x1b[31mred\x1b[0m{CODES}\n")
    async with opened(full, size=size, run="003-quantize") as pilot:
        shown = words(pilot)
        for keys in (("5", "x"), ("1", "enter")):
            await press_in_turn(pilot, *keys)
            shown += words(pilot)
        for word in ("texts", "valid", "epoch red", "line"):
            assert word in shown
        assert not set(shown) & set("\x1b\x9b\x07")


async def test_an_error_while_drawing_ends_in_one_line_and_not_in_a_traceback(
    full, monkeypatch, capsys
):
    def broken(self: RunTree, y: int) -> None:
        raise ZeroDivisionError("a defect in drawing")

    async def draw() -> None:
        async with opened(full) as pilot:
            monkeypatch.setattr(RunTree, "render_line", broken)
            tree(pilot).refresh()
            await until(pilot, lambda: pilot.app._exception)

    with pytest.raises(ZeroDivisionError):
        await draw()
    told = capsys.readouterr().err
    assert "a defect in drawing" in told
    assert "Traceback" not in told
    assert "Traceback" in (full.home.sessions_path / "workbench.log").read_text()


def lines_of(pilot: Pilot[None]) -> list[str]:
    panel = plots(pilot)
    return [panel.render_line(y).text for y in range(panel.content_size.height)]


async def test_looks_at_the_session_never_overlap(full, monkeypatch):
    inside, most = 0, 0
    poll = Watcher.poll

    def slowly(watcher: Watcher, **how: bool) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1
        return poll(watcher, **how)

    monkeypatch.setattr(Watcher, "poll", slowly)
    async with opened(full) as pilot:
        await asyncio.gather(*(bench_of(pilot).refresh_snapshot() for _ in range(4)))
    assert most == 1


async def test_the_focus_stays_in_generation_when_the_terminal_becomes_narrow(full):
    async with opened(full, "4", size=WIDE) as pilot:
        await pilot.resize_terminal(*NARROW)
        await settled(pilot)
        focused = pilot.app.focused
        assert focused is not None
        assert any(node.id == "generate" for node in focused.ancestors_with_self)
        assert focused.is_on_screen


@pytest.mark.parametrize("keys", ["35", "54", "45", "3g", "5g", "43"])
async def test_a_narrow_screen_shows_the_lower_panel_that_has_the_focus(full, keys):
    name = {"3": "layers", "4": "generate", "g": "generate", "5": "log"}[keys[1]]
    async with opened(full, size=NARROW) as pilot:
        for key in keys:
            # The prompt would take it as a letter.
            await press(pilot, *(["escape"] if isinstance(pilot.app.focused, Input) else []), key)
        panel = pilot.app.screen.query_one(f"#{name}", Panel)
        assert panel.display
        assert panel.has_focus_within
        assert [p.id for p in pilot.app.screen.query(Panel) if p.region.area] == [
            "runs", "plots", name,
        ]  # fmt: skip


@pytest.mark.parametrize("key, name", [("3", "layers"), ("5", "log"), ("4", "generate")])
async def test_the_focus_stays_where_it_is_when_the_terminal_becomes_wide(full, key, name):
    async with opened(full, key, size=NARROW) as pilot:
        await pilot.resize_terminal(*WIDE)
        await settled(pilot)
        assert pilot.app.screen.query_one(f"#{name}", Panel).has_focus_within


async def test_ctrl_c_says_how_to_leave_and_the_second_one_leaves(world):
    world.new("train", "dense", status="finished")
    async with opened(world) as pilot:
        await press(pilot, "ctrl+c")
        assert "q leaves" in bench_of(pilot).recent_message
        await press(pilot, "ctrl+c")
        assert not pilot.app.is_running or pilot.app._exit


async def test_a_key_that_can_do_nothing_says_why(full):
    async with opened(full, run="001-train") as pilot:
        await press(pilot, "p")
        assert bench_of(pilot).recent_message == "1 dense is not running"
        await press(pilot, "R")
        assert bench_of(pilot).recent_message == "1 dense has finished"
        pilot.app.select("004-quantize")  # type: ignore[attr-defined]
        await press(pilot, "d")
        assert "waits in the queue" in bench_of(pilot).recent_message


@pytest.mark.parametrize(
    "keys, said",
    [
        ("5d", "d is a key of Runs: 1 goes there"),
        ("3P", "P is a key of Runs: 1 goes there"),
        ("1T", "T is a key of Layers: 3 goes there"),
        ("1Z", "Z does nothing here: ? lists the keys"),
        ("cZ", "Z does nothing here: ? lists the keys"),
    ],
)
async def test_a_key_that_is_none_here_says_where_it_is_one(full, keys, said):
    async with opened(full, *keys, run="001-train", size=NARROW) as pilot:
        assert bench_of(pilot).recent_message == said


async def test_a_letter_that_is_typed_says_nothing(full):
    async with opened(full, "4", "Z", run="001-train") as pilot:
        assert not bench_of(pilot).recent_message


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("key", ["l", "v"])
async def test_of_a_run_that_ended_without_a_model_no_other_one_is_opened(lab, key):
    dense = lab.session.run(1).ref
    ended = lab.new("prune", "cut off", parent=dense, status="stopped", started=1.0)
    # It can go on from where it was stopped, and has no best checkpoint.
    lab.write(ended, ev.Checkpoint(which="last", step=10, epoch=0))
    async with opened(lab, key, run=ended.path.name) as pilot:
        screen_of(pilot, MainScreen)
        said = "5 cut off has no best checkpoint: it ended before its first epoch did"
        assert bench_of(pilot).recent_message == said


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("key", ["l", "v"])
async def test_the_run_that_another_ones_screen_is_of_is_named(lab, key):
    async with opened(lab, key, run="003-quantize") as pilot:
        assert (
            bench_of(pilot).recent_message == "3 int8 has no float model: here is that of 1 dense"
        )
    async with opened(lab, key, run="001-train") as pilot:
        assert "float model" not in bench_of(pilot).recent_message


async def test_without_runs_a_damaged_session_is_why_none_can_be_compared(world):
    (world.session.path / "session.json").write_text("{")
    async with opened(world, "escape", "c") as pilot:
        screen_of(pilot, MainScreen)
        assert "session.json" in bench_of(pilot).recent_message


async def test_a_run_that_was_taken_out_of_the_queue_has_no_model(lab):
    waiting = lab.new("prune", "agp", parent=lab.session.run(1).ref)
    async with opened(lab, "s", run=waiting.path.name) as pilot:
        await until(pilot, lambda: waiting.status() == "stopped")
        await settled(pilot)
        await press(pilot, "l")
        said = "5 agp has no model: it was taken out of the queue"
        assert bench_of(pilot).recent_message == said
        await press(pilot, "g")
        assert said in words(pilot)


@pytest.mark.parametrize("keys", [(), ("2",), ("g",), ("3", "z"), ("n",), ("c",)])
async def test_the_key_bar_offers_what_is_in_force(full, keys):
    async with opened(full, *keys, run="002-prune", size=WIDE) as pilot:
        await at_rest(pilot)
        bar = pilot.app.screen.query_one(KeyBar)
        active = pilot.app.screen.active_bindings.values()
        shown = [entry for entry in active if entry.binding.show and entry.enabled]
        assert {(entry.binding.key, entry.node) for entry in shown} == {
            (binding.key, node) for binding, node in bar._in_force() if binding.show
        }


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("key", ["l", "v"])
async def test_a_queued_run_has_no_model_to_open_a_screen_of(lab, key):
    waits = lab.new("train", "waits")
    async with opened(lab, key, run=waits.path.name) as pilot:
        screen_of(pilot, MainScreen)
        said = bench_of(pilot).recent_message
        assert said == "5 waits has no model yet: it waits in the queue"
        # It will have one: the words do not stay.
        assert said != bench_of(pilot).last_message
        active = pilot.app.screen.active_bindings.values()
        assert not {entry.binding.id for entry in active} & {"main.lab", "main.sensitivity"}


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("key", ["l", "v"])
async def test_what_measures_a_model_opens_the_screens_of_that_model(lab, key):
    waits = lab.new("evaluate", "waits", lab.session.run(1))
    async with opened(lab, key, run=waits.path.name) as pilot:
        assert "1 dense" in words(pilot)
        assert not isinstance(pilot.app.screen, MainScreen)


@pytest.mark.parametrize("panel", ["1", "2", "3", "5"])
async def test_z_gives_a_panel_the_whole_screen_and_takes_it_back(full, panel):
    async with opened(full, panel, run="001-train") as pilot:
        focused = pilot.app.focused
        await press(pilot, "z")
        (shown,) = [p for p in pilot.app.screen.query(Panel) if p.region.area]
        assert shown.size.width == pilot.app.size.width - 2
        assert shown.has_focus_within
        await press(pilot, "z")
        assert len([p for p in pilot.app.screen.query(Panel) if p.region.area]) > 1
        assert pilot.app.focused is focused


async def test_tabs_and_keys_of_the_key_bar_can_be_clicked(full):
    async with opened(full, run="001-train", size=WIDE) as pilot:
        await pilot.click(PlotPanel, offset=(12, 0))
        await settled(pilot)
        assert plots(pilot).view.kind == "loss"
        await pilot.click("#layers", offset=(14, 0))
        await settled(pilot)
        assert pilot.app.screen.query_one("#log").display
        bar = pilot.app.screen.query_one(KeyBar)
        await pilot.click(KeyBar, offset=(str(bar.render()).index("help"), 0))
        await settled(pilot)
        assert not isinstance(pilot.app.screen, MainScreen)


async def test_each_key_of_an_entry_of_the_key_bar_can_be_clicked(full):
    async with opened(full, "2", run="001-train", size=WIDE) as pilot:
        bar = pilot.app.screen.query_one(KeyBar)

        async def click(entry: str, key: str) -> None:
            at = str(bar.render()).index(entry) + entry.index(key)
            await pilot.click(KeyBar, offset=(at, 0))
            await settled(pilot)

        await click("+ − zoom", "+")
        zoomed = plots(pilot).view.window
        assert zoomed is not None
        await click("+ − zoom", "−")
        assert plots(pilot).view.window is None
        kind = plots(pilot).view.kind
        await click("[ ] next", "[")
        before = plots(pilot).view.kind
        await click("[ ] next", "]")
        assert (before != kind, plots(pilot).view.kind) == (True, kind)
        await click("[ ] next", "next")
        assert plots(pilot).view.kind not in (before, kind)


@pytest.mark.parametrize("width", [80, 100, 109, 110, 117, 200])
async def test_every_plot_s_name_is_whole(full, width):
    async with opened(full, run="001-train", size=(width, 24)) as pilot:
        title = next(line for line in words(pilot).splitlines() if "Loss" in line)
        assert "Load ─" in title


async def test_a_screen_that_was_left_is_not_kept(full):
    import gc
    import weakref

    async with opened(full, "o") as pilot:
        left = weakref.ref(pilot.app.screen)
        await press(pilot, "escape", "question_mark")
        gc.collect()
        assert left() is None
