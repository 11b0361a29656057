"""Keys for moving about and for asking again, which the tests of the panels leave out."""

from __future__ import annotations

import pytest
from driving import bench_of, opened, press, screen_of, until
from laboratory_double import measure
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from workbench_world import NOON

from lmbench.jobs.chains import CHAINS
from lmbench.session import Run
from lmbench.tui.generate.alternatives import AlternativesList
from lmbench.tui.generate.tinted_text import TintedText
from lmbench.tui.help_screen import HelpScreen
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.grid import Grid
from lmbench.tui.laboratory.screen import LabScreen
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.plots.panel import PlotPanel
from lmbench.tui.sensitivity.screen import SensitivityScreen

pytestmark = pytest.mark.usefixtures("started")


@pytest.mark.parametrize(
    "begun, last, how",
    [
        (True, True, "resumes from its last checkpoint"),
        (True, False, "starts again"),
        (False, False, "starts"),
    ],
    ids=["with a checkpoint", "without one", "never begun"],
)
async def test_capital_r_resumes_a_run_that_was_stopped(full, monkeypatch, begun, last, how):
    resumed: list[Run] = []
    monkeypatch.setattr("lmbench.jobs.launch.resume", resumed.append)
    run = full.session.run(3)
    run.update(status="stopped", started=NOON if begun else None)
    if last:
        (run.path / "last").mkdir()
    async with opened(full, "end", "R") as pilot:
        assert bench_of(pilot).last_message == f"3 int8: {how}"
    assert [run.id for run in resumed] == [3]


async def test_ctrl_q_asks_what_becomes_of_a_live_run_even_while_one_types(full):
    async with opened(full, "slash", *"ag", "ctrl+q") as pilot:
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)
        assert pilot.app.is_running


async def test_home_and_end_and_page_keys_go_through_the_runs(full):
    for number in range(5, 31):
        full.new("quantize", f"candidate {number}", status="finished")
    async with opened(full, "home") as pilot:
        bench = bench_of(pilot)
        runs = [view.key for view in bench.snapshot.runs]
        assert bench.selected == runs[0]
        await press(pilot, "pagedown")
        assert bench.selected == runs[10]
        await press(pilot, "pagedown", "pageup", "pageup")
        assert bench.selected == runs[0]
        await press(pilot, "end")
        assert bench.selected == runs[-1]


async def test_page_keys_and_ends_go_through_a_table(lab):
    async with opened(lab, "N", "tab") as pilot:
        steps = pilot.app.focused
        assert isinstance(steps, Grid)
        keys = [key for key, _ in steps.rows]
        assert len(keys) == 10
        await press(pilot, "pagedown")
        assert steps.cursor_key == keys[-1]
        await press(pilot, "pageup")
        assert steps.cursor_key == keys[0]
        await press(pilot, "G")
        assert steps.cursor_key == keys[-1]
        await press(pilot, "home")
        assert steps.cursor_key == keys[0]


# -- the plot ----------------------------------------------------------------------------------


def plots(pilot: Pilot[None]) -> PlotPanel:
    return pilot.app.screen.query_one(PlotPanel)


def column(pilot: Pilot[None]) -> int:
    """The column of the picture in which the cursor stands."""
    at = plots(pilot).cursor_x
    assert at is not None
    return plots(pilot)._shown.picture.column_of(at)


async def test_the_plot_s_cursor_goes_by_one_by_ten_and_to_the_ends(full):
    async with opened(full, "2", "end") as pilot:
        last = column(pilot)
        await press(pilot, "ctrl+left")
        assert column(pilot) == last - 10
        await press(pilot, "right")
        assert column(pilot) == last - 9
        await press(pilot, "home")
        assert column(pilot) == 0
        await press(pilot, "ctrl+right")
        assert column(pilot) == 10


async def test_minus_zooms_out_as_far_as_plus_zoomed_in_and_shift_right_pans(full):
    async with opened(full, "2", "plus", "plus") as pilot:
        near = plots(pilot).view.window
        assert near is not None
        await press(pilot, "shift+right")
        panned = plots(pilot).view.window
        assert panned is not None
        assert panned[0] > near[0]
        assert panned[1] - panned[0] == pytest.approx(near[1] - near[0])
        await press(pilot, "shift+left", "minus")
        far = plots(pilot).view.window
        assert far is not None
        assert far[1] - far[0] == pytest.approx((near[1] - near[0]) / 0.6)
        await press(pilot, "minus")
        assert plots(pilot).view.window is None


# -- text --------------------------------------------------------------------------------------


async def test_home_end_and_page_keys_go_through_a_text(full):
    async with opened(full, "home", "g", *"in", "enter", "down", "down") as pilot:
        words = pilot.app.focused
        assert isinstance(words, TintedText)
        await press(pilot, "end")
        assert words.draft is not None
        last = len(words.draft.words) - 1
        assert words.cursor == last
        await press(pilot, "home")
        assert words.cursor == 0
        await press(pilot, "pagedown")
        below = words.cursor
        assert below is not None
        assert below > 0
        await press(pilot, "pageup", "pageup")
        assert words.cursor == 0
        await press(pilot, "G")
        assert words.cursor == last


async def test_home_end_and_page_keys_go_through_the_alternatives(full):
    keys = ("home", "g", *"in", "enter", "down", "down", "right", "enter")
    async with opened(full, *keys) as pilot:
        among = pilot.app.focused
        assert isinstance(among, AlternativesList)
        await press(pilot, "end")
        assert among.cursor == 4
        await press(pilot, "home")
        assert among.cursor == 0
        await press(pilot, "pagedown")
        assert among.cursor == 4
        await press(pilot, "pageup")
        assert among.cursor == 0


# -- other screens -----------------------------------------------------------------------------


async def test_j_and_k_scroll_the_help(full):
    async with opened(full, "question_mark") as pilot:
        scroll = screen_of(pilot, HelpScreen).query_one(VerticalScroll)
        await press(pilot, "j", "j")
        assert scroll.scroll_offset.y == 2
        await press(pilot, "k")
        assert scroll.scroll_offset.y == 1


async def test_n_puts_a_chain_s_training_into_the_form(lab):
    async with opened(lab, "N", "down", "n") as pilot:
        form = screen_of(pilot, NewRunScreen)
        await until(pilot, lambda: "@preset" in form.form.values)
        assert form.given == dict(CHAINS[1].training.settings)


async def test_brackets_move_the_laboratory_s_slider_by_one_point(lab):
    keys = ("home", "l", "enter", "tab", "tab", "5")
    async with opened(lab, *keys, "right_square_bracket", "right_square_bracket") as pilot:
        assert screen_of(pilot, LabScreen).state.level == 0.52
        await press(pilot, "left_square_bracket")
        assert screen_of(pilot, LabScreen).state.level == 0.51
        await press(pilot, "right", "left", "l")
        assert screen_of(pilot, LabScreen).state.level == 0.56


async def test_right_bracket_moves_the_goal_by_one_point(lab):
    measure(lab)
    async with opened(lab, "home", "v", "right_square_bracket") as pilot:
        assert screen_of(pilot, SensitivityScreen).goal == 0.81
