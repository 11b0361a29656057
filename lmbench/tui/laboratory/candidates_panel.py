"""The laboratory's candidates, best first, with the settings of the one under the cursor."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from lmbench.report import numbers
from lmbench.tui.bench.snapshots import one_line
from lmbench.tui.kit.grid import Cell, Column, Grid, GridPanel
from lmbench.tui.kit.panel import update_static
from lmbench.tui.laboratory.candidates import Candidate, best_first
from lmbench.tui.laboratory.packed_size import size_note
from lmbench.tui.laboratory.state import LaboratoryState

__all__ = ["CandidatesPanel"]

_COLUMNS = (
    Column("candidate", 17, left=True, grow=1),
    Column("perplexity", 10),
    Column("change", 7),
    Column("size", 8),
    Column("loss", 8, rank=2),
    Column("time", 6, rank=3),
    Column("settings", 14, left=True, grow=3, rank=1),
)
# Changes of the perplexity against the model as it is, in percent.
_GOOD, _POOR = 0.5, 5.0
# Lines that are left to the list where a candidate's settings take many.
_LISTED = 3
_NONE_YET = "No candidate yet: Enter evaluates the draft, u the published settings."
_SIGNS = {"waiting": "waiting …", "running": "running …"}


class CandidatesPanel(GridPanel):
    """Posts `DraftLoaded` when a candidate became the draft."""

    class DraftLoaded(Message):
        pass

    TITLE = "Candidates"
    HELP = """
The settings that were evaluated, the best first: perplexity on the sample, its change against the
model as it is, the size of the packed model, the loss in nats a token, and the time that evaluating
it took. Below stand the settings of the one under the cursor, and why its file is no smaller where
that is not plain. **Enter** loads a candidate into the draft,
**K** makes a quantize run of it, scored on all of valid and test. **x** removes it from the list.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "load", "to draft", id="lab.load", tooltip="Load it into the draft"),
        Binding("x", "remove", "remove", id="lab.remove", tooltip="Remove the candidate"),
    ]
    DEFAULT_CSS = """
    CandidatesPanel #settings { height: auto; min-height: 1; color: $text-muted; }
    """

    def __init__(self, state: LaboratoryState, id: str) -> None:
        super().__init__(id=id)
        self.state = state
        self.tied = False

    def compose(self) -> ComposeResult:
        yield from super().compose()
        yield Static("", id="settings", markup=False)

    def refresh_view(self) -> None:
        found = best_first(self.state.candidates)
        self.show_grid(bool(found), _NONE_YET)
        self.query_one("#settings").display = bool(found)
        rows = tuple((str(c.number), self._cells(c)) for c in found)
        self.query_one(Grid).show(self._columns([c.name for c in found]), rows)
        waiting = sum(c.state in ("waiting", "running") for c in found)
        self.set_subtitle(f"{waiting} to be evaluated" if waiting else "")
        self._show_settings()
        self.refresh_bindings()

    def on_resize(self) -> None:
        self.refresh_view()

    def _columns(self, names: list[str]) -> tuple[Column, ...]:
        """With the names whole as far as the figures leave room: columns with a rank make way."""
        name, *rest = _COLUMNS
        # Of the panel: the grid has no width before its first row, and may get a scrollbar.
        room = self.content_size.width - 1
        room -= sum(column.width + 1 for column in rest if not column.rank)
        longest = max(map(cell_len, names), default=0)
        return replace(name, width=max(name.width, min(longest, room))), *rest

    def _show_settings(self) -> None:
        """Below the grid, in full words, what the grid may have no room for, of the candidate under
        the cursor; then, on lines of its own, a note on its size."""
        chosen, words, note = self.chosen, "", ""
        if chosen is not None:
            words = one_line(chosen.problem or chosen.words)
            if cell_len(chosen.name) > self.query_one(Grid).columns[0].width:
                words = f"{one_line(chosen.name)}: {words}"
            note = size_note(chosen, self.state.modules, self.tied)
        room = max((self.content_size.height - _LISTED) // 2, 1)
        about_size = self._wrapped(note, room)
        lines = self._wrapped(words, max(room - len(about_size), 1)) + about_size
        update_static(self.query_one("#settings", Static), "\n".join(lines))

    def _wrapped(self, text: str, lines: int) -> list[str]:
        width = max(self.content_size.width, 1)
        return textwrap.wrap(text, width, break_on_hyphens=False, max_lines=lines, placeholder=" …")

    def _cells(self, entry: Candidate) -> tuple[Cell, ...]:
        name, words = Cell(entry.name), Cell(entry.words)
        if entry.state == "failed":
            return (name, Cell("failed", "error"), *(Cell(),) * 4, Cell(one_line(entry.problem)))
        if entry.state != "evaluated":
            return (name, Cell(_SIGNS[entry.state]), *(Cell(),) * 4, words)
        return (
            name,
            Cell(numbers.perplexity(entry.ppl)),
            _percent(self.state.change(entry.ppl)),
            Cell(numbers.size(entry.bytes)),
            Cell(f"{entry.loss:.4f}"),
            Cell(f"{entry.seconds:.1f} s"),
            words,
        )

    @property
    def chosen(self) -> Candidate | None:
        """The candidate under the cursor."""
        key = self.query_one(Grid).cursor_key
        return next((c for c in self.state.candidates if str(c.number) == key), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        chosen = self.chosen
        if action == "load":
            return chosen is not None and bool(chosen.settings)
        return chosen is not None and chosen.state != "running"

    def action_load(self) -> None:
        if self.chosen is not None:
            self.state.load_draft(self.chosen)
            self.post_message(self.DraftLoaded())

    def action_remove(self) -> None:
        if self.chosen is not None:
            self.state.remove(self.chosen)

    def on_grid_moved(self) -> None:
        self._show_settings()
        self.refresh_bindings()


def _percent(change: float | None) -> Cell:
    if change is None:
        return Cell()
    tint = "success" if change <= _GOOD else "error" if change > _POOR else "warning"
    return Cell(f"{change:+z.1f}%" if abs(change) < 1000 else ">999%", tint)
