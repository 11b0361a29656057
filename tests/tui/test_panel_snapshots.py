"""Layers, generation and the tensor screen as they look at three sizes.

``pytest --snapshot-update`` takes new pictures; look at each before it is committed.
"""

from __future__ import annotations

from typing import Any

import pytest
from driving import press, settled
from sampler_double import SamplerDouble
from test_layers_panel import MODULES, checkpoint, tensor_of
from textual.pilot import Pilot

from lmbench.tui.app import Workbench
from lmbench.tui.generate.panel import GeneratePanel

SIZES = [(80, 24), (120, 30), (200, 50)]
IDS = [f"{width}x{height}" for width, height in SIZES]


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SamplerDouble, "made", [], raising=False)
    monkeypatch.setattr(GeneratePanel, "client_class", SamplerDouble)


async def ready(pilot: Pilot[None], run: str, *marked: str) -> None:
    bench = pilot.app
    assert isinstance(bench, Workbench)
    await settled(pilot)
    bench.select(run)
    bench.mark(marked)
    await press(pilot)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_a_text_with_the_cursor_on_a_word(full: Any, snap_compare: Any, size: tuple[int, int]):
    async def write(pilot: Pilot[None]) -> None:
        await ready(pilot, "002-prune")
        await press(pilot, "g", *"in", "enter", "down", "down", *["right"] * 9, "enter", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=write)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_two_runs_side_by_side(full: Any, snap_compare: Any, size: tuple[int, int]):
    async def write(pilot: Pilot[None]) -> None:
        await ready(pilot, "001-train", "001-train", "003-quantize")
        await press(pilot, "g", *"in", "enter")

    assert snap_compare(full.bench(), terminal_size=size, run_before=write)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_a_tensor_of_a_run_that_prunes(full: Any, snap_compare: Any, size: tuple[int, int]):
    checkpoint(full.session.run(2))

    async def look(pilot: Pilot[None]) -> None:
        await ready(pilot, "002-prune")
        await press(pilot, "3", "down", "down", "enter")
        await tensor_of(pilot)
        await press(pilot, "down", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=look)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_the_modules_of_a_quantized_run(full: Any, snap_compare: Any, size: tuple[int, int]):
    full.write(full.session.run(3), *MODULES)

    async def look(pilot: Pilot[None]) -> None:
        await ready(pilot, "003-quantize")
        await press(pilot, "3", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=look)
