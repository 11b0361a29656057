"""Which runs can write, in which runtimes, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from driving import bench_of, press, settled
from sampler_double import SamplerDouble
from textual.pilot import Pilot

from lmbench.config import GenerateConfig
from lmbench.tui.generate.known_runtimes import KnownRuntimes
from lmbench.tui.generate.panel import GeneratePanel
from lmbench.tui.generate.sampling_controls import SamplingControls


@asynccontextmanager
async def opened(
    world: Any, *marked: str, run: str = "001-train", size: tuple[int, int] = (120, 30)
) -> AsyncIterator[Pilot[None]]:
    app = world.bench()
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        app.select(run)
        if marked:
            app.mark(marked)
        if not app.screen.query_one(GeneratePanel).has_focus_within:
            await press(pilot, "g")
        yield pilot


def dials(pilot: Pilot[None]) -> SamplingControls:
    return pilot.app.screen.query_one(SamplingControls)


def heads(pilot: Pilot[None]) -> str:
    panel = pilot.app.screen.query_one(GeneratePanel)
    return "\n".join(str(c._head.content) for c in panel._texts.shown)


async def turned(pilot: Pilot[None]) -> list[str]:
    """What the runtime dial shows on its way round, the cursor left on it."""
    while dials(pilot).dial.name != "runtime":
        await press(pilot, "right")
    found = []
    while dials(pilot).values["runtime"] not in found:
        found.append(dials(pilot).values["runtime"])
        await press(pilot, "plus")
    return found


# -- who can write -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quantize", "pack"])
@pytest.mark.parametrize("at_work", [True, False])
async def test_what_quantizes_or_packs_has_no_model_until_it_is_finished(full, kind, at_work):
    run = full.new(kind, "w8-gptq", full.session.run(1))
    if at_work:
        full.live(run)
    async with opened(full, run=run.path.name) as pilot:
        assert heads(pilot) == "5 w8-gptq has no model until it is finished."
        await press(pilot, "enter")
        assert bench_of(pilot).last_message == "5 w8-gptq has no model until it is finished."
        assert SamplerDouble.made == []
        run.update(status="finished", pid=None)
        await settled(pilot)
        assert heads(pilot) == "The selected run will write."
        await press(pilot, "enter")
        assert SamplerDouble.made[-1].writes[0].run == str(run.path)


async def test_a_quantize_run_that_did_not_finish_has_none(full):
    run = full.new("quantize", "w8-gptq", full.session.run(1), status="failed")
    async with opened(full, run=run.path.name) as pilot:
        assert heads(pilot) == "5 w8-gptq has no model, since it did not finish."


@pytest.mark.parametrize("kind", ["benchmark", "sensitivity", "evaluate"])
async def test_what_only_measures_names_the_run_that_has_the_model(full, kind):
    run = full.new(kind, "speed", full.session.run(1), status="finished")
    async with opened(full, run=run.path.name) as pilot:
        assert "5 speed measures a model and has none of its own: select 1 dense." in heads(pilot)


async def test_of_marked_runs_those_that_can_write_and_the_others_say_why(full):
    full.live(full.new("quantize", "w8-gptq", full.session.run(1)))
    marked = ("001-train", "003-quantize", "005-quantize")
    async with opened(full, *marked, size=(200, 50)) as pilot:
        assert heads(pilot) == (
            "2 marked runs will write. 5 w8-gptq has no model until it is finished."
        )
        await press(pilot, "enter")
        panel = pilot.app.screen.query_one(GeneratePanel)
        assert [draft.state for draft in panel.drafts] == ["done", "done", "failed"]
        assert "until it is finished" in panel.drafts[2].problem
        assert len(SamplerDouble.made[-1].writes) == 2


# -- in which runtime --------------------------------------------------------------------------


async def test_a_model_runs_as_it_is_as_on_the_command_line(full):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        asked = SamplerDouble.made[-1].writes[0].settings["runtime"]
        assert asked == GenerateConfig().runtime == "as-is"


async def test_the_runtimes_of_a_run_are_offered_once_it_has_written(full):
    async with opened(full) as pilot:
        await press(pilot, "down")
        assert await turned(pilot) == ["as-is", "auto", "torch"]
        await press(pilot, "enter")
        assert await turned(pilot) == ["as-is", "auto", "torch", "naive", "native-int8"]
        bench_of(pilot).select("003-quantize")
        await settled(pilot)
        assert await turned(pilot) == ["as-is", "auto", "torch"]


async def test_side_by_side_only_those_that_all_have_are_offered(full):
    async with opened(full, "001-train", "003-quantize") as pilot:
        await press(pilot, "enter", "down")
        assert await turned(pilot) == ["as-is", "auto", "torch", "naive"]


async def test_a_runtime_that_was_chosen_is_there_when_one_comes_back(full):
    async with opened(full) as pilot:
        await press(pilot, "enter", "down")
        dials(pilot).set("runtime", "native-int8")
        await press(pilot)
        await pilot.app.workers.wait_for_complete()
    async with opened(full) as pilot:
        assert dials(pilot).values["runtime"] == "native-int8"
        await press(pilot, "down")
        assert "naive" in await turned(pilot)


async def test_what_two_workbenches_learn_of_runtimes_is_kept_of_both(full):
    full.session.update(workbench={"runtimes": {"003-quantize": ["bsr"]}})
    async with opened(full) as one:
        async with opened(full, run="003-quantize") as other:
            await press(other, "enter")
        await press(one, "enter")
    async with opened(full, "001-train", "003-quantize") as pilot:
        assert bench_of(pilot).recall_each("runtimes") == {
            "001-train": ["naive", "torch", "native-int8"], "003-quantize": ["naive"],
        }  # fmt: skip


def test_names_from_a_session_that_no_runtime_can_have_are_passed_over():
    kept = {"001-train": ["int8", "\x1b[2J", 7], "002-prune": "int8", "003-pack": ["int8", "bsr"]}
    known = KnownRuntimes(kept)
    assert known.shared(["001-train"]) == ("int8",)
    assert known.shared(["002-prune"]) == ()
    assert known.shared(["003-pack"]) == ("int8", "bsr")
    assert known.shared(["001-train", "003-pack"]) == ("int8",)
    assert known.shared([]) == ()
    assert KnownRuntimes("hostile").all == frozenset()
