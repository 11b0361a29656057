"""What is half done when the workbench is left is there when it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driving import bench_of, line_of, opened, press, screen_of, until
from laboratory_double import measure
from textual.pilot import Pilot

from lmbench.tui.app import Workbench
from lmbench.tui.laboratory.screen import LabScreen
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.new_run.unfinished_form import FormDraft
from lmbench.tui.sensitivity.screen import SensitivityScreen

pytestmark = pytest.mark.usefixtures("started")


async def form_of(pilot: Pilot[None]) -> NewRunScreen:
    screen = screen_of(pilot, NewRunScreen)
    await until(pilot, lambda: "@kind" in screen.form.values)
    return screen


# -- the form ----------------------------------------------------------------------------------


async def test_a_half_filled_form_comes_back_with_its_texts_right_or_wrong(full):
    async with opened(full, "n", *["down"] * 4, *"64", *["down"] * 3, *"1.5") as pilot:
        assert (await form_of(pilot)).form.focused_name == "dropout"
    async with opened(full) as pilot:
        screen = await form_of(pilot)
        await until(pilot, lambda: screen.form.values["emsize"] == "64")
        assert screen.form.values["dropout"] == "1.5"
        assert "✗" in line_of(pilot, "dropout")
        assert screen.form.focused_name == "dropout"
        assert screen.given == {"emsize": 64, "dropout": 1.5}
        await press(pilot, "escape")
        screen_of(pilot, MainScreen)


async def test_a_form_that_was_left_with_escape_is_forgotten(full):
    async with opened(full, "n", *["down"] * 4, *"64", "escape", "n") as pilot:
        assert (await form_of(pilot)).form.values["emsize"] == "200"
        await press(pilot, "escape")
    async with opened(full) as pilot:
        screen_of(pilot, MainScreen)


async def test_a_form_that_started_a_run_is_forgotten(full, monkeypatch):
    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", lambda *_, **__: None)
    async with opened(full, "n", "ctrl+s") as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, MainScreen))
        assert bench_of(pilot).recall("new_run") is None
    async with opened(full) as pilot:
        screen_of(pilot, MainScreen)


async def test_a_pruning_s_form_comes_back_with_the_run_that_it_starts_from(lab):
    async with opened(lab, "home", "n", "p", *["down"] * 3, *"small-80") as pilot:
        assert (await form_of(pilot)).given["compress"] == "small-80"
    async with opened(lab) as pilot:
        screen = await form_of(pilot)
        await until(pilot, lambda: screen.form.values.get("compress") == "small-80")
        assert screen.form.values["@kind"] == "prune"
        assert screen.form.values["@parent"] == "1 dense"
        assert "emsize" not in screen.form.values


async def test_a_form_waits_for_the_run_that_it_starts_from_where_many_are_read(full, monkeypatch):
    async with opened(full, "home", "n", "p") as pilot:
        assert (await form_of(pilot)).form.values["@parent"] == "1 dense"
        whole = bench_of(pilot).snapshot
    newest = tuple(view for view in whole.runs if view.id > 1)
    by_key = {view.key: view for view in newest}

    async def unread(app: Workbench, *, defer_growth: bool) -> None: ...

    monkeypatch.setattr(Workbench, "_poll_once", unread)
    async with opened(full) as pilot:
        screen, bench = screen_of(pilot, NewRunScreen), bench_of(pilot)
        bench.snapshot = replace(whole, runs=newest, by_key=by_key, unread=1)
        await press(pilot)
        assert screen.form.specs == {}
        bench.snapshot = whole
        await form_of(pilot)
        assert screen.origin is not None
        assert screen.origin.key == "001-train"


@pytest.mark.parametrize("kept", [None, 3, {}, {"kind": "no such", "texts": {}}, {"kind": "train"}])
def test_a_draft_that_does_not_fit_is_none(kept):
    assert FormDraft.from_json(kept) is None


# -- the laboratory ----------------------------------------------------------------------------


async def test_the_laboratory_s_draft_and_slider_come_back(lab):
    keys = ("home", "l", "down", "b", "a", "m", "tab", "tab", "6")
    async with opened(lab, *keys) as pilot:
        screen = screen_of(pilot, LabScreen)
        await until(pilot, lambda: 0.6 in screen.state.pruned.get("model", {}))
        await press(pilot, "t", "right")
        await until(pilot, lambda: 0.65 in screen.state.pruned.get(screen.state.target, {}))
        draft, pruned, target = screen.state.draft, screen.state.pruned, screen.state.target
        assert draft["overrides"]
        name = screen.state.draft_name
    async with opened(lab) as pilot:
        screen = screen_of(pilot, LabScreen)
        await until(pilot, lambda: bool(screen.state.modules))
        assert screen.state.draft == draft
        assert screen.state.draft_name == name
        assert screen.state.everywhere
        assert (screen.state.target, screen.state.level) == (target, 0.65)
        assert screen.state.pruned == pruned
        assert not screen.state.level_pending


async def test_of_another_model_no_figure_is_taken_over(lab):
    async with opened(lab, "home", "l", "down", "b", "tab", "tab", "3") as pilot:
        screen = screen_of(pilot, LabScreen)
        await until(pilot, lambda: 0.3 in screen.state.pruned.get("model", {}))
        await press(pilot, "6")
        await until(pilot, lambda: 0.6 in screen.state.pruned.get("model", {}))
    (lab.session.run(1).path / "best" / "model.safetensors").write_bytes(b"another")
    async with opened(lab) as pilot:
        screen = screen_of(pilot, LabScreen)
        await until(pilot, lambda: bool(screen.state.modules))
        assert screen.state.draft_name == "int8-best, 1 changed"
        assert screen.state.level == 0.6
        # Which is evaluated on this one.
        await until(pilot, lambda: 0.6 in screen.state.pruned.get("model", {}))
        assert list(screen.state.pruned["model"]) == [0.6]


# -- sensitivity -------------------------------------------------------------------------------


async def test_the_sensitivity_plot_s_axis_comes_back(lab):
    measure(lab)
    async with opened(lab, "home", "v", "y", "left") as pilot:
        assert not screen_of(pilot, SensitivityScreen).log_axis
    async with opened(lab) as pilot:
        screen = screen_of(pilot, SensitivityScreen)
        assert not screen.log_axis
        assert screen.goal == 0.75
        await press(pilot, "y")
    async with opened(lab) as pilot:
        assert screen_of(pilot, SensitivityScreen).log_axis
