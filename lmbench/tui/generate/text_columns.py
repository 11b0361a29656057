"""The texts of several runs at once, side by side where there is room."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Container

from lmbench.jobs.hosts.sampler_messages import Wrote
from lmbench.tui.generate.text_column import TextColumn
from lmbench.tui.generate.tinted_text import GeneratedText, TintedText

__all__ = ["MOST_TEXTS", "TextColumns"]

MOST_TEXTS = 4
# Columns narrower than this stand under each other.
_NARROWEST_COLUMN = 16


class TextColumns(Container):
    """As many columns as there are drafts; at least one, which may be empty."""

    DEFAULT_CSS = """
    TextColumns { width: 1fr; height: 1fr; layout: vertical; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.columns = tuple(TextColumn() for _ in range(MOST_TEXTS))
        self.columns[0].add_class("-last")

    def compose(self) -> ComposeResult:
        yield from self.columns

    @property
    def drafts(self) -> tuple[GeneratedText, ...]:
        """The texts on the screen."""
        return tuple(c.text.draft for c in self.columns if c.text.draft is not None)

    @property
    def writing(self) -> bool:
        return any(draft.alive for draft in self.drafts)

    @property
    def shown(self) -> list[TextColumn]:
        return [column for column in self.columns if column.display]

    @property
    def focused(self) -> TextColumn | None:
        """The column whose text has the focus, or the cursor, or else the first."""
        shown = self.shown
        for column in shown:
            if column.text.has_focus:
                return column
        for column in shown:
            if column.text.cursor is not None:
                return column
        return shown[0] if shown else None

    def show(self, drafts: Sequence[GeneratedText]) -> None:
        """A text a column; the columns left over are empty."""
        for column, draft in itertools.zip_longest(self.columns, drafts):
            column.text.show(draft)

    def with_word(self, word: Wrote) -> TextColumn | None:
        return next((column for column in self.columns if column.holds(word)), None)

    def fit(self, width: int) -> bool:
        """Show the columns that are needed; do they fit side by side?"""
        count = max(len(self.drafts), 1)
        for place, column in enumerate(self.columns):
            column.display = place < count
            column.set_class(place == count - 1, "-last")
            column.alone = count == 1
            column.show_head()
        return width // count >= _NARROWEST_COLUMN

    def take_cursor(self, view: TintedText) -> None:
        """One text alone has the cursor."""
        for column in self.columns:
            if column.text is not view:
                column.text.cursor = None
                column.text.refresh()

    def focus_beside(self, by: int) -> None:
        """Go to the text so many further on."""
        shown, here = self.shown, self.focused
        place = shown.index(here) if here is not None else 0
        shown[(place + by) % len(shown)].text.focus()
