"""A form: one line a field, each with its label, what can be entered and what is wrong with it.

A field is text, or a choice that is changed with ← and →. All is done with the arrows, Enter and
what one types; nothing opens or hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.events import DescendantFocus, Key
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input, Static

from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["ChoiceField", "FieldSpec", "Form", "TextField"]


@dataclass(frozen=True)
class FieldSpec:
    """One line of a form. With `choices` it is a choice, else text.

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
    ChoiceField { height: 1; width: 1fr; background: $surface; }
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

    def set_choices(self, choices: tuple[str, ...], value: str) -> None:
        self.choices = choices
        self.value = value if value in choices else choices[0]
        self.refresh()

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

    def on_click(self) -> None:
        self.action_turn(1)

    def _choose(self, choice: str) -> None:
        if choice != self.value:
            self.value = choice
            self.post_message(self.Changed(self))

    def render(self) -> RenderResult:
        if len(self.choices) < 2:
            return Text(f"  {self.value}", no_wrap=True, overflow="ellipsis")
        return Text.assemble(
            ("‹ ", "dim"), self.value, (" ›", "dim"), no_wrap=True, overflow="ellipsis"
        )


class TextField(Input):
    """A line of text; coming to it selects it, so that typing replaces it."""

    DEFAULT_CSS = """
    TextField { width: 1fr; background: $surface; }
    TextField:focus { background: $block-cursor-blurred-background; }
    """

    def __init__(self, value: str, name: str, placeholder: str = "") -> None:
        super().__init__(value, name=name, placeholder=placeholder, compact=True)
        self.cursor_blink = False


class _Row(Horizontal):
    DEFAULT_CSS = """
    _Row { height: 1; }
    _Row > .label { width: 22; padding: 0 1; color: $text-muted; }
    _Row > .note { width: 2fr; padding: 0 1; color: $text-muted; text-wrap: nowrap;
        text-overflow: ellipsis; }
    _Row.-changed > .label { color: $accent; text-style: bold; }
    _Row.-wrong > .note { color: $error; text-style: bold; }
    _Row:focus-within > .label { color: $foreground; text-style: bold; }
    """

    def __init__(self, spec: FieldSpec) -> None:
        super().__init__(name=spec.name)
        self.spec = spec
        self._shown = (False, "", spec.note)

    def compose(self) -> ComposeResult:
        spec = self.spec
        yield Static(spec.label, classes="label", markup=False)
        if spec.choices:
            yield ChoiceField(spec.choices, spec.value, spec.name)
        else:
            yield TextField(spec.value, spec.name, spec.placeholder)
        yield Static(spec.note, classes="note", markup=False)

    def show(self, *, changed: bool, wrong: str, note: str) -> None:
        """Repaints what differs from what is shown, and nothing else: rows are many."""
        state = (changed, wrong, note)
        if state == self._shown:
            return
        self._shown = state
        self.set_class(changed, "-changed")
        self.set_class(bool(wrong), "-wrong")
        self.query_one(".note", Static).update(f"✗ {wrong}" if wrong else note, layout=False)
        label = f"{self.spec.label} •" if changed else self.spec.label
        self.query_one(".label", Static).update(label, layout=False)


class Form(VerticalScroll, GuardedWidget, can_focus=False):
    """Fields under each other. Texts by name are in `values`; `mark_fields` marks what is wrong."""

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
        """The user wants the list of a field's choices."""

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
        self.specs = {spec.name: spec for spec in specs}

    def compose(self) -> ComposeResult:
        yield from self._rows()

    def _rows(self) -> Iterable[Widget]:
        for spec in self.specs.values():
            if spec.heading:
                yield Static(f"── {spec.heading} ", classes="heading", markup=False)
            yield _Row(spec)

    async def rebuild(self, specs: Iterable[FieldSpec]) -> None:
        """Show other fields; the focus stays where a field of its name is still there."""
        name = self.focused_name
        with self.app.batch_update():
            self.specs = {spec.name: spec for spec in specs}
            await self.remove_children()
            await self.mount_all(self._rows())
            self.focus_field(name if name in self.specs else next(iter(self.specs)))

    # -- values --------------------------------------------------------------------------------

    def row(self, name: str) -> _Row:
        return next(row for row in self.query(_Row) if row.name == name)

    def field(self, name: str) -> ChoiceField | TextField:
        widget = self.row(name).children[1]
        assert isinstance(widget, ChoiceField | TextField)
        return widget

    @property
    def values(self) -> dict[str, str]:
        """The text of each field."""
        rows = {row.name or "": row.children[1] for row in self.query(_Row)}
        return {
            name: widget.value
            for name, widget in rows.items()
            if isinstance(widget, ChoiceField | TextField)
        }

    def set_value(self, name: str, value: str) -> None:
        """Set a field's text, as if the user had."""
        self.field(name).value = value
        self.post_message(self.Edited(name))

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
        for row in self.query(_Row):
            name = row.name or ""
            row.show(
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
