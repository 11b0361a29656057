"""Texts and their words."""

from __future__ import annotations

from typing import Any

from driving import press, select, until
from pictures import Snap, at_each_size
from textual.pilot import Pilot

from lmbench.tui.generate.panel import GeneratePanel


@at_each_size
def test_a_text_with_the_cursor_on_a_word(full: Any, snap_compare: Snap, size: tuple[int, int]):
    async def write(pilot: Pilot[None]) -> None:
        await select(pilot, "002-prune")
        await press(pilot, "g", *"in", "enter")
        panel = pilot.app.screen.query_one(GeneratePanel)
        await until(pilot, lambda: bool(panel.drafts) and not panel.writing)
        await press(pilot, "down", "down", *["right"] * 9, "enter", "down")

    assert snap_compare(full.bench(), terminal_size=size, run_before=write)


@at_each_size
def test_two_runs_side_by_side(full: Any, snap_compare: Snap, size: tuple[int, int]):
    async def write(pilot: Pilot[None]) -> None:
        await select(pilot, "001-train", "001-train", "003-quantize")
        await press(pilot, "g", *"in", "enter")

    assert snap_compare(full.bench(), terminal_size=size, run_before=write)
