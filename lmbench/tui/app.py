"""The workbench's application: its keys, its command palette, errors as dialogs, its end."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual._styles_cache import StylesCache
from textual.app import SystemCommand
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.driver import Driver
from textual.events import AppFocus
from textual.markup import escape
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input

from lmbench.tui.bench.bench import REOPENED_SCREENS, Bench
from lmbench.tui.bench.themes import THEMES
from lmbench.tui.kit.hangup import HUNG_UP, Terminal, exit_on_signals
from lmbench.tui.log_file import describe_error, log_path, one_line_error, start_log

__all__ = ["Workbench"]

REOPENED = (*REOPENED_SCREENS, "new_run")
"""A form that is half filled in comes back, too: it says itself that it is open."""

# How often it is looked whether there is a terminal still.
TERMINAL_INTERVAL_S = 2.0

_HOW_TO_LEAVE = "q leaves the workbench; so does Ctrl+C once more. Runs go on."

_log = logging.getLogger(__name__)


class Workbench(Bench):
    """``lmbench tui``."""

    TITLE = "lmbench"
    CSS_PATH = Path(__file__).with_name("workbench.tcss")
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-narrow"),
        (110, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (40, "-tall")]  # noqa: RUF012
    # A drag over text scrolls at the first and the last line alone, ten lines a second: Textual's
    # three at either edge are most of a low panel.
    SELECT_AUTO_SCROLL_LINES = 1
    SELECT_AUTO_SCROLL_SPEED = 20.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "quit", id="app.quit", tooltip="Leave the workbench"),
        Binding("ctrl+q", "leave", "quit", id="app.quit_always", show=False, priority=True,
                tooltip="Leave the workbench, also while typing"),
        Binding("question_mark,f1", "help", "help", id="app.help", tooltip="Help for this panel"),
        Binding("ctrl+t", "next_theme", "theme", id="app.theme", show=False, tooltip="Next theme"),
        Binding("comma", "settings", "settings", id="app.settings", show=False,
                tooltip="Settings: theme, motion, keys"),
    ]  # fmt: skip

    def on_mount(self) -> None:
        start_log(self.home)
        exit_on_signals(self._on_signal)
        self.set_interval(TERMINAL_INTERVAL_S, partial(self._leave_without, Terminal()))
        if self.is_web:
            # Textual's driver says that a page begins without the focus. Ours asks for it before
            # its socket is open, so that its own word of that is lost.
            self.call_later(self.post_message, AppFocus())
        self.open("main")
        self._take_settings()
        if self.session is None:
            self.open("welcome")
        else:
            self.attach(self.session)
            if (screen := self.recall("screen")) in REOPENED:
                self.open(screen)

    async def _dispatch_message(self, message: Message) -> None:
        """Keys arrive here: an action that fails is a dialog, as in a panel."""
        try:
            await super()._dispatch_message(message)
        except Exception as error:
            self.show_error(error, f"after {type(message).__name__.lower()}")

    def push_screen(self, screen: Any, callback: Any = None, *rest: Any, **named: Any) -> Any:
        """What fails after the answer of a dialog is a dialog, too: else it ends the workbench."""

        async def answered(result: Any) -> None:
            try:
                waits = callback(result)
                if inspect.isawaitable(waits):
                    await waits
            except Exception as error:
                self.show_error(error)

        return super().push_screen(screen, answered if callback else None, *rest, **named)

    def pop_screen(self) -> AwaitComplete:
        popped = super().pop_screen()
        # It holds on to what each widget of the last screens had painted: `self` is in its keys.
        StylesCache.get_inner_outer.cache_clear()
        return popped

    def on_command_palette_opened(self) -> None:
        """Like every other input here the palette's does not blink: that would send bytes."""
        if isinstance(self.screen, CommandPalette):
            self.screen.query_one(Input).cursor_blink = False

    def show_error(self, error: BaseException, doing: str = "") -> None:
        from lmbench.tui.kit.dialog import Answer, QuestionDialog

        # What was said of it before, as that it is under way, is past.
        self.recent_message = ""
        self.forget_answer()
        title, text = describe_error(error, doing, self.home)
        dialog = QuestionDialog(title, text, (Answer("", "enter", "go on"),))
        # What fails at each poll is shown once; with no screen left only the log has it.
        if self.screen_stack and not dialog.same_as(self.screen):
            self.push_screen(dialog)

    def get_driver_class(self) -> type[Driver]:
        from lmbench.tui.kit.driver import resilient_driver

        return resilient_driver(super().get_driver_class())

    # -- keys of everywhere --------------------------------------------------------------------

    def action_next_theme(self) -> None:
        names = [theme.name for theme in THEMES]
        here = names.index(self.theme) if self.theme in names else -1
        self.set_theme(names[(here + 1) % len(names)])

    def action_help(self) -> None:
        self.open("help")

    def action_help_quit(self) -> None:
        """Ctrl+C, which Textual binds to this: says how to leave, and the second time leaves."""
        if self.recent_message == _HOW_TO_LEAVE:
            self.call_later(self.action_leave)
        else:
            self.show_message(_HOW_TO_LEAVE, keep=False)

    def action_settings(self) -> None:
        self.open("settings")

    async def action_leave(self) -> None:
        """Quit; where runs are alive or wait in the queue, ask what becomes of them."""
        from lmbench.tui.leaving import confirm_quit, has_unfinished_runs

        if self.demo or not has_unfinished_runs(self.snapshot):
            self.exit()
        else:
            confirm_quit(self)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        from lmbench.tui.command_palette import commands_of
        from lmbench.tui.new_run.published_commands import published_commands

        for command in (*commands_of(self, screen), *published_commands(self)):
            # The palette reads markup in it, which the name of a run may look like.
            yield command._replace(title=escape(command.title), help=escape(command.help))

    # -- the end -------------------------------------------------------------------------------

    def _on_signal(self, code: int) -> None:
        self.exit(return_code=code)

    def _leave_without(self, terminal: Terminal) -> None:
        if terminal.gone:
            self.exit(return_code=HUNG_UP)

    def _fatal_error(self) -> None:
        """The last resort: an error that no panel could keep to itself. No traceback on the
        screen; it goes to the log, and one line tells where."""
        error = sys.exception()
        if isinstance(error, BrokenPipeError) and self._exit:
            # It is left because whoever showed it, as the server of `--web`, is gone.
            self._close_messages_no_wait()
            return
        _log.critical("the workbench ended", exc_info=error)
        self.flush()
        self._exit_renderables.append(
            f"lmbench: {one_line_error(error, 'in the workbench')}; details in "
            f"{log_path(self.home)}. Runs are not affected."
        )
        self._close_messages_no_wait()
