"""What was measured of each tensor, and the schedule that follows, by keys alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import driving
import pytest
import yaml
from driving import bench_of, press, screen_of, settled, until, words
from laboratory_double import MATRICES, measure
from waiting import LIMIT_S
from workbench_world import NOON

from lmbench.distiller.schedules.suggest import pruning_epochs
from lmbench.errors import LmbenchError
from lmbench.session import Run
from lmbench.session.manage import delete_run
from lmbench.tui.help_screen import HelpScreen
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.sensitivity.screen import SensitivityScreen

pytestmark = pytest.mark.usefixtures("started")


opened = partial(driving.opened, run="001-train")


async def test_r_queues_a_sensitivity_run_where_there_is_none(lab, started):
    async with opened(lab, "v") as pilot:
        assert "was not measured yet" in words(pilot)
        await press(pilot, "r")
        await until(pilot, lambda: "is queued" in words(pilot))
        assert started[0].read().kind == "sensitivity"
        assert "is queued" in words(pilot)


async def test_the_goal_moves_and_the_suggestion_follows(lab):
    measure(lab)
    async with opened(lab, "v") as pilot:
        screen = screen_of(pilot, SensitivityScreen)
        assert screen.suggestion is not None
        assert screen.suggestion.sparsity == pytest.approx(0.8, abs=1e-3)
        await press(pilot, "left", "left_square_bracket")
        assert screen.goal == 0.74
        assert screen.suggestion.sparsity == pytest.approx(0.74, abs=1e-3)
        await press(pilot, *["right"] * 5)
        assert screen.suggestion is None
        assert "reaches a total sparsity" in words(pilot)


@pytest.mark.parametrize(
    "ended, says",
    [
        ({"status": "finished"}, "curves, finished"),
        ({"status": "failed", "reason": "out of memory"}, "curves, failed: out of memory"),
    ],
)
async def test_the_head_says_how_the_run_ended_though_no_point_is_new(lab, ended, says):
    run = measure(lab)
    lab.live(run)
    async with opened(lab, "v") as pilot:
        assert "curves, running" in words(pilot)
        run.update(pid=None, **ended)
        await settled(pilot)
        assert says in words(pilot)
        assert "running" not in words(pilot).splitlines()[0]


async def test_s_starts_the_suggested_schedule_from_the_model(lab, started, monkeypatch):
    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", lambda *_, **__: None)
    measure(lab)
    async with opened(lab, "v", "ctrl+s") as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, MainScreen))
    (run,) = started
    record = run.read()
    assert (record.kind, record.parent) == ("prune", "demo/001-train")
    schedule = yaml.safe_load((run.path / "schedule.yaml").read_text())
    assert {p["ending_epoch"] for p in schedule["policies"]} == {4}
    assert record.config["epochs"] == 6
    assert (lab.home.path / record.config["compress"]).is_file()


async def test_what_covers_the_screen_when_a_start_ends_stays(lab, started, monkeypatch):
    checked = threading.Event()

    def check(*_: object, **__: object) -> None:
        assert checked.wait(LIMIT_S)

    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", check)
    measure(lab)
    async with opened(lab, "v") as pilot:
        await pilot.press("ctrl+s", "question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        checked.set()
        await until(pilot, lambda: bool(started) and "prunes" in bench_of(pilot).recent_message)
        screen_of(pilot, HelpScreen)
        await press(pilot, "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, MainScreen))


async def test_a_measurement_that_cannot_be_started_leaves_no_run(lab, monkeypatch):
    def fails(run: Run, **_: object) -> None:
        raise LmbenchError("no supervisor")

    monkeypatch.setattr("lmbench.jobs.launch.start", fails)
    before = len(lab.session.runs())
    async with opened(lab, "v", "r") as pilot:
        await until(pilot, lambda: "no supervisor" in words(pilot))
    assert len(lab.session.runs()) == before


async def test_while_the_session_is_read_it_says_so(lab):
    async with opened(lab, "v") as pilot:
        bench, screen = bench_of(pilot), screen_of(pilot, SensitivityScreen)
        assert screen.subject is not None
        # As its first slice is, without the selected run.
        bench.snapshot = replace(bench.snapshot, runs=(), by_key={}, unread=3)
        assert screen.subject is None
        assert screen.invitation == "The session is still being read …"


async def test_the_curves_of_a_model_that_is_gone_prune_no_other(lab, started):
    run = measure(lab)
    measured, other = lab.session.run(1), lab.new("train", "another", status="finished")
    (measured.path / "best").rename(other.path / "best")
    other.update(config=measured.read().config, shape=measured.read().shape)
    delete_run(measured)
    async with driving.opened(lab, "v", run=run.path.name) as pilot:
        screen = screen_of(pilot, SensitivityScreen)
        assert screen.curves
        assert screen.subject is None
        assert "The measured model is not in this session." in words(pilot)
        assert "here is that of" not in bench_of(pilot).recent_message
        await press(pilot, "ctrl+s", "f", "r")
        assert isinstance(pilot.app.screen, SensitivityScreen)
    assert started == []


@pytest.mark.parametrize(
    "granularity, pruner",
    [
        ("element", {"class": "AutomatedGradualPruner"}),
        ("rows", {"class": "L1RankedStructureParameterPruner_AGP", "group_type": "Rows"}),
        (
            "blocks",
            {
                "class": "L1RankedStructureParameterPruner_AGP",
                "group_type": "Blocks",
                "kwargs": {"block_shape": [8, 8]},
            },
        ),
    ],
)
@pytest.mark.parametrize("key", ["ctrl+s", "f"])
async def test_what_was_measured_together_is_pruned_together(
    lab, started, monkeypatch, granularity, pruner, key
):
    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", lambda *_, **__: None)
    measure(lab, granularity)
    folder = lab.session.path / "schedules"
    async with opened(lab, "v") as pilot:
        head = words(pilot).splitlines()[0]
        assert (f"curves in {granularity}, finished" in head) == (granularity != "element")
        await press(pilot, key)
        await until(pilot, lambda: bool(started) if key == "ctrl+s" else folder.is_dir())
        await until(pilot, lambda: not isinstance(pilot.app.screen, SensitivityScreen))
    (path,) = folder.iterdir()
    policies = yaml.safe_load(path.read_text())
    assert policies["pruners"]
    for given in policies["pruners"].values():
        assert {k: v for k, v in given.items() if k in ("class", "group_type", "kwargs")} == pruner


@pytest.mark.parametrize(
    "per, says",
    [
        ("gate", "curves measured each gate alone: r prunes each tensor alone"),
        ("model", "curves measured the whole model: r prunes each tensor alone"),
    ],
)
async def test_of_a_run_without_tensors_it_says_what_it_measured_and_r_measures_them(
    lab, started, per, says
):
    run = measure(lab, per=per)
    async with opened(lab) as pilot:
        bench_of(pilot).select(run.path.name)
        await press(pilot, "v")
        # In two lines of the panel.
        told = " ".join(words(pilot).replace("│", " ").split())
        assert says in told
        assert "not measured" not in told
        await press(pilot, "r")
        await until(pilot, lambda: "is queued: curves come" in words(pilot))
    assert "per" not in started[0].read().config


async def test_a_run_of_gates_that_works_does_not_keep_r_away(lab):
    lab.live(measure(lab, per="gate"))
    async with opened(lab, "v") as pilot:
        assert "curves measures each gate alone: r prunes" in words(pilot)
        assert pilot.app.screen.check_action("measure", ())


async def test_the_tensors_that_were_measured_are_shown_though_gates_were_later(lab):
    tensors, gates = measure(lab), measure(lab, per="gate")
    assert gates.id > tensors.id
    async with opened(lab, "v") as pilot:
        assert list(screen_of(pilot, SensitivityScreen).curves) == list(MATRICES)
        assert f"measured by {tensors.id} curves" in words(pilot)


async def test_r_on_a_run_that_was_measured_shows_the_new_measurement(lab, started):
    run = measure(lab)
    async with opened(lab) as pilot:
        bench_of(pilot).select(run.path.name)
        await press(pilot, "v", "r")
        await until(pilot, lambda: "is queued: curves come" in words(pilot))
        await press(pilot, "r")
    assert len(started) == 1


async def test_curves_of_a_model_that_was_trained_on_are_said_to_be_older(lab):
    run = measure(lab)
    run.update(started=NOON)
    older = "before the model was trained on"
    async with opened(lab, "v") as pilot:
        assert older not in words(pilot)
    lab.session.run(1).update(ended=NOON + 60)
    async with opened(lab, "v") as pilot:
        assert older in words(pilot)


async def test_f_puts_the_suggested_schedule_into_the_form(lab):
    measure(lab)
    async with opened(lab, "v", "f") as pilot:
        path = lab.home.path / screen_of(pilot, NewRunScreen).form.values["compress"]
        assert path.name == "suggested-80.yaml"
        assert path.exists()
        await press(pilot, "escape")
        screen_of(pilot, SensitivityScreen)
        assert not path.exists()


async def test_of_a_run_whose_settings_cannot_be_read_nothing_is_suggested(lab):
    measure(lab)
    lab.session.run(1).update(config={"of_a_newer_version": 1})
    async with opened(lab, "v") as pilot:
        assert screen_of(pilot, SensitivityScreen).suggestion is None
        assert "The settings of 1 dense cannot be read." in words(pilot)


@pytest.mark.parametrize("epochs", [1, 2, 3, 6, 40])
def test_pruning_ends_before_the_training_does_where_there_is_room(epochs):
    start, end = pruning_epochs(epochs)
    assert start < end <= max(epochs, 1)
    assert epochs < 3 or end < epochs
