"""The user's settings: theme, motion, and the file that gives actions other keys."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from lmbench.tui.bench.themes import THEMES
from lmbench.tui.bench.user_settings import lists_keys, save_settings, settings_path, write_keys
from lmbench.tui.kit.form import FieldSpec, Form
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar

__all__ = ["SettingsScreen"]

_PREFIX = "lmbench-"
_THEMES = tuple(theme.name.removeprefix(_PREFIX) for theme in THEMES)
_YES, _NO = "yes", "no"


class SettingsScreen(BenchScreen[None]):
    """Changes hold at once and are kept for all sessions."""

    HELP = """
**← →** change a setting; it holds at once and is kept. **Ctrl+E** writes every action into the
settings file, with its keys and what it does; take the `#` away before a line and change its key,
and it holds when the workbench is opened again. **Ctrl+Y** copies the path of the file.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+e",
            "keys",
            "write the keys",
            id="settings.keys",
            tooltip="List all actions and keys in the settings file, to change them there",
        ),
        Binding("ctrl+y", "copy", "copy its path", id="settings.copy", tooltip="Copy its path"),
        Binding("escape", "dismiss", "back", id="settings.back", tooltip="Back"),
    ]
    DEFAULT_CSS = """
    SettingsScreen #settings { height: 1fr; border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; }
    SettingsScreen Form { height: auto; }
    SettingsScreen #file { height: auto; padding: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        settings = self.bench.settings
        motion = _YES if settings.motion else _NO
        theme = self.bench.theme.removeprefix(_PREFIX)
        yield TopBar()
        with Vertical(id="settings") as box:
            box.border_title = "Settings"
            yield Form(
                [
                    FieldSpec("theme", "theme", theme, "ansi: the terminal's colours", _THEMES),
                    FieldSpec("motion", "motion", motion, "no: nothing glides", (_YES, _NO)),
                    FieldSpec(
                        "notify",
                        "notify",
                        _YES if settings.notify else _NO,
                        "yes: notifies when a run ends (if another window is in front)",
                        (_YES, _NO),
                    ),
                ]
            )
            yield Static(id="file", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        self.path = self.bench.settings.path or settings_path()
        self._tell()
        self.query_one(Form).focus_field("theme")
        self.watch(self.app, "theme", self._show_theme, init=False)

    def _show_theme(self, name: str) -> None:
        """It may have come by Ctrl+T."""
        self.query_one(Form).fill({"theme": name.removeprefix(_PREFIX)})

    def _tell(self) -> None:
        text = Text(f"{self.path}\n")
        if lists_keys(self.path):
            text.append("Edit it to give actions other keys; it is read when lmbench opens.")
        elif self.path.exists():
            text.append("It has no keys yet; Ctrl+E adds every action and its keys.")
        else:
            text.append("It is not there yet; Ctrl+E begins it, with every action and its keys.")
        self.query_one("#file", Static).update(text)

    async def on_form_edited(self, event: Form.Edited) -> None:
        values = self.query_one(Form).values
        settings = replace(
            self.bench.settings,
            # The line may show a theme that this session alone has.
            theme=_PREFIX + values["theme"] if event.name == "theme" else self.bench.settings.theme,
            motion=values["motion"] == _YES,
            notify=values["notify"] == _YES,
        )
        self.bench.settings = settings
        self.bench.animation_level = "full" if settings.motion else "none"
        if event.name == "theme":
            self.bench.set_theme(settings.theme)
        await self.bench.run_in_thread(
            save_settings, settings, self.path, doing="while saving settings"
        )
        self._tell()

    async def action_keys(self) -> None:
        rows = [
            (binding.id or "", binding.key, binding.tooltip or binding.description)
            for binding in self.bench.known_bindings()
        ]
        written = await self.bench.run_in_thread(write_keys, rows, self.bench.settings, self.path)
        if written is not None:
            self.bench.show_message(
                f"{'keys' if written else 'keys are there already'}: {self.path}"
            )
        self._tell()

    def action_copy(self) -> None:
        self.bench.copy_to_clipboard(str(self.path))
