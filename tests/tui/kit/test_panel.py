"""What all panels share."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Static

from lmbench.tui.kit.panel import update_static


class _Lines(App[None]):
    def compose(self) -> ComposeResult:
        yield Static("")


async def test_a_text_that_grew_is_shown_whole_though_it_was_laid_out_meanwhile():
    async with _Lines().run_test() as pilot:
        static = pilot.app.query_one(Static)
        update_static(static, "one line")
        await pilot.pause()
        static.refresh(layout=True)
        pilot.app.screen._clear_arrangement_cache()
        pilot.app.screen._refresh_layout()
        update_static(static, "one line\nand another")
        await pilot.pause()
        await pilot.pause()
        assert static.size.height == 2
