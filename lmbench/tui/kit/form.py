"""A form: one line a field, each with its label, what can be entered and what is wrong with it.

A field is text, or a choice that ← and → change. Textual's Select opens a list over the form, for
which its keys would be others and each row three lines high.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.app import ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.events import Blur, DescendantFocus, Key
from textual.geometry import Offset, Region, Size, Spacing
from textual.layout import Layout, WidgetPlacement
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input, Static

from lmbench.tui.kit.line_input import LineInput
from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["ChoiceField", "FieldSpec", "Form", "TextField", "shortened"]

_LABEL_WIDTH = 22


@dataclass(frozen=True)
class FieldSpec:
    """One line of a form. With `choices` it is a choice, else text; `value` is what it has while it
    is left alone.

    `note` stands beside the field while nothing is wrong with it. `listed` says that Enter opens
    a list to choose from. `heading` puts a line with these words above the field.
    """

    name: str
    label: str
    value: str
    note: str = ""
    choices: tuple[str, ...] = ()
    listed: bool = False
    heading: str = ""
    placeholder: str = ""


class ChoiceField(GuardedWidget, can_focus=True):
    """One of a few: ← and → change it, so does the first letter of a choice."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", id="form.previous", show=False, tooltip="The choice before"),
        Binding("right,space", "turn(1)", id="form.next", show=False, tooltip="The next choice"),
    ]
    DEFAULT_CSS = """
    ChoiceField { height: 1; width: 1fr; background: $surface; color: $foreground; }
    ChoiceField:focus {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold;
    }
    """

    value: reactive[str] = reactive("", init=False)

    class Changed(Message):
        """Another choice was made by the user."""

        def __init__(self, field: ChoiceField) -> None:
            super().__init__()
            self.field = field

    def __init__(self, choices: tuple[str, ...], value: str, name: str) -> None:
        super().__init__(name=name)
        self.choices = choices
        self.set_reactive(ChoiceField.value, value if value in choices else choices[0])

    def action_turn(self, step: int) -> None:
        here = self.choices.index(self.value)
        self._choose(self.choices[(here + step) % len(self.choices)])

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """Letters choose here, so no key bar offers them for anything else."""
        return character is not None and character.isprintable() and character not in " ?"

    def on_key(self, event: Key) -> None:
        letter = event.character
        if letter is None or not self.check_consume_key(event.key, letter):
            return
        # No letter gets past: one that is typed here is not meant as a key of the screen.
        event.stop()
        event.prevent_default()
        here = self.choices.index(self.value)
        for choice in (*self.choices[here + 1 :], *self.choices[: here + 1]):
            if choice.lower().startswith(letter.lower()):
                self._choose(choice)
                return
        self.bench.show_message(f"nothing begins with {letter}", keep=False)

    def on_click(self) -> None:
        self.action_turn(1)

    def _choose(self, choice: str) -> None:
        if choice != self.value:
            self.value = choice
            self.post_message(self.Changed(self))

    @property
    def needed_width(self) -> int:
        return cell_len(self.value) + 4

    def render(self) -> RenderResult:
        value = shortened(self.value, self.size.width - 4)
        before, after = ("‹ ", " ›") if len(self.choices) > 1 else ("  ", "")
        return Text.assemble((before, "dim"), value, (after, "dim"), no_wrap=True)


class TextField(LineInput):
    """A line of text; coming to it selects it, so that typing replaces it. Of one that is too long
    the end is shown, where a path has its file's name."""

    DEFAULT_CSS = """
    TextField { width: 1fr; }
    TextField:focus { background: $block-cursor-blurred-background; }
    """

    @property
    def needed_width(self) -> int:
        # Its cursor stands behind the last letter.
        return cell_len(self.value or self.placeholder) + 1

    def show_end(self) -> None:
        self.cursor_position = len(self.value)

    def on_blur(self, event: Blur) -> None:
        self.show_end()

    def on_resize(self) -> None:
        if not self.has_focus:
            self.show_end()


