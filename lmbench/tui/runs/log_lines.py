"""The lines of a log: followed as they come, searched, selected with the mouse."""

from __future__ import annotations

import bisect
import re
from typing import Self

from rich.style import Style
from textual.selection import Selection
from textual.strip import Strip
from textual.widgets import RichLog

from lmbench.tui.kit.search import Searchable, restyled, selected

__all__ = ["LogLines"]

_MATCH, _CURRENT = Style(underline=True, bold=True), Style(reverse=True)


class LogLines(RichLog, Searchable):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Matches are underlined, those of the line that is gone to reversed."""

    # The line of the match that is shown: its number changes when old lines are dropped.
    _match: Strip | None = None

    def on_mount(self) -> None:
        # Follows its end until one scrolls up, through every change of its height.
        self.anchor()

    def clear(self) -> Self:
        """Forget the lines, and with them what was selected of them."""
        kept = {w: where for w, where in self.screen.selections.items() if w is not self}
        self.screen.selections = kept
        return super().clear()

    def places(self, text: str) -> list[int]:
        # A phrase may go on in the next row.
        starts, joined = list[int](), ""
        for line in self.lines:
            starts.append(len(joined))
            joined += line.text.lower().rstrip() + " "
        found = re.finditer(re.escape(text), joined)
        return sorted({bisect.bisect_right(starts, match.start()) - 1 for match in found})

    @property
    def place(self) -> int:
        rows = (row for row, line in enumerate(self.lines) if line is self._match)
        return next(rows, int(self.scroll_offset.y))

    def go_to(self, place: int) -> None:
        self._match = self.lines[place]
        self.scroll_to(y=place - self.size.height // 2, animate=False, force=True)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        strip = super().render_line(y)
        row = int(self.scroll_offset.y) + y
        if self.sought and row < len(self.lines):
            style = _CURRENT if self.lines[row] is self._match else _MATCH
            for found in re.finditer(re.escape(self.sought), strip.text, re.IGNORECASE):
                strip = restyled(strip, *found.span(), style)
        return selected(self, strip, row)

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        return selection.extract("\n".join(line.text.rstrip() for line in self.lines)), "\n"
