"""What a finished run proposes, and that following it leads to a packed model."""

from __future__ import annotations

import math
import re

import pytest
from driving import bench_of, opened, press, press_in_turn, settled, until
from textual.pilot import Pilot
from textual.widgets import Static
from workbench_world import World

from lmbench.session import Home, Run
from lmbench.session import events as ev
from lmbench.tui.app import Workbench


def proposed(pilot: Pilot[None]) -> dict[str, str]:
    """The steps that the lines below the list name, with their keys."""
    below = str(pilot.app.screen.query_one("#detail", Static).content)
    return {
        step: key for key, step in re.findall(r"\b([A-Z]) (prune|quantize|pack|compare)", below)
    }


async def finish(pilot: Pilot[None], run: Run) -> None:
    """As its worker would."""
    (run.path / "best").mkdir()
    (run.path / "best" / "model.safetensors").write_bytes(b"")
    run.update(status="finished", results={"valid_ppl": 100.0})
    await settled(pilot)


async def test_a_newcomer_who_follows_the_keys_ends_with_a_packed_model(tmp_path, started):
    app = Workbench(Home(tmp_path), None, follow=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await press_in_turn(pilot, "t")
        for step in ("prune", "quantize", "pack"):
            await finish(pilot, started[-1])
            assert next(iter(proposed(pilot))) == step
            await press_in_turn(pilot, proposed(pilot)[step], "ctrl+s")
        await finish(pilot, started[-1])
        assert list(proposed(pilot)) == ["compare"]
    assert [run.read().kind for run in started] == ["train", "prune", "quantize", "pack"]
    parents = [run.read().parent for run in started]
    assert parents == [None, *(run.ref for run in started[:-1])]


async def test_a_proposed_pruning_has_a_schedule_of_the_sessions_own(full, started):
    async with opened(full, "P", run="001-train") as pilot:
        path = pilot.app.screen.given["compress"]  # type: ignore[attr-defined]
    text = (full.home.path / path).read_text()
    assert "final_sparsity: 0.8" in text
    assert "rnn.weight_hh_l1" in text
    assert "ending_epoch: 27" in text


async def test_a_pruning_that_is_not_started_leaves_no_schedule(full):
    async with opened(full, "P", run="001-train") as pilot:
        assert list((full.session.path / "schedules").iterdir())
        await press(pilot, "escape")
        await until(pilot, lambda: not list((full.session.path / "schedules").iterdir()))


async def test_a_run_is_compared_with_the_one_that_it_was_made_from(full):
    async with opened(full, "C", run="003-quantize") as pilot:
        assert type(pilot.app.screen).__name__ == "CompareScreen"
        assert bench_of(pilot).marked == ("001-train", "003-quantize")
        assert "marked" not in bench_of(pilot).recent_message


async def test_marks_that_a_comparison_takes_from_other_runs_are_told(full):
    async with opened(full, run="003-quantize") as pilot:
        bench_of(pilot).mark(("002-prune", "003-quantize"))
        await press(pilot, "C")
        assert bench_of(pilot).marked == ("001-train", "003-quantize")
        assert "no more 1 other run" in bench_of(pilot).recent_message


@pytest.mark.parametrize(
    "run, key, reason",
    [
        ("002-prune", "Q", "2 agp-80 has not finished"),
        ("003-quantize", "P", "3 int8 is a quantized model: it cannot be pruned"),
        ("003-quantize", "Q", "3 int8 is quantized already"),
        ("001-train", "C", "was made from no run of this session"),
    ],
)
async def test_a_step_that_is_not_proposed_says_why(full: World, run, key, reason):
    async with opened(full, key, run=run) as pilot:
        assert reason in bench_of(pilot).recent_message


async def test_a_finished_run_without_a_model_proposes_nothing_to_make_of_it(full: World):
    full.new("train", "cut", full.session.run(1), status="finished", results={"valid_ppl": 90.0})
    async with opened(full, run="005-train") as pilot:
        assert list(proposed(pilot)) == ["compare"]
        await press(pilot, "Q")
        assert bench_of(pilot).recent_message == "5 cut has no model"


async def test_a_run_that_never_had_a_finite_loss_proposes_nothing_to_make_of_it(full: World):
    diverged = full.new("train", "nan", status="finished", results={"bytes": 29_321_000})
    nan = ev.Epoch(
        epoch=1, step=10, train_loss=math.nan, valid_loss=math.nan, valid_ppl=math.nan,
        best_valid_loss=math.inf, best_epoch=0, lr=20.0, seconds=1.0,
    )  # fmt: skip
    full.write(diverged, nan, ev.Checkpoint(which="last", step=10, epoch=1))
    async with opened(full, run="005-train") as pilot:
        assert not proposed(pilot)
        await press(pilot, "Q")
        assert bench_of(pilot).recent_message == "5 nan has no best checkpoint"
        await press(pilot, "l")
        said = "5 nan has no best checkpoint: no epoch of it ended with a finite loss"
        assert bench_of(pilot).recent_message == said


async def test_a_deleted_run_comes_back_until_the_workbench_is_left(full: World):
    async with opened(full, "d", "y", run="003-quantize") as pilot:
        bench = bench_of(pilot)
        assert bench.last_message == "deleted run 3 int8: U brings it back until you quit"
        assert bench.snapshot.run("003-quantize") is None
        await press_in_turn(pilot, "U")
        assert bench.selected == "003-quantize"
        assert bench.last_message == "run 3 int8 is back"
        await press(pilot, "U")
        assert bench.recent_message == "there is nothing to bring back"
        await press_in_turn(pilot, "d", "y")
        # It was told, and may have another one's name in another session.
        assert bench.deleted == set()
    assert len(list(full.session.runs_path.iterdir())) == 3