class _RowLayout(Layout):
    """A row's field, where the row leaves room for it."""

    name = "row"

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> list[WidgetPlacement]:
        assert isinstance(parent, _Row)
        region = Region(_LABEL_WIDTH, 0, parent.field_width(size.width), 1)
        return [WidgetPlacement(region, Offset(), Spacing(), child) for child in children]


_LAYOUT = _RowLayout()


class _Row(GuardedWidget):
    """One line. It paints what stands beside its field itself: rows are many, and each widget takes
    time to be made, styled and placed."""

    DEFAULT_CSS = "_Row { height: 1; color: $text-muted; }"

    def __init__(self, spec: FieldSpec, typed: str) -> None:
        super().__init__(name=spec.name)
        self.spec = spec
        self.default = spec.value
        # Made here: a form is read while its rows are still being mounted.
        self.field: ChoiceField | TextField
        if spec.choices:
            value = typed if typed in spec.choices else spec.value
            self.field = ChoiceField(spec.choices, value, spec.name)
        else:
            value = typed or spec.value
            self.field = TextField(value, name=spec.name, placeholder=spec.placeholder)
        self._shown = (False, "", spec.note)

    @property
    def layout(self) -> Layout:
        return _LAYOUT

    def compose(self) -> ComposeResult:
        yield self.field

    def on_mount(self) -> None:
        self.watch(self.field, "value", self._show, init=False)

    def on_descendant_focus(self) -> None:
        self.refresh()

    def on_descendant_blur(self) -> None:
        self.refresh()

    def mark(self, *, changed: bool, wrong: str, note: str) -> None:
        """Repaints what differs from what is shown, and nothing else."""
        state = (changed, wrong, note)
        if state != self._shown:
            self._shown = state
            self._show()

    def _show(self) -> None:
        if self.size.width and self.field.size.width != self.field_width(self.size.width):
            self.field.refresh(layout=True)
        self.refresh()

    def field_width(self, width: int) -> int:
        """In a row of this width: a third, or as much more as the value needs; the rest is for
        what is said of it, and a complaint keeps as much of two thirds as it needs."""
        wrong = self._shown[1]
        room = max(width - _LABEL_WIDTH, 0)
        third = room // 3
        most = max(third, room - cell_len(f" ✗ {wrong}")) if wrong else room
        return max(min(self.field.needed_width, most), third)

    def render(self) -> RenderResult:
        changed, wrong, note = self._shown
        width = self.field_width(self.size.width)
        label = f" {self.spec.label} •" if changed else f" {self.spec.label}"
        label_style = "$accent bold" if changed else ""
        if self.has_focus_within:
            label_style = "$foreground bold"
        room = self.size.width - _LABEL_WIDTH - width - 1
        said = shortened(f"✗ {wrong}", room) if wrong else _whole(note, room)
        return Content.assemble(
            (set_cell_size(label, _LABEL_WIDTH), label_style),
            " " * (width + 1),
            (said, "$error bold" if wrong else ""),
        )


def shortened(text: str, room: int) -> str:
    """The text, or its beginning and an ellipsis where there is no room for all."""
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, max(room - 1, 0)) + "…"


def _whole(note: str, room: int) -> str:
    """The note without as many of its last clauses as there is no room for: a figure that is cut
    reads as another one."""
    while cell_len(note) > room:
        note, dropped = re.subn(r"( \([^()]*\)|; [^;]*)$", "", note)
        if not dropped:
            return ""
    return note


