"""A sweep that starts from a run: its file, what it will take, and its start."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import waiting
from driving import at_rest, bench_of, opened, press_in_turn, screen_of, settled, until, words
from study_world import StudyWorld
from textual.pilot import Pilot
from textual.widgets import Static
from workbench_world import looked

from lmbench.config import Kind
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import SCHEDULE_FILE
from lmbench.jobs.sweeps.sweep_file import parse_sweep
from lmbench.session import Home
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.sweeps.new_screen import NewSweepScreen
from lmbench.tui.sweeps.new_sweep import (
    kinds_of,
    listed_settings,
    run_sweep,
    sweep_text,
    took,
)

pytestmark = pytest.mark.usefixtures("started")

TEXTS = {"session": "more", "axis 1": "lr: 5, 10", "axis 2": "", "axis 3": " ", "seeds": "2"}


def view_of(study: StudyWorld, number: int) -> RunView:
    return next(view for view in looked(Watcher(study.session)).runs if view.id == number)


def test_it_trains_anew_as_the_run_was_trained_but_for_the_axes(study: StudyWorld):
    sweep = parse_sweep(sweep_text(view_of(study, 2), "train", TEXTS).encode(), Path("sweep.yaml"))
    (stage,) = sweep.stages
    assert (sweep.name, len(sweep.seeds)) == ("more", 2)
    assert stage.axes == {"lr": [5, 10]}
    assert stage.settings["epochs"] == 6
    assert not {"lr", "seed"} & stage.settings.keys()


def test_it_trains_anew_under_the_run_s_schedule_and_on_its_corpus(study: StudyWorld):
    """Both were named from where its command was given, and the schedule may be gone since."""
    elsewhere = study.home.path.parent / "elsewhere"
    (elsewhere / "mine").mkdir(parents=True)
    run = study.session.run(2)
    config = {**run.read().config, "data": "mine", "compress": "agp.yaml"}
    run.update(config=config, cwd=str(elsewhere))
    (run.path / SCHEDULE_FILE).write_text("version: 1\n")
    sweep = parse_sweep(sweep_text(view_of(study, 2), "train", TEXTS).encode(), Path("sweep.yaml"))
    settings = sweep.stages[0].settings
    assert settings["data"] == str(elsewhere / "mine")
    assert settings["compress"] == str(run.path / SCHEDULE_FILE)
    texts = {**TEXTS, "axis 2": "compress: small-70, small-80"}
    text = sweep_text(view_of(study, 2), "train", texts)
    assert "compress" not in parse_sweep(text.encode(), Path("sweep.yaml")).stages[0].settings


def test_it_prunes_the_run_by_a_range_and_quantizes_what_comes_of_it(study: StudyWorld):
    texts = {
        **TEXTS, "axis 1": "compress: small-70, small-80", "early": "yes",
        "axis 2": "lr: {from: 1, to: 9, step: 4}", "then": "int8-best",
    }  # fmt: skip
    sweep = parse_sweep(sweep_text(view_of(study, 2), "prune", texts).encode(), Path("sweep.yaml"))
    assert [stage.kind for stage in sweep.stages] == ["prune", "quantize"]
    assert sweep.stages[0].sources == ("lr and sparsity/002-train",)
    assert sweep.stages[0].axes == {"compress": ["small-70", "small-80"], "lr": [1.0, 5.0, 9.0]}
    assert sweep.stages[1].axes == {"preset": ["int8-best"]}
    assert sweep.early_stopping is not None


@pytest.mark.parametrize("kind", ["train", "prune", "quantize"])
def test_each_setting_that_an_axis_is_offered_can_be_one(study: StudyWorld, kind: Kind):
    values = {"recipe": "plain, awd", "lr": "5, 10", "bits_parameters": "4, 8"}
    offered = [name for name, _ in listed_settings(kind) if name in values]
    assert ("recipe" in offered) == (kind != "quantize")
    for name in offered:
        texts = {**TEXTS, "axis 1": f"{name}: {values[name]}"}
        texts["axis 2"] = "compress: small-80" if kind == "prune" else ""
        text = sweep_text(view_of(study, 2), kind, texts)
        (stage,) = parse_sweep(text.encode(), Path("sweep.yaml")).stages
        assert len(stage.axes[name]) == 2


@pytest.mark.parametrize("axis", ["lr", "lr:", ": 5", "- x: 5"])
def test_an_axis_without_a_setting_or_values_says_what_to_write(study: StudyWorld, axis: str):
    with pytest.raises(LmbenchError, match="write a setting and its values"):
        sweep_text(view_of(study, 2), "train", {**TEXTS, "axis 1": axis})


def test_a_setting_has_one_axis(study: StudyWorld):
    with pytest.raises(LmbenchError, match="two axes of lr: write all its values in one"):
        sweep_text(view_of(study, 2), "train", {**TEXTS, "axis 2": "lr: 20"})


def test_a_run_that_has_not_finished_can_only_be_trained_anew(study: StudyWorld):
    assert kinds_of(view_of(study, 2)) == ("prune", "quantize", "train")
    assert kinds_of(view_of(study, 3)) == ("train",)


async def test_the_check_is_that_of_the_command_line(study: StudyWorld):
    text = sweep_text(view_of(study, 2), "train", TEXTS)
    (line,) = took(await run_sweep("check", text, "more", study.home))
    assert line.startswith("train: 4 runs, time not known, about")
    with pytest.raises(LmbenchError, match="epoks"):
        await run_sweep("check", text.replace("epochs", "epoks"), "more", study.home)


async def test_a_start_that_nobody_waits_for_any_more_goes_on(
    study: StudyWorld, monkeypatch: Any, tmp_path: Path
):
    """As where the workbench is left meanwhile."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ncd ${0%/*}; : > begun; read _ < gate; : > done\n")
    program.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setattr(sys, "executable", str(program))
    start = asyncio.create_task(run_sweep("start", "", "more", study.home, "--detach"))
    while not (tmp_path / "begun").exists():
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
    await asyncio.to_thread(waiting.until, (tmp_path / "done").exists)


