"""The schedule editor."""

from __future__ import annotations

from typing import Any

from driving import at_rest, screen_of
from pictures import Snap, at_each_size, pressing
from textual.pilot import Pilot

from lmbench.tui.schedule.screen import ScheduleScreen


@at_each_size
def test_the_schedule_editor(snap_compare: Snap, full, size):
    assert snap_compare(full.bench(), terminal_size=size, run_before=pressing("S"))


@at_each_size
def test_the_schedule_editor_with_mistakes(snap_compare: Snap, full, size):
    async def before(pilot: Pilot[Any]) -> None:
        await pressing("S")(pilot)
        screen = screen_of(pilot, ScheduleScreen)
        text = screen.editor.text.replace("0.74", "1.74", 1).replace("frequency", "frequncy", 1)
        screen.editor.load_text(text.replace("_ih_l1", "_ih_l7"))
        await at_rest(pilot)
        await pressing("ctrl+g")(pilot)

    assert snap_compare(full.bench(), terminal_size=size, run_before=before)
