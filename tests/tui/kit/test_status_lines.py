"""What top bar and status line say while a worker starts, validates and scores."""

from __future__ import annotations

from typing import Any

import pytest
from driving import bench_of, opened, press, press_in_turn, settled, words
from textual._compositor import ChopsUpdate
from textual.geometry import Region
from textual.pilot import Pilot
from workbench_world import STARTED, step

from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.tui.kit.compositor import FrugalCompositor
from lmbench.tui.kit.status_lines import StatusBar, TopBar


def top(pilot: Pilot[None]) -> str:
    return pilot.app.screen.query_one(TopBar).line().plain.split()[-1]


def status(pilot: Pilot[None]) -> str:
    return pilot.app.screen.query_one(StatusBar).line().plain.splitlines()[-1]


def alive(world: Any) -> Run:
    run: Run = world.new("train", "dense")
    world.live(run)
    return run


async def test_with_nothing_alive_it_is_idle_and_a_queued_run_is_told(world):
    async with opened(world, size=(120, 30)) as pilot:
        assert top(pilot) == "idle"
        world.new("train", "dense")
        await settled(pilot)
        assert top(pilot) == "queued"
        assert "1 queued: starting" in status(pilot)


async def test_a_worker_that_has_said_nothing_yet_is_starting(world):
    run = alive(world)
    async with opened(world, size=(120, 30)) as pilot:
        assert top(pilot) == "starting"
        assert "starting …" in status(pilot)
        world.write(run, STARTED, step(10))
        await settled(pilot)
        assert "cpu" in pilot.app.screen.query_one(TopBar).line().plain
        assert "starting" not in status(pilot)


async def test_in_the_top_bar_what_the_run_at_work_said_is_without_its_name(world):
    run = alive(world)
    saved = ev.Checkpoint(t=25.0, which="last", step=119_360, epoch=40)
    world.write(run, STARTED, step(25), saved)
    async with opened(world) as pilot:
        assert bench_of(pilot).last_message == "1 dense: step 119,360 saved"
        line = pilot.app.screen.query_one(TopBar).line().plain
        assert "   step 119,360 saved " in line
        bench_of(pilot).last_message = "1 dense: pruned 5 tensors of it to 77.25% at step 9"
        await settled(pilot)
        assert "   pruned 5 tensors of it to … " in pilot.app.screen.query_one(TopBar).line().plain


async def test_validation_and_the_last_scoring_show_how_far_they_are(world):
    run = alive(world)
    world.write(run, STARTED, step(25), step(50))
    async with opened(world, size=(120, 30)) as pilot:
        assert "epoch 1/2  50%  100 tok/s" in status(pilot)
        world.write(run, ev.Progress(what="validating", done=40, total=100))
        await settled(pilot)
        assert "epoch 1/2  50%  validating 40%" in status(pilot)
        world.write(
            run,
            ev.Epoch(
                epoch=1, step=50, train_loss=5.0, valid_loss=5.0, valid_ppl=148.4,
                best_valid_loss=5.0, best_epoch=1, lr=20.0, seconds=60.0,
            ),
        )  # fmt: skip
        await settled(pilot)
        assert "validating" not in status(pilot)
        assert "50%" in status(pilot)
        world.write(run, ev.Progress(what="scoring test", done=3, total=4))
        await settled(pilot)
        assert "scoring test 75%" in status(pilot)


async def test_work_without_steps_keeps_its_bar(world):
    run: Run = world.new("quantize", "int8")
    world.live(run)
    world.write(run, ev.Progress(what="scoring valid", done=1, total=4))
    async with opened(world, size=(120, 30)) as pilot:
        assert "scoring valid  25%" in status(pilot)
        assert top(pilot) == "busy"


async def test_what_is_said_is_painted_though_the_screen_below_is_of_another_size(
    full, monkeypatch
):
    painted: set[Region] = set()
    render = FrugalCompositor.render_partial_update

    def noted(compositor: FrugalCompositor) -> ChopsUpdate | None:
        painted.update(compositor._dirty_regions)
        return render(compositor)

    async with opened(full, "c", "f1", size=(120, 30)) as pilot:
        await pilot.resize_terminal(200, 50)
        await settled(pilot)
        await press_in_turn(pilot, "escape")
        monkeypatch.setattr(FrugalCompositor, "render_partial_update", noted)
        await press_in_turn(pilot, "Z")
        bar = pilot.app.screen.query_one(StatusBar)
        assert "Z does nothing here" in bar.line().plain
        assert any(bar.region in region for region in painted)


@pytest.mark.parametrize("over", [(), ("n",)], ids=["in front", "below another"])
async def test_the_lines_at_the_bottom_follow_the_height_alone(full, over):
    full.session.run(2).update(status="stopped")
    full.session.run(4).update(status="stopped")
    async with opened(full, size=(120, 30)) as pilot:
        bench_of(pilot).show_message("an answer")
        await press(pilot)
        bench_of(pilot)._clear_recent()
        for rows, lines in ((24, 1), (30, 2)):
            await press(pilot, *over)
            await pilot.resize_terminal(120, rows)
            await settled(pilot)
            if over:
                await press_in_turn(pilot, "escape")
            assert pilot.app.screen.query_one(StatusBar).size.height == lines
            assert ("nothing runs" in words(pilot)) == (lines == 2)
