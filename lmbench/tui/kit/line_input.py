"""A line to type into."""

from __future__ import annotations

from typing import Any

from textual.geometry import Region
from textual.keys import REPLACED_KEYS
from textual.widgets import Input

__all__ = ["LineInput"]


class LineInput(Input):
    """One line without a frame, whose cursor does not blink."""

    DEFAULT_CSS = """
    LineInput { background: $surface; }
    """

    def __init__(self, value: str = "", **named: Any) -> None:
        super().__init__(value, compact=True, **named)
        self.cursor_blink = False

    def check_consume_key(self, key: str, character: str | None) -> bool:
        # Textual finds no character for the keys to which it has given short names, as `slash`.
        return key in REPLACED_KEYS or super().check_consume_key(key, character)

    def update_node_styles(self, animate: bool = True) -> None:
        # Being mounted styles it; Textual would do so twice before.
        if self.is_attached:
            super().update_node_styles(animate)

    def on_resize(self) -> None:
        # Textual scrolls to the cursor when that moves, and not when the line gets narrower.
        cursor = Region(self._cursor_offset, 0, 1, 1)
        self.scroll_to_region(cursor, force=True, animate=False)
