"""Dialogs: a question with a key for each answer, and a line of text to fill in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from lmbench.tui.bench.bench import Bench
from lmbench.tui.kit.panel import Guarded

__all__ = ["Answer", "QuestionDialog", "TextDialog", "ask_for_file", "ask_to_replace", "typed_path"]

_SCROLLS = {
    "up": "scroll_up",
    "down": "scroll_down",
    "pageup": "scroll_page_up",
    "pagedown": "scroll_page_down",
}
"""Keys, and what they do to a long question."""


@dataclass(frozen=True)
class Answer:
    """One way out of a question: what `QuestionDialog` gives back, its key, and its words."""

    value: str
    key: str
    label: str
    danger: bool = False


class _Dialog(ModalScreen[str], Guarded):
    """Gives "" when left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss('')", "back", id="dialog.back", tooltip="Back, choosing nothing")
    ]

    DEFAULT_CSS = """
    _Dialog { align: center middle; }
    _Dialog > Vertical {
        width: auto; max-width: 90%; min-width: 40; height: auto; max-height: 100%;
        border: heavy $accent; background: $surface; padding: 0 2;
        border-title-color: $accent; border-title-style: bold;
        border-subtitle-color: $text-muted;
    }
    _Dialog VerticalScroll { width: auto; height: auto; max-height: 75vh;
        scrollbar-size-vertical: 1; }
    _Dialog Static { width: auto; max-width: 64; height: auto; margin: 1 0; }
    _Dialog Input { background: $block-cursor-blurred-background; }
    _Dialog Horizontal { width: auto; height: auto; align-horizontal: left; }
    _Dialog Button { margin: 0 1 0 0; min-width: 8; }
    _Dialog .problem { color: $error; margin: 0; }
    """


class _Words(VerticalScroll, can_focus=False):
    """Text that scrolls where it is too long, so that what answers it stays on the screen."""

    def __init__(self, text: str | Text) -> None:
        super().__init__(Static(text, markup=False))


class QuestionDialog(_Dialog):
    """A question. Each answer has a key of its own; arrows and Enter work too, and ↑ ↓ scroll a
    question that is too long for the screen."""

    def __init__(self, title: str, question: str | Text, answers: tuple[Answer, ...]) -> None:
        super().__init__()
        self._title = title
        self._question = question
        self._answers = answers

    def same_as(self, other: object) -> bool:
        """Does it ask what another screen asks already?"""
        if not isinstance(other, QuestionDialog):
            return False
        theirs = other._title, other._question, other._answers
        return (self._title, self._question, self._answers) == theirs

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = Content(self._title)
            yield _Words(self._question)
            with Horizontal():
                for answer in self._answers:
                    yield Button(
                        Text.assemble((answer.key, "bold underline"), f" {answer.label}"),
                        variant="error" if answer.danger else "default",
                        compact=True,
                        name=answer.value,
                    )

    def on_mount(self) -> None:
        """Enter alone must not do what cannot be undone."""
        places = [i for i, answer in enumerate(self._answers) if not answer.danger]
        if places:
            self.query(Button)[places[0]].focus()

    def on_key(self, event: Key) -> None:
        answer = next((answer for answer in self._answers if answer.key == event.key), None)
        if answer is not None:
            event.stop()
            self.dismiss(answer.value)
        elif event.key in ("left", "right"):
            event.stop()
            (self.focus_previous if event.key == "left" else self.focus_next)()
        elif event.key in _SCROLLS:
            event.stop()
            getattr(self.query_one(_Words), _SCROLLS[event.key])(animate=False)
        elif event.is_printable:
            keys = " or ".join(answer.key for answer in self._answers)
            self.query_one(Vertical).border_subtitle = f"press {keys}"

    @on(Button.Pressed)
    def _chosen(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.name or "")


def ask_to_replace(
    app: App[Any],
    title: str,
    path: Path,
    replace: Callable[[], object],
    ask_again: Callable[[], object] | None = None,
) -> None:
    """The file is there already: `replace` it, where the user wants that, or `ask_again` for a
    name."""

    def answered(answer: str | None) -> None:
        if answer == "replace":
            replace()
        elif ask_again is not None:
            ask_again()

    keep = Answer("", "escape", "keep" if ask_again is None else "another name")
    answers = (Answer("replace", "r", "replace", danger=True), keep)
    app.push_screen(QuestionDialog(title, f"{path} is there already.", answers), answered)


def typed_path(text: str) -> Path:
    """The path that was typed, ~ being the user's folder."""
    path = Path(text)
    # ~name of nobody here is a name like any other, as in a shell.
    with suppress(RuntimeError):
        path = path.expanduser()
    return path


class TextDialog(_Dialog):
    """A line of text, checked by `check` (a problem, or "" where it is good; what the system says
    of a path is a problem, too)."""

    def __init__(
        self, title: str, question: str, value: str, check: Callable[[str], str] = lambda text: ""
    ) -> None:
        super().__init__()
        self._title = title
        self._question = question
        self._value = value
        self._check = check

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = Content(self._title)
            box.border_subtitle = "enter take   esc back"
            yield _Words(self._question)
            yield Input(self._value, compact=True)
            yield Static("", classes="problem", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False

    @on(Input.Changed)
    def _edited(self) -> None:
        """What was wrong was said of another text."""
        self.query_one(".problem", Static).update("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        value = event.value.strip()
        try:
            problem = self._check(value)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            self.query_one(".problem", Static).update(problem)
        else:
            self.dismiss(value)


def ask_for_file(
    bench: Bench,
    question: str,
    value: str,
    endings: Collection[str],
    write: Callable[[Path], object],
) -> None:
    """Ask for the path of a file to export to, `value` being proposed, with one of these endings,
    and `write` it, in a thread; before it replaces one the user is asked."""

    def whole(path: Path) -> Path:
        write(path)
        return path

    async def written(path: Path) -> None:
        if await bench.run_in_thread(whole, path, doing="while writing a file") is not None:
            bench.show_message(f"wrote {path}")

    def complaint(text: str) -> str:
        path = typed_path(text)
        if path.suffix.lower() not in endings:
            return f"Its name has to end in {' or '.join(endings)}"
        if path.is_dir():
            return f"{path.name} is a folder"
        return "" if path.parent.is_dir() else f"There is no folder {path.parent}"

    def go(path: Path) -> None:
        bench.start_work(written(path))

    def named(text: str | None) -> None:
        if not text:
            return
        path = typed_path(text).absolute()
        if path.exists():
            ask_to_replace(bench, "Export", path, lambda: go(path))
        else:
            go(path)

    bench.push_screen(TextDialog("Export", question, value, complaint), named)
