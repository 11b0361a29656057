"""A scrolling list of lines with a cursor, the base of tables and trees."""

from __future__ import annotations

from typing import ClassVar, Self

from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.scroll_view import ScrollView

from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["LinesView", "keep_line_in_view"]


def keep_line_in_view(view: ScrollView, line: int, height: int = 1) -> None:
    """Scroll as little as shows `height` lines from `line` on."""
    view.scroll_to_region(Region(0, line, 1, height), animate=False, force=True)


class LinesView(  # pyright: ignore[reportIncompatibleMethodOverride]
    ScrollView, GuardedWidget, can_focus=True
):
    """Override `move_cursor`, which moves the cursor down by so many lines."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown", "move(10)", "page down", show=False),
        Binding("home", "move(-1000000)", "first", show=False),
        Binding("end,G", "move(1000000)", "last", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor", "lines--cursor-blurred"}
    DEFAULT_CSS = """
    LinesView {
        height: 1fr; overflow-x: hidden; background: transparent;
        .lines--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: $block-cursor-text-style;
        }
        .lines--cursor-blurred {
            background: $block-cursor-blurred-background;
            color: $block-cursor-blurred-foreground;
        }
    }
    """

    def refresh(self, *regions: Region, **how: bool) -> Self:
        """Textual forgets the styles of components at each repaint, though they only change with
        `notify_style_update`: finding them takes longer than painting a line."""
        styles = self._rich_style_cache.copy() if regions else {}
        super().refresh(*regions, **how)
        self._rich_style_cache |= styles
        return self

    def watch_show_vertical_scrollbar(self, shown: bool) -> None:
        """Textual moves the thumb only while there is one; a list may have been scrolled before."""
        if shown:
            self.vertical_scrollbar.position = self.scroll_y

    def action_move(self, by: int) -> None:
        self.move_cursor(by)

    def move_cursor(self, by: int) -> None:
        raise NotImplementedError
