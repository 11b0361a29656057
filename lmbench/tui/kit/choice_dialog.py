"""A dialog that offers a list to choose one from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from lmbench.tui.kit.panel import Guarded

__all__ = ["ChoiceDialog"]

_LEAST_WIDTH = 76
# The widest that a value can be before the words about it move to the right.
_VALUE_WIDTH = 28
_FRAME = 6
_KEYS = "↑ ↓ choose   enter take   esc back"


class ChoiceDialog(ModalScreen[str | None], Guarded):
    """Gives the value that was chosen, or None when left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="pick.back", tooltip="Back, choosing nothing"),
        Binding("j", "move('down')", show=False),
        Binding("k", "move('up')", show=False),
    ]
    DEFAULT_CSS = """
    ChoiceDialog { align: center middle; }
    ChoiceDialog > Vertical {
        max-width: 96%; height: auto; max-height: 90%;
        border: heavy $accent; background: $surface; padding: 0 1;
        border-title-color: $accent; border-title-style: bold;
        border-subtitle-color: $text-muted;
    }
    ChoiceDialog OptionList, ChoiceDialog OptionList:focus {
        height: auto; max-height: 100%; border: none; padding: 0; background: $surface;
        background-tint: $foreground 0%; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def __init__(self, title: str, options: Sequence[tuple[str, str]], chosen: str = "") -> None:
        """`options` are values, each with a few words about it; `chosen` has the cursor first."""
        super().__init__()
        self._title = title
        self._options = tuple(options)
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = Content(self._title)
            box.border_subtitle = _KEYS
            longest = max((len(value) for value, _ in self._options), default=0)
            lines = [_line(v, about, min(_VALUE_WIDTH, longest)) for v, about in self._options]
            widest = max((line.cell_len for line in lines), default=0)
            box.styles.width = max(_LEAST_WIDTH, widest + _FRAME)
            yield OptionList(*map(Option, lines))

    def on_mount(self) -> None:
        values = [value for value, _ in self._options]
        if values:
            here = values.index(self._chosen) if self._chosen in values else 0
            self.query_one(OptionList).highlighted = here

    def on_key(self, event: Key) -> None:
        """A letter goes to the next entry that begins with it; what else is not bound is said to
        do nothing."""
        if any(event.key in keys.key_to_bindings for _, keys in self._modal_binding_chain):
            # Textual does that after this.
            return
        box, options = self.query_one(Vertical), self.query_one(OptionList)
        if not event.is_printable:
            shown = self.app.get_key_display(Binding(event.key, ""))
            box.border_subtitle = Content(f"{shown} does nothing here: {_KEYS}")
            return
        beyond = (options.highlighted or 0) + 1
        places = range(len(self._options))
        for place in (*places[beyond:], *places[:beyond]):
            if self._options[place][0].lower().startswith((event.character or "").lower()):
                options.highlighted = place
                box.border_subtitle = _KEYS
                return
        shown = event.character if event.key != "space" else event.key
        box.border_subtitle = Content(f"nothing begins with {shown}: {_KEYS}")

    def action_move(self, where: str) -> None:
        options = self.query_one(OptionList)
        (options.action_cursor_down if where == "down" else options.action_cursor_up)()

    @on(OptionList.OptionSelected)
    def _taken(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._options[event.option_index][0])


def _line(value: str, about: str, width: int) -> Text:
    return Text.assemble((value.ljust(width), "bold"), (f"  {about}", "dim"))
