"""The settings' form shows what holds."""

from __future__ import annotations

from driving import bench_of, opened
from driving import press_in_turn as press

from lmbench.tui.kit.form import Form


async def test_a_theme_that_comes_by_its_key_is_shown_in_the_form(full):
    async with opened(full, "comma") as pilot:
        await press(pilot, "ctrl+t")
        shown = pilot.app.screen.query_one(Form).values["theme"]
        assert bench_of(pilot).theme == f"lmbench-{shown}" != "lmbench-dark"


async def test_another_setting_leaves_the_theme_of_all_sessions_as_it_is(full):
    async with opened(full, "comma") as pilot:
        bench = bench_of(pilot)
        theme, notify = bench.settings.theme, bench.settings.notify
        await press(pilot, "ctrl+t", "down", "down", "right")
        assert bench.settings.notify != notify
        assert bench.settings.theme == theme != bench.theme
        await press(pilot, "up", "up", "right")
        assert bench.settings.theme == bench.theme
