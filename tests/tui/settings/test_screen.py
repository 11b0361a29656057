"""The settings' form shows what holds."""

from __future__ import annotations

from driving import bench_of, opened, press

from lmbench.tui.kit.form import Form


async def test_a_theme_that_comes_by_its_key_is_shown_in_the_form(full):
    async with opened(full, "comma") as pilot:
        await press(pilot, "ctrl+t")
        shown = pilot.app.screen.query_one(Form).values["theme"]
        assert bench_of(pilot).theme == f"lmbench-{shown}" != "lmbench-dark"
