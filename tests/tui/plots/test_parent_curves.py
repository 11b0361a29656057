"""A run that is no training is seen on the curves of the training that it came from."""

from __future__ import annotations

import math
from typing import Any

import pytest
from driving import bench_of, press, settled, words
from textual.pilot import Pilot

from lmbench.tui.plots.panel import PlotPanel


def panel(pilot: Pilot[None]) -> PlotPanel:
    return pilot.app.screen.query_one(PlotPanel)


async def shown(pilot: Pilot[None], *keys: str, key: str = "003-quantize") -> dict[str, Any]:
    await settled(pilot)
    bench_of(pilot).select(key)
    await press(pilot, "2", *keys)
    return {series.label: series for series in panel(pilot).plot().series}


@pytest.mark.parametrize("axis", [0, 1, 2])
async def test_a_quantized_run_is_a_level_over_its_parent_s_curves(full, axis):
    async with full.bench().run_test(size=(200, 50)) as pilot:
        series = await shown(pilot, *["x"] * axis)
        assert {"1 dense train", "1 dense valid", "3 int8 valid"} <= set(series)
        level, curve = series["3 int8 valid"], series["1 dense train"]
        assert level.x.tolist() == [curve.x[0], max(s.x[-1] for s in series.values())]
        assert level.y == pytest.approx(math.log(124.6))
        assert (level.marker, level.marker in words(pilot)) == ("▲", True)
        assert "3 int8 valid 124.6" in words(pilot)
        assert "of 1 dense" in words(pilot)


async def test_the_level_is_a_loss_among_losses_and_nothing_among_rates(full):
    async with full.bench().run_test(size=(200, 50)) as pilot:
        series = await shown(pilot, "right_square_bracket")
        assert series["3 int8 valid"].transform is None
        assert "3 int8 valid 4.825" in words(pilot)
        series = await shown(pilot, "right_square_bracket", "right_square_bracket")
        assert list(series) == ["1 dense"]


async def test_its_parent_is_not_drawn_twice_where_it_is_marked(full):
    async with full.bench().run_test(size=(200, 50)) as pilot:
        await settled(pilot)
        bench_of(pilot).mark(("001-train",))
        await shown(pilot)
        labels = [series.label for series in panel(pilot).plot().series]
        assert labels.count("1 dense valid") == 1


async def test_the_foot_names_whose_curves_are_shown_and_not_what_else_is_marked(full):
    async with full.bench().run_test(size=(200, 50)) as pilot:
        await settled(pilot)
        bench_of(pilot).mark(("002-prune",))
        await shown(pilot)
        assert panel(pilot)._subtitle.endswith(" · of 1 dense")
        bench_of(pilot).mark(("002-prune", "004-quantize"))
        await press(pilot)
        assert panel(pilot)._subtitle.endswith(" · of 1, 2")


async def test_the_line_comes_when_the_run_is_scored(full):
    async with full.bench().run_test(size=(120, 30)) as pilot:
        series = await shown(pilot, key="004-quantize")
        assert {"2 train", "2 valid"} <= set(series)
        assert "4 valid" not in series
        full.session.run(4).update(status="finished", results={"valid_ppl": 133.3})
        await settled(pilot)
        assert "4 valid 133.3" in words(pilot)


async def test_each_tensor_s_sparsity_is_that_of_the_training(full):
    async with full.bench().run_test(size=(200, 50)) as pilot:
        turns = ["right_square_bracket"] * 2
        series = await shown(pilot, *turns, "t", key="004-quantize")
        assert "encoder.weight" in series


async def test_a_run_without_any_training_says_so(world):
    world.new("quantize", "int8", status="finished", results={"valid_ppl": 124.6})
    async with world.bench().run_test(size=(120, 30)) as pilot:
        assert not await shown(pilot, key="001-quantize")
        assert "int8 is no training, so it has no curves." in words(pilot)


async def test_what_was_scored_on_a_sample_draws_no_line(full):
    results = {"valid_ppl": 105.9}
    full.new("sensitivity", "curves", full.session.run(1), status="finished", results=results)
    async with full.bench().run_test(size=(120, 30)) as pilot:
        assert set(await shown(pilot, key="005-sensitivity")) == {"1 train", "1 valid", "1 test"}
