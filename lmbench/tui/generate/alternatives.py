"""What else was likely in a word's place, before and after the sampling settings, as bars."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from lmbench.jobs.hosts.sampler_messages import Alternative, Wrote
from lmbench.tui.generate.tinted_text import shown_word
from lmbench.tui.kit.lines_view import LinesView, keep_line_in_view

__all__ = ["AlternativesList", "bar_of"]

_EIGHTHS = " ▏▎▍▌▋▊▉"
_PERCENT = 7
_LONGEST_WORD = 16


def bar_of(share: float, width: int) -> str:
    """A bar of `share` of `width` cells, to an eighth of a cell; anything above 0 shows."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(width)[:width]


class AlternativesList(LinesView):
    """One line a word, under a head that stays."""

    PART: ClassVar[str] = "list of alternatives"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "alternatives--own",
        "alternatives--head",
        "alternatives--before",
        "alternatives--after",
    }
    DEFAULT_CSS = """
    AlternativesList {
        scrollbar-gutter: stable;
        .alternatives--own { text-style: bold; }
        .alternatives--head { color: $text-muted; }
        .alternatives--before { color: $secondary; }
        .alternatives--after { color: $accent; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,b",
            "take",
            "branch",
            id="alternatives.take",
            tooltip="Take this word and write on from here",
        ),
        Binding("escape,left,h", "leave", "back", id="alternatives.leave", tooltip="Back to words"),
    ]

    class Taken(Message):
        """Go on with this word in the place of the one that was written."""

        def __init__(self, word: Wrote, choice: Alternative) -> None:
            super().__init__()
            self.word = word
            self.choice = choice

    class Left(Message):
        """Back to the words."""

    def __init__(self) -> None:
        super().__init__()
        self.word: Wrote | None = None
        self.rows: tuple[Alternative, ...] = ()
        self.cursor = 0

    def show(self, word: Wrote | None) -> None:
        """Show what else was likely in the place of `word`, the cursor on the word itself."""
        if word is self.word:
            return
        self.word = word
        rows = word.alternatives if word else ()
        if word and rows and all(row.id != word.word for row in rows):
            # It was less likely than all that are listed.
            before = 2.0**-word.bits
            own = Alternative(id=word.word, text=word.text, before=before, after=word.probability)
            rows = (*rows, own)
        self.rows = rows
        self.cursor = next((i for i, r in enumerate(rows) if word and r.id == word.word), 0)
        self.virtual_size = Size(0, len(rows) + 1)
        self.scroll_home(animate=False, immediate=True)
        self._keep_in_sight()
        self.refresh()

    def move_cursor(self, by: int) -> None:
        if self.rows:
            self.cursor = min(max(self.cursor + by, 0), len(self.rows) - 1)
            self._keep_in_sight()
            self.refresh()

    def action_take(self) -> None:
        if self.word is not None and self.rows:
            self.post_message(self.Taken(self.word, self.rows[self.cursor]))

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def on_click(self, event: Click) -> None:
        row = event.y - 1 + int(self.scroll_offset.y)
        if event.y > 0 and 0 <= row < len(self.rows):
            self.cursor = row
            self.refresh()

    def _keep_in_sight(self) -> None:
        # The head covers the first line, so a row stands where the one before it is scrolled to.
        keep_line_in_view(self, self.cursor, 2)

    # -- drawing -------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width, base = self.scrollable_content_region.width, self.visual_style.rich_style
        if self.word is None:
            return Strip.blank(width, base)
        longest = max((cell_len(shown_word(r.text)) for r in self.rows), default=0)
        name = min(max(longest, 5) + 2, _LONGEST_WORD, max(width // 3, 6))
        bars = max((width - name - 2 * _PERCENT) // 2, 1)
        if y == 0:
            return self._head(name, bars).adjust_cell_length(width, base)
        row = y - 1 + int(self.scroll_offset.y)
        if row >= len(self.rows):
            return Strip.blank(width, base)
        return self._row(row, name, bars, base).adjust_cell_length(width, base)

    def _head(self, name: int, bars: int) -> Strip:
        assert self.word is not None
        style = self.get_component_rich_style("alternatives--head")
        bits = f"{self.word.bits:.1f} bits"
        room = name + bars + _PERCENT
        left = f"at «{shown_word(self.word.text)}» {bits}"
        if len(left) + 8 > room:
            left = bits
        left = set_cell_size(left, max(room - 7, 0))
        return Strip([Segment(f"{left}before {'after':>{bars + _PERCENT - 1}}", style)])

    def _row(self, row: int, name: int, bars: int, base: Style) -> Strip:
        assert self.word is not None
        item = self.rows[row]
        own = item.id == self.word.word
        style = base
        if row == self.cursor and self.has_focus:
            style = self.get_component_rich_style("lines--cursor")
        elif own:
            style = self.get_component_rich_style("alternatives--own")
        # Bars are as long as the likeliest of their own kind is likely.
        most_before = max(r.before for r in self.rows) or 1.0
        most_after = max(r.after for r in self.rows) or 1.0
        text = ("▸" if own else " ") + shown_word(item.text)
        return Strip(
            [
                Segment(set_cell_size(text, name - 1) + " ", style),
                Segment(bar_of(item.before / most_before, bars), self._tint("before", style)),
                Segment(_percent(item.before), style),
                Segment(bar_of(item.after / most_after, bars), self._tint("after", style)),
                Segment(_percent(item.after), style),
            ]
        )

    def _tint(self, which: str, style: Style) -> Style:
        tint = self.get_component_rich_style(f"alternatives--{which}", partial=True)
        return style + Style(color=tint.color)


def _percent(share: float) -> str:
    """Seven cells: 11.8%, <0.1%, and a dash for what the settings rule out."""
    if share == 0:
        return "–".rjust(_PERCENT - 1) + " "
    text = "<0.1%" if share < 0.0005 else f"{100 * share:.1f}%"
    return text.rjust(_PERCENT - 1) + " "
