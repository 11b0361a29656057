"""Lists of lines: what scrolls them, and what shows how far."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.geometry import Size

from lmbench.tui.kit.lines_view import LinesView, keep_line_in_view


class Lines(LinesView):
    def move_cursor(self, by: int) -> None: ...


class Alone(App[None]):
    def compose(self) -> ComposeResult:
        yield Lines()


async def test_the_scroll_bar_shows_where_a_list_was_scrolled_to_before_it_had_one() -> None:
    app = Alone()
    async with app.run_test(size=(40, 10)) as pilot:
        view = app.query_one(Lines)
        view.virtual_size = Size(1, 100)
        view.scroll_to(y=40, animate=False, force=True)
        assert not view.show_vertical_scrollbar
        await pilot.pause()
        assert view.show_vertical_scrollbar
        assert view.vertical_scrollbar.position == view.scroll_y == 40
        keep_line_in_view(view, 99)
        await pilot.pause()
        assert view.vertical_scrollbar.position == view.scroll_y == 90
