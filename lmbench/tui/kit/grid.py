"""A table with a head and a total that stay, a cursor, and lines that are painted only if new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.app import ComposeResult
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widgets import Static

from lmbench.printable import printable
from lmbench.tui.kit.bars import sparkbars
from lmbench.tui.kit.lines_view import LinesView, keep_line_in_view
from lmbench.tui.kit.panel import Panel, update_static

__all__ = ["Cell", "Column", "Grid", "GridPanel", "Row"]


_BLANKS = str.maketrans("\n\t", "  ")


@dataclass(frozen=True, slots=True)
class Column:
    """`width` cells, and `grow` shares of what is left over, up to `most`. Where there is too
    little room the columns of the highest `rank` are left out first."""

    title: str
    width: int
    left: bool = False
    grow: int = 0
    rank: int = 0
    most: int = 1000


@dataclass(frozen=True, slots=True)
class Cell:
    """A text; before it a bar, where `share` is given; or a small histogram of `counts`."""

    text: str = ""
    tint: str = ""
    """A colour of the theme: good is ``success``, bad is ``error``."""
    share: float | None = None
    counts: tuple[int, ...] = ()


Row = tuple[str, tuple[Cell, ...]]
"""A key, and a cell for each column."""


class Grid(LinesView):
    """Enter on a row posts `Opened`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "grid--head",
        "grid--total",
        "grid--bar",
        "grid--bar-rest",
    }
    DEFAULT_CSS = """
    Grid {
        .grid--head { color: $text-muted; }
        .grid--total { text-style: bold; }
        .grid--bar { color: $primary; }
        .grid--bar-rest { color: $faint; }
    }
    """

    class Moved(Message):
        """The cursor is on another row."""

    class Opened(Message):
        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self) -> None:
        super().__init__()
        self.columns: tuple[Column, ...] = ()
        self.rows: tuple[Row, ...] = ()
        self.total: tuple[Cell, ...] = ()
        self.sorted_by = -1
        self.cursor_key = ""

    # -- what is shown -------------------------------------------------------------------------

    def show(
        self,
        columns: tuple[Column, ...],
        rows: tuple[Row, ...],
        total: tuple[Cell, ...] = (),
        sorted_by: int = -1,
    ) -> None:
        """Show these rows; a cursor stays on its row's key. Unchanged lines are not painted."""
        same = columns == self.columns and len(rows) == len(self.rows)
        same = same and bool(total) == bool(self.total) and sorted_by == self.sorted_by
        old, old_total = self.rows, self.total
        old_cursor = self.cursor
        self.columns, self.rows, self.total, self.sorted_by = columns, rows, total, sorted_by
        if rows and self.cursor < 0:
            self.cursor_key = rows[0][0]
        self.virtual_size = Size(0, len(rows) + 1 + bool(total))
        if not same or self.cursor != old_cursor:
            self._keep_in_sight()
            self.refresh()
            return
        # Textual counts these lines from the first, and takes off what is scrolled.
        for index, (before, now) in enumerate(zip(old, rows, strict=True)):
            if before != now:
                self.refresh_line(index + 1)
        if total != old_total:
            self.refresh_line(int(self.scroll_offset.y) + self.size.height - 1)
            self.refresh_line(len(rows) + 1)

    @property
    def cursor(self) -> int:
        """The row of the cursor, -1 where its key is gone."""
        return next((i for i, (key, _) in enumerate(self.rows) if key == self.cursor_key), -1)

    def move_cursor(self, by: int) -> None:
        if self.rows:
            place = min(max(self.cursor + by, 0), len(self.rows) - 1)
            self.cursor_key = self.rows[place][0]
            self._keep_in_sight()
            self.refresh()
            self.post_message(self.Moved())

    def action_open(self) -> None:
        if self.cursor >= 0:
            self.post_message(self.Opened(self.cursor_key))

    def on_click(self, event: Click) -> None:
        row = event.y - 1 + int(self.scroll_offset.y)
        if event.y > 0 and 0 <= row < len(self.rows):
            again = self.cursor_key == self.rows[row][0] and event.chain > 1
            self.cursor_key = self.rows[row][0]
            self.refresh()
            self.post_message(self.Moved())
            if again:
                self.action_open()

    def on_resize(self) -> None:
        self._keep_in_sight()

    def _keep_in_sight(self) -> None:
        if self.cursor >= 0:
            # The head covers the first line and the total the last.
            keep_line_in_view(self, self.cursor, 2 + bool(self.total))

    # -- drawing -------------------------------------------------------------------------------

    @property
    def shown_columns(self) -> list[int]:
        """The places of those that there is room for."""
        return [i for i, _ in self.layout_columns(self.scrollable_content_region.width)]

    def layout_columns(self, width: int) -> list[tuple[int, int]]:
        """Which columns there is room for, with the width of each."""
        shown = list(range(len(self.columns)))
        while len(shown) > 1 and sum(self.columns[i].width + 1 for i in shown) - 1 > width:
            worst = max(shown, key=lambda i: (self.columns[i].rank, i))
            if not self.columns[worst].rank:
                break
            shown.remove(worst)
        spare = max(width - sum(self.columns[i].width + 1 for i in shown) + 1, 0)
        shares = sum(self.columns[i].grow for i in shown)
        return [
            (i, min(c.width + (spare * c.grow // shares if shares else 0), c.most))
            for i in shown
            for c in [self.columns[i]]
        ]

    def render_line(self, y: int) -> Strip:
        width, base = self.scrollable_content_region.width, self.visual_style.rich_style
        if not self.columns:
            return Strip.blank(width, base)
        columns = self.layout_columns(width)
        overflowing = len(self.rows) + 1 + bool(self.total) > self.size.height
        row = y - 1 + int(self.scroll_offset.y)
        if y == 0:
            return self._head(columns).adjust_cell_length(width, base)
        last = self.size.height - 1 if overflowing else len(self.rows) + 1
        if self.total and y == last:
            style = self.get_component_rich_style("grid--total")
            return self._line(self.total, columns, style).adjust_cell_length(width, style)
        if row >= len(self.rows):
            return Strip.blank(width, base)
        key, cells = self.rows[row]
        if key == self.cursor_key:
            name = "lines--cursor" if self.has_focus else "lines--cursor-blurred"
            base = self.get_component_rich_style(name)
        return self._line(cells, columns, base).adjust_cell_length(width, base)

    def _head(self, columns: list[tuple[int, int]]) -> Strip:
        head = self.get_component_rich_style("grid--head")
        chosen = head + Style(bold=True, underline=True)
        segments = []
        for index, width in columns:
            column = self.columns[index]
            text = _fit(column.title, width, column.left)
            segments += [Segment(text, chosen if index == self.sorted_by else head)]
            segments.append(Segment(" ", head))
        return Strip(segments)

    def _line(self, cells: tuple[Cell, ...], columns: list[tuple[int, int]], base: Style) -> Strip:
        segments: list[Segment] = []
        for index, width in columns:
            cell = cells[index]
            style = base
            if cell.tint:
                style = base + self.bench.colour_style(cell.tint)
            if cell.share is not None:
                room = max(width - cell_len(cell.text) - 1, 0)
                segments += [*self._bar(cell.share, room, base), Segment(" ", base)]
                width = cell_len(cell.text)
            text = sparkbars(cell.counts, width) if cell.counts else cell.text
            text = _fit(text, width, self.columns[index].left)
            segments += [Segment(text, style), Segment(" ", base)]
        return Strip(segments)

    def _bar(self, share: float, width: int, base: Style) -> list[Segment]:
        full = round(min(max(share, 0.0), 1.0) * width)
        if 0 < share < 1 and width > 1:
            full = min(max(full, 1), width - 1)
        done = self.get_component_rich_style("grid--bar", partial=True).color
        rest = self.get_component_rich_style("grid--bar-rest", partial=True).color
        return [
            Segment("█" * full, base + Style(color=done)),
            Segment("░" * (width - full), base + Style(color=rest)),
        ]


def _fit(text: str, width: int, left: bool) -> str:
    text = printable(text).translate(_BLANKS)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(width - 1, 0)) + "…"[: width > 0]
    return text + " " * (width - length) if left else " " * (width - length) + text


class GridPanel(Panel):
    """A panel with a table, or with words where that has no rows; the focus goes along."""

    DEFAULT_CSS = """
    GridPanel #nothing { display: none; height: 1fr; padding: 0 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("", id="nothing", markup=False)

    def show_grid(self, shown: bool, words: str = "") -> None:
        """Show the table, or in its place the words."""
        grid, nothing = self.query_one(Grid), self.query_one("#nothing", Static)
        focused = self.has_focus if shown else grid.has_focus
        grid.display, nothing.display, self.can_focus = shown, not shown, not shown
        update_static(nothing, words)
        if focused:
            (grid if shown else self).focus()

    def action_open(self) -> None:
        self.query_one(Grid).action_open()
