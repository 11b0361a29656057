"""Tensors, modules, and one tensor's values."""

from __future__ import annotations

from typing import Any

from driving import press, select
from layers_world import FILE, MODULES, checkpoint, tensor_of
from pictures import Snap, at_each_size
from textual.pilot import Pilot


@at_each_size
def test_a_tensor_of_a_run_that_prunes(full: Any, snap_compare: Snap, size: tuple[int, int]):
    checkpoint(full.session.run(2))

    async def refresh_snapshot(pilot: Pilot[None]) -> None:
        await select(pilot, "002-prune")
        await press(pilot, "3", "down", "down", "enter")
        await tensor_of(pilot)
        await press(pilot, "down", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=refresh_snapshot)


@at_each_size
def test_the_modules_of_a_quantized_run(full: Any, snap_compare: Snap, size: tuple[int, int]):
    full.write(full.session.run(3), *MODULES)

    async def refresh_snapshot(pilot: Pilot[None]) -> None:
        await select(pilot, "003-quantize")
        await press(pilot, "3", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=refresh_snapshot)


@at_each_size
def test_the_file_of_a_packed_run(full: Any, snap_compare: Snap, size: tuple[int, int]):
    full.new("pack", "packed", full.session.run(1), status="finished", results=FILE)

    async def refresh_snapshot(pilot: Pilot[None]) -> None:
        await select(pilot, "005-pack")
        await press(pilot, "3", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=refresh_snapshot)
