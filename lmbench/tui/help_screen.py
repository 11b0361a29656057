"""Help: what the focused panel is for, and every key that does something here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from rich.console import Group
from rich.markdown import Markdown
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.theme import Theme
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widgets import Static

from lmbench.tui.bench.key_bindings import bindings_in_force, is_typed
from lmbench.tui.kit.panel import Panel
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar

__all__ = ["HelpScreen"]

_THEME = Theme({"markdown.code": "bold"})


class HelpScreen(BenchScreen[None]):
    """Reads the screen that it lies over."""

    HELP = "**↑ ↓**, **Page Up** and **Page Down** scroll; **Esc** goes back."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,question_mark", "dismiss", "back", id="help.back", tooltip="Back"),
        Binding("j", "scroll('down')", show=False),
        Binding("k", "scroll('up')", show=False),
    ]
    DEFAULT_CSS = """
    HelpScreen VerticalScroll { height: 1fr; border: heavy $accent; padding: 0 2;
        border-title-color: $accent; border-title-style: bold; }
    HelpScreen Static { width: 1fr; max-width: 100; height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield TopBar()
        with VerticalScroll() as scroll:
            scroll.border_title = "Help"
            yield Static(id="words")
        yield KeyBar()

    def on_mount(self) -> None:
        # Rich's own style for code is for dark terminals.
        self.app.console.push_theme(_THEME)
        self.watch(self.app, "theme", self._show)
        self.query_one(VerticalScroll).focus()

    async def on_unmount(self) -> None:
        self.app.console.pop_theme()

    def _show(self) -> None:
        self.query_one("#words", Static).update(Group(*self._parts(self._below())))

    def _below(self) -> Screen[Any]:
        stack = self.app.screen_stack
        return stack[stack.index(self) - 1] if self in stack else stack[-1]

    def _parts(self, below: Screen[Any]) -> Iterator[Any]:
        accent = self.bench.colour_style("accent")
        listed = set[str]()
        for node in _helpful(below):
            help = str(getattr(node, "HELP", "")).strip()
            if help in listed:
                continue
            listed.add(help)
            title = getattr(node, "TITLE", "") if isinstance(node, Panel) else ""
            if title:
                yield Text(f"\n{title}", accent + Style(bold=True))
            yield Markdown(help)
        for title, nodes in self._areas(below):
            rows = list(self._keys(nodes))
            if rows:
                yield Text(f"\n{title}", accent + Style(bold=True))
                yield _table(rows)

    def _areas(self, below: Screen[Any]) -> Iterator[tuple[str, list[DOMNode]]]:
        """Whose keys are listed, under which title: the focused panel's first."""
        focused = _focused_panel(below)
        panels = [p for p in below.query(Panel) if p is not focused and p.display]
        if focused is not None:
            yield from _keys_by_part(focused)
        yield "Keys of the screen", [below, *_outside(below)]
        for panel in panels:
            yield from _keys_by_part(panel)
        yield "Everywhere", [self.app]

    def _keys(self, nodes: list[DOMNode]) -> Iterator[tuple[str, str]]:
        """(keys, what they do) of the nodes' own bindings; several keys of one action in one, and
        the action of several nodes of a kind once."""
        found: dict[str, tuple[list[str], str]] = {}
        for node in nodes:
            for key, binding in bindings_in_force(node):
                if binding.id is None or binding.system or self._is_idle(key, binding):
                    continue
                keys, _ = found.setdefault(binding.id, ([], binding.tooltip or binding.description))
                # What the key bar shows may stand for several actions, such as ← →.
                one = replace(binding, key=key, key_display=None)
                shown = self.app.get_key_display(one)
                if shown not in keys:
                    keys.append(shown)
        for keys, words in found.values():
            yield " ".join(keys), words

    def _is_idle(self, key: str, binding: Binding) -> bool:
        """Does a key that every screen has do nothing on this one?"""
        below = self._below()
        if binding.action == "maximise" and _focused_panel(below) is None:
            return True
        return str(binding.id).startswith("app.") and is_typed(below, key)

    def action_scroll(self, where: str) -> None:
        scroll = self.query_one(VerticalScroll)
        (scroll.scroll_down if where == "down" else scroll.scroll_up)(animate=False)


def _focused_panel(screen: Screen[Any]) -> Panel | None:
    panels = [panel for panel in screen.query(Panel) if panel.has_focus_within]
    return panels[0] if panels else None


def _keys_by_part(panel: Panel) -> Iterator[tuple[str, list[DOMNode]]]:
    """Whose keys a panel's are: its own and those of its nameless parts, and of each part that has
    a name (`PART`) apart, where one key may mean something else than in the next."""
    parts: dict[str, list[DOMNode]] = {"": [panel]}
    for node in panel.query("*"):
        if _has_keys(node):
            parts.setdefault(getattr(node, "PART", ""), []).append(node)
    for name, nodes in parts.items():
        yield f"Keys of {panel.TITLE.lower()}" + (f", in the {name}" if name else ""), nodes


def _outside(screen: Screen[Any]) -> list[DOMNode]:
    """The parts of a screen that are in no panel and have keys of their own."""
    parts = [node for node in screen.query("*") if _has_keys(node)]
    return [p for p in parts if not any(isinstance(a, Panel) for a in p.ancestors_with_self)]


def _has_keys(node: DOMNode) -> bool:
    return any(binding.id for _, binding in node._bindings)


def _helpful(screen: Screen[Any]) -> Iterator[DOMNode]:
    """The focused panel, and the screen, where they have something to say; the panels of a screen
    that can have no focus."""
    focused = _focused_panel(screen)
    panels = [] if focused is not None else list(screen.query(Panel))
    for node in (focused, screen, *panels):
        if node is not None and getattr(node, "HELP", None):
            yield node


def _table(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=12, no_wrap=True, style="bold")
    table.add_column()
    for keys, words in rows:
        table.add_row(keys, words)
    return table