def about(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#about", Static).content)


async def test_n_asks_for_a_sweep_says_what_it_takes_and_starts_it(
    study: StudyWorld, monkeypatch: Any
):
    asked: list[Any] = []

    async def double(verb: str, text: str, session: str, home: Home, *flags: str) -> Any:
        asked.append((verb, session, flags))
        if "[5, 10, 20, 40]" not in text:
            raise LmbenchError("sweep.yaml, line 7: lr: is empty")
        if verb == "start":
            home.open_session(session)
        stage = {"stage": "train", "runs": 12, "seconds": 60.0, "bytes": 5000}
        return {**stage, "stages": [stage]}

    monkeypatch.setattr("lmbench.tui.sweeps.new_screen.run_sweep", double)
    async with opened(study, "W", "n", "up", "up", "t") as pilot:
        screen = screen_of(pilot, NewSweepScreen)
        assert screen.form.values["session"] == "lr and sparsity 2"
        assert screen.kind == "train"
        await press_in_turn(pilot, "ctrl+s")
        assert "not in order yet" in bench_of(pilot).last_message
        screen.form.set_value("axis 1", "lr: 5, 10, 20, 40")
        await until(pilot, lambda: "train: 12 runs, about" in about(pilot))
        await press_in_turn(pilot, "ctrl+s")
        await until(pilot, lambda: "lr and sparsity 2" in str(bench_of(pilot).session))
        assert asked[-1] == ("start", "lr and sparsity 2", ("--detach",))


async def test_a_system_that_refuses_the_check_or_the_start_is_told(
    study: StudyWorld, monkeypatch: Any
):
    refused = {"check", "start"}

    async def full_disk(verb: str, *_: Any) -> Any:
        if verb in refused:
            raise OSError(28, "No space left on device", "/tmp")
        stage = {"stage": "train", "runs": 12, "seconds": 60.0, "bytes": 5000}
        return {**stage, "stages": [stage]}

    monkeypatch.setattr("lmbench.tui.sweeps.new_screen.run_sweep", full_disk)
    async with opened(study, "W", "n", "up", "up", "t") as pilot:
        screen = screen_of(pilot, NewSweepScreen)
        screen.form.set_value("axis 1", "lr: 5, 10")
        await until(pilot, lambda: "it cannot be checked: [Errno 28] No space" in about(pilot))
        refused.remove("check")
        screen.form.set_value("axis 1", "lr: 5, 20")
        await until(pilot, lambda: "train: 12 runs" in about(pilot))
        await press_in_turn(pilot, "ctrl+s")
        await until(pilot, lambda: "No space left on device" in words(pilot))


async def test_a_check_of_what_was_typed_before_arms_nothing(study: StudyWorld, monkeypatch: Any):
    begun, gate = asyncio.Event(), asyncio.Event()

    async def double(*_: Any) -> Any:
        begun.set()
        await gate.wait()
        return {"stages": [{"stage": "train", "runs": 4, "seconds": 60.0, "bytes": 5000}]}

    monkeypatch.setattr("lmbench.tui.sweeps.new_screen.run_sweep", double)
    async with opened(study, "W", "n", "up", "up", "t") as pilot:
        screen = screen_of(pilot, NewSweepScreen)
        screen.form.set_value("axis 1", "lr: 5, 10")
        await until(pilot, begun.is_set)
        screen.form.set_value("axis 1", "lr 7")
        await until(pilot, lambda: "write a setting and its values" in about(pilot))
        gate.set()
        await press_in_turn(pilot, "ctrl+s")
        assert "write a setting and its values" in about(pilot)
        assert "not in order yet" in bench_of(pilot).last_message
        # What was typed stays with another kind of run.
        await press_in_turn(pilot, "up", "p")
        assert screen.form.values["axis 1"] == "lr 7"


@pytest.mark.slow
async def test_a_sweep_that_is_started_from_the_form_is_made_and_begun(study: StudyWorld):
    async with opened(study, "W", "n", "up", "up", "t") as pilot:
        screen = screen_of(pilot, NewSweepScreen)
        screen.form.set_value("axis 1", "lr: 1, 2")
        screen.form.set_value("seeds", "2")
        await until(pilot, lambda: "4 runs" in about(pilot))
        await press_in_turn(pilot, "ctrl+s")
        await until(pilot, lambda: bench_of(pilot).session != study.session)
        made = study.home.session("lr and sparsity 2").runs()
        assert len(made) == 4
        await until(pilot, lambda: {run.status() for run in made} == {"finished"}, limit_s=240)
        await settled(pilot)
        await at_rest(pilot)
        assert "4 finished" in words(pilot)