class Form(VerticalScroll, GuardedWidget, can_focus=False):
    """Fields under each other. Texts by name are in `values`; `mark_fields` shows what is wrong."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "go(-1)", show=False),
        Binding("down", "go(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
    ]
    DEFAULT_CSS = """
    Form { height: 1fr; }
    Form > .heading { height: 1; color: $accent; padding: 0 1; }
    """

    class Edited(Message):
        """The user changed a field."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class ListRequested(Message):
        """The user asks for the list of a field's choices."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class FieldFocused(Message):
        """Another field has the focus."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, specs: Iterable[FieldSpec], id: str | None = None) -> None:
        super().__init__(id=id)
        # Texts other than their defaults, also of fields that are not there at the moment.
        self._typed: dict[str, str] = {}
        self._set_specs(specs)

    def _set_specs(self, specs: Iterable[FieldSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self._rows = {n: _Row(spec, self._typed.get(n, "")) for n, spec in self.specs.items()}

    def compose(self) -> ComposeResult:
        yield from self._lines()

    def _lines(self) -> Iterable[Widget]:
        for row in self._rows.values():
            if row.spec.heading:
                yield Static(f"── {row.spec.heading} ", classes="heading", markup=False)
            yield row

    async def rebuild(self, specs: Iterable[FieldSpec]) -> None:
        """Show other fields; what was typed and the focus stay where a field of its name is still
        there, and what was typed is there again when its field is."""
        name = self.focused_name
        for known, row in self._rows.items():
            self._typed[known] = "" if row.field.value == row.default else row.field.value
        with self.app.batch_update():
            self._set_specs(specs)
            await self.remove_children()
            await self.mount_all(self._lines())
            self.focus_field(name if name in self.specs else next(iter(self.specs)))

    # -- values --------------------------------------------------------------------------------

    def field(self, name: str) -> ChoiceField | TextField:
        return self._rows[name].field

    @property
    def values(self) -> dict[str, str]:
        """The text of each field."""
        return {name: row.field.value for name, row in self._rows.items()}

    def set_value(self, name: str, value: str) -> None:
        """Set a field's text, as if the user had."""
        self.field(name).value = value
        self.post_message(self.Edited(name))

    def set_default(self, name: str, value: str) -> None:
        """Another text for a field while it is left alone."""
        row = self._rows[name]
        if row.field.value == row.default:
            row.field.value = value
        row.default = value

    def fill(self, texts: Mapping[str, str]) -> None:
        """Put texts into the fields that there are; a choice that is none is left out."""
        for name, text in texts.items():
            if name in self.specs:
                field = self.field(name)
                if not isinstance(field, ChoiceField) or text in field.choices:
                    field.value = text

    def mark_fields(
        self, wrong: dict[str, str], changed: Iterable[str], notes: dict[str, str]
    ) -> None:
        """Mark what is wrong and what differs from what it started from."""
        changed = set(changed)
        for name, row in self._rows.items():
            row.mark(
                changed=name in changed,
                wrong=wrong.get(name, ""),
                note=notes.get(name, row.spec.note),
            )

    # -- focus ---------------------------------------------------------------------------------

    @property
    def focused_name(self) -> str:
        focused = self.screen.focused
        return (focused.name or "") if isinstance(focused, ChoiceField | TextField) else ""

    def focus_field(self, name: str) -> None:
        self.field(name).focus()

    def action_go(self, step: int) -> None:
        names = list(self.specs)
        here = names.index(self.focused_name) if self.focused_name in names else 0
        self.focus_field(names[max(0, min(len(names) - 1, here + step))])

    def action_page(self, step: int) -> None:
        """To the first field under the next heading, or the one before."""
        names = list(self.specs)
        starts = [i for i, spec in enumerate(self.specs.values()) if spec.heading or i == 0]
        here = names.index(self.focused_name) if self.focused_name in names else 0
        if step > 0:
            there = next((i for i in starts if i > here), len(names) - 1)
        else:
            there = next((i for i in reversed(starts) if i < here), 0)
        self.focus_field(names[there])

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        self.post_message(self.FieldFocused(self.focused_name))

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if event.input.has_focus:
            self.post_message(self.Edited(event.input.name or ""))

    def on_choice_field_changed(self, event: ChoiceField.Changed) -> None:
        event.stop()
        self.post_message(self.Edited(event.field.name or ""))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        name = event.input.name or ""
        if self.specs[name].listed:
            self.post_message(self.ListRequested(name))
        else:
            self.action_go(1)
