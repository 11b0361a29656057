"""Search in a widget of lines: `/` asks for words, `n` and `N` go from match to match."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from lmbench.tui.kit.dialog import TextDialog
from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["Searchable", "restyled", "selected"]


class Searchable(GuardedWidget):
    """Override `places`, `place` and `go_to`; a place is the number of a line or a word."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search", id="search.start", key_display="/",
                tooltip="Search the text"),
        Binding("n", "next_match(1)", "next match", id="search.next",
                tooltip="To the next match, once something was searched"),
        Binding("N", "next_match(-1)", "previous match", id="search.previous",
                tooltip="To the match before, once something was searched"),
    ]  # fmt: skip

    sought: str = ""
    """What was searched for last, in lower case."""

    @property
    def searched(self) -> str:
        """Where a search looks, after “there is none”."""
        return "here"

    def places(self, text: str) -> list[int]:
        """Where `text` (in lower case) is found, in ascending order."""
        raise NotImplementedError

    @property
    def place(self) -> int:
        """Where a search begins: the match that is shown, or the first place in view."""
        raise NotImplementedError

    def go_to(self, place: int) -> None:
        """Show this match."""
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "next_match" or bool(self.sought)

    def action_search(self) -> None:
        def check(text: str) -> str:
            return "" if self.places(text.lower()) else f"There is no “{text}” {self.searched}."

        def given(text: str | None) -> None:
            if text:
                self.sought = text.lower()
                found = self.places(self.sought)
                self._show(next((at for at in found if at >= self.place), found[0]), found)
                self.refresh_bindings()

        self.app.push_screen(TextDialog("Search", "Search for:", self.sought, check), given)

    def action_next_match(self, by: int) -> None:
        found, here = self.places(self.sought), self.place
        further = [at for at in found if (at > here if by > 0 else at < here)]
        if not found:
            self.bench.show_message(f"there is no “{self.sought}” here any more", keep=False)
            return
        again = "" if further else ", from the other end again"
        self._show((further or found)[0 if by > 0 else -1], found, again)

    def _show(self, at: int, found: list[int], how: str = "") -> None:
        self.bench.show_message(f"match {found.index(at) + 1} of {len(found)}{how}", keep=False)
        self.go_to(at)


def restyled(strip: Strip, start: int, end: int, style: Style) -> Strip:
    """The strip with `style` over its text from `start` to `end`, in characters; -1 is its end."""
    start = cell_len(strip.text[:start])
    end = cell_len(strip.text[:end]) if end >= 0 else strip.cell_length
    inside = strip.crop(start, end)
    segments = [Segment(s.text, (s.style or Style()) + style) for s in inside]
    return Strip.join([strip.crop(0, start), Strip(segments), strip.crop(end)])


def selected(widget: Widget, strip: Strip, row: int) -> Strip:
    """The strip with what is selected in it marked, and its places named for the mouse."""
    span = widget.text_selection.get_span(row) if widget.text_selection else None
    if span is not None:
        # Faint words would be hard to read on its background.
        style = widget.screen.get_component_rich_style("screen--selection") + Style(dim=False)
        strip = restyled(strip, *span, style)
    return strip.apply_offsets(0, row)
