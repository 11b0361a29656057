"""The line in which a panel's list is filtered."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from lmbench.tui.kit.line_input import LineInput
from lmbench.tui.kit.panel import Panel

__all__ = ["FilterInput"]


class FilterInput(LineInput):
    """Escape empties and leaves it, Enter and Down go to the panel's list."""

    PART: ClassVar[str] = "filter"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape", "leave(True)", "no filter", id="filter.clear", tooltip="Take the filter away"
        ),
        Binding(
            "enter,down",
            "leave(False)",
            "to the list",
            id="filter.done",
            key_display="⏎",
            tooltip="From the filter to the list",
        ),
    ]
    DEFAULT_CSS = """
    FilterInput { display: none; }
    FilterInput.-shown { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(placeholder="filter", id="filter")

    def open(self) -> None:
        """Show the line and go to it."""
        self.add_class("-shown")
        self.focus()

    def action_leave(self, clear: bool) -> None:
        if clear:
            self.value = ""
        self.query_ancestor(Panel).take_focus()
