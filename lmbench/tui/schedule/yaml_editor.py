"""An editor for YAML: coloured as one types, lines with mistakes marked, Enter keeps the indent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rich.style import Style
from textual.events import Key
from textual.widgets import TextArea
from textual.widgets.text_area import TextAreaTheme

from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["YamlEditor", "spans"]

_THEME = "lmbench"
# Nothing is tried twice at a letter: a pasted line may have thousands.
_TOKENS = re.compile(
    r"""(?P<comment>(?:^|(?<=\s))\#.*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')
    |(?P<key>(?<![\w.\-])[A-Za-z_][\w.\-]*+(?=\s*:(?:\s|$)))
    |(?P<number>(?<![\w.])[-+]?(?:\d++\.?+\d*+|\.\d++)(?:e[-+]?\d++)?+(?![\w.]))
    |(?P<word>(?<![\w.])(?:true|false|null|yes|no)(?![\w.]))
    |(?P<mark>^\s*-(?=\s)|[\[\]{},:])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLASS = re.compile(r"\bclass\s*:\s*(?P<class>\w+)")
_VARIABLES = {
    "comment": "faint",
    "string": "success",
    "key": "primary",
    "number": "accent",
    "word": "secondary",
    "class": "secondary",
    "problem": "error",
}


def spans(line: str) -> list[tuple[int, int, str]]:
    """What stands where in a line of YAML: (first column, column after, kind)."""
    found = []
    for match in _TOKENS.finditer(line):
        assert match.lastgroup is not None
        found.append((match.start(), match.end(), match.lastgroup))
        if match.lastgroup == "comment":
            return found
    named = _CLASS.search(line)
    if named:
        found.append((*named.span("class"), "class"))
    return found


class YamlEditor(TextArea, GuardedWidget):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`mark_problems` names the lines (from 0) that something is wrong with."""

    DEFAULT_CSS = """
    YamlEditor { border: none; padding: 0; height: 1fr; background: $background; }
    YamlEditor:focus { border: none; }
    """

    # Coloured before `__init__` is through, so it stands on the class.
    _problems: frozenset[int] = frozenset()

    def __init__(self) -> None:
        super().__init__(show_line_numbers=True, soft_wrap=False, tab_behavior="focus")
        self.cursor_blink = False

    def on_mount(self) -> None:
        self.watch(self.app, "theme", self._take_colours)

    def _take_colours(self) -> None:
        """Colours of the workbench's theme, in place of an editor's own."""
        styles = {kind: self.bench.colour_style(variable) for kind, variable in _VARIABLES.items()}
        styles["problem"] += Style(underline=True)
        styles["class"] += Style(bold=True)
        self.register_theme(TextAreaTheme(_THEME, syntax_styles=styles))
        self.theme = _THEME
        self._set_theme(_THEME)
        self._build_highlight_map()
        self.refresh()

    def _build_highlight_map(self) -> None:
        """In place of a parser of Textual's: it asks for columns in bytes of UTF-8."""
        self._line_cache.clear()
        self._highlights.clear()
        for number, line in enumerate(self.document.lines):
            at = _bytes_before(line)
            marks = [(at(start), at(end), kind) for start, end, kind in spans(line)]
            if number in self._problems:
                indent = len(line) - len(line.lstrip())
                marks.append((at(indent), at(len(line)), "problem"))
            if marks:
                self._highlights[number].extend(marks)

    def mark_problems(self, lines: Iterable[int]) -> None:
        fresh = frozenset(lines)
        if fresh != self._problems:
            self._problems = fresh
            self._build_highlight_map()
            self.refresh()

    async def _on_key(self, event: Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            row, column = self.cursor_location
            before = self.document.get_line(row)[:column]
            self._replace_via_keyboard("\n" + _indent_after(before), *self.selection)
            return
        await super()._on_key(event)


def _indent_after(before: str) -> str:
    """The indent of a line that follows `before`: one step more where that opens a mapping."""
    indent = before[: len(before) - len(before.lstrip())]
    stripped = before.strip()
    if stripped.startswith("- ") and not stripped.endswith(":"):
        return indent + "  "
    return indent + "  " if stripped.endswith(":") and not stripped.startswith("#") else indent


def _bytes_before(line: str) -> Callable[[int], int]:
    if line.isascii():
        return lambda column: column
    return lambda column: len(line[:column].encode())
