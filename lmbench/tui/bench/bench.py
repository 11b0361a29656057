"""What all screens and panels of the workbench share: the open session and what is chosen in it.

A thread reads the session's folders (`session_watcher.Watcher`) and posts one kind of message,
`SnapshotChanged`, with an immutable snapshot; panels watch the reactives `snapshot`, `selected`
and `marked`. Work is requested through `lmbench.jobs.launch`, off the event loop. The application
itself is `app.Workbench`; screens are known here by name only.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.style import Style
from textual.binding import Binding
from textual.color import Color
from textual.dom import DOMNode
from textual.message import Message
from textual.reactive import var
from textual.screen import Screen
from textual.worker import Worker

from lmbench.errors import LmbenchError
from lmbench.printable import one_line
from lmbench.report.plots.draw_in_terminal import PlotColours
from lmbench.report.plots.series import Colour
from lmbench.session import Home, Session
from lmbench.tui.bench.deletions import Deletions
from lmbench.tui.bench.messages import Messages
from lmbench.tui.bench.redraw_interval import RedrawInterval
from lmbench.tui.bench.saved_state import SavedState, remember_session
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import RunView, Snapshot, neighbour, only_grew
from lmbench.tui.bench.themes import THEMES, light_variables
from lmbench.tui.bench.user_settings import Settings, unknown_keys

if TYPE_CHECKING:
    from lmbench.tui.demo import Player

__all__ = ["REOPENED_SCREENS", "SCREENS", "Bench", "SnapshotChanged"]

SCREENS: dict[str, tuple[str, str]] = {
    "main": ("lmbench.tui.main_screen", "MainScreen"),
    "new_run": ("lmbench.tui.new_run.screen", "NewRunScreen"),
    "schedule": ("lmbench.tui.schedule.screen", "ScheduleScreen"),
    "sessions": ("lmbench.tui.sessions.screen", "SessionsScreen"),
    "help": ("lmbench.tui.help_screen", "HelpScreen"),
    "welcome": ("lmbench.tui.welcome_screen", "WelcomeScreen"),
    "settings": ("lmbench.tui.settings.screen", "SettingsScreen"),
    "tensor": ("lmbench.tui.layers.tensor_screen", "TensorScreen"),
    "compare": ("lmbench.tui.compare.screen", "CompareScreen"),
    "lab": ("lmbench.tui.laboratory.screen", "LabScreen"),
    "sensitivity": ("lmbench.tui.sensitivity.screen", "SensitivityScreen"),
    "chains": ("lmbench.tui.new_run.chains_screen", "ChainsScreen"),
    "sweep": ("lmbench.tui.sweeps.screen", "SweepScreen"),
    "new_sweep": ("lmbench.tui.sweeps.new_screen", "NewSweepScreen"),
}
"""Each screen's module and class; a module is imported when its screen is first opened."""

REOPENED_SCREENS = ("compare", "lab", "sensitivity", "sweep")
"""Screens that one works on for long: the workbench opens on the one that it was left on."""

BUSY_INTERVAL_S = 0.25
IDLE_INTERVAL_S = 0.5
SAVE_DELAY_S = 1.0

_log = logging.getLogger(__name__)


class SnapshotChanged(Message):
    """The session's folders have changed."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class Bench(Messages):
    """The open session, what is selected and marked, what is remembered, and the way to screens."""

    snapshot: var[Snapshot] = var(Snapshot, init=False)
    selected: var[str] = var("", init=False)
    """The run under the cursor, by its key (its folder's name); "" where there is none."""
    marked: var[tuple[str, ...]] = var((), init=False)
    """The runs that are overlaid and compared, by key, in the order they were marked."""

    def __init__(
        self,
        home: Home,
        session: Session | None,
        *,
        player: Player | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
        follow: bool = True,
    ) -> None:
        """`session` None opens the welcome screen; `player` plays a recording into it;
        `settings` are the user's own; with `follow` False the session is only read by
        `refresh_snapshot` (for tests)."""
        super().__init__(settings or Settings())
        self.deletions = Deletions()
        self.home = home
        self.session = session
        self._player = player
        self.clock = clock
        self.saved_state = SavedState(session)
        self._follow = follow
        self._watcher: Watcher | None = None
        self._polling: asyncio.Task[None] | None = None
        # Two polls at once would share the watcher between two threads.
        self._poll_lock = asyncio.Lock()
        self._saving: asyncio.TimerHandle | None = None
        self._redraw_interval = RedrawInterval()
        # The error of the last poll, reported once.
        self._last_error = ""
        self.deleted: set[str] = set()
        # The runs, by key, as the list of runs shows them: sorted and filtered.
        self.listed: tuple[str, ...] = ()
        # The run to be selected as soon as it is in a snapshot.
        self._awaited = ""
        # The run that was selected while others were still unread.
        self._proposed = ""
        # A snapshot that no panel has shown yet.
        self._deferred: Snapshot | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self._take_theme()

    @property
    def demo(self) -> bool:
        """Is this a recording? Then its runs take no requests."""
        return self._player is not None

    # -- what is shown -------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """Show this session from now on, as it was left."""
        if self._polling is not None:
            self._polling.cancel()
        if session != self.session:
            self.flush()
            self.saved_state = SavedState(session)
        # Keys of runs are nearly the same in all sessions: none may act on one of another's. And
        # what is not read yet of this one is not gone.
        self.snapshot = Snapshot()
        self.session = session
        self._deferred, self._last_error, self._awaited, self._proposed = None, "", "", ""
        self.forget_news()
        self.selected = str(self.recall("selected", ""))
        self.marked = tuple(map(str, self.recall("marked", ())))
        first = (self.selected, *self.marked)
        self._watcher = Watcher(session, why_lost=why_lost, first=first)
        self._polling = asyncio.create_task(self._poll())
        if self.saved_state.problems:
            path = session.path / "session.json"
            self.show_error(
                LmbenchError(f"{'; '.join(self.saved_state.problems)}: left out ({path})")
            )
        if not self.demo:
            try:
                remember_session(self.home, session.name)
            except OSError as error:
                self.show_message(f"the workbench's state could not be saved: {error}")

    def change_session(self, session: Session) -> None:
        """Leave all screens and show this session on the main screen, as it was left."""
        self.attach(session)
        self._take_theme()
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.open("main")
        self.show_message(f"session {session.name}")

    def _take_theme(self) -> None:
        """The session's theme, where this version has it."""
        kept = self.recall("theme", self.settings.theme)
        self.theme = kept if kept in self.available_themes else self.settings.theme

    def _take_settings(self) -> None:
        """Apply the user's keys and motion; report what is wrong in the file."""
        self.animation_level = "full" if self.settings.motion else "none"
        if self.settings.keys:
            known = {binding.id for binding in self.known_bindings() if binding.id}
            self.set_keymap(dict(self.settings.keys))
            wrong = [*self.settings.problems, *unknown_keys(self.settings, known)]
        else:
            wrong = list(self.settings.problems)
        if wrong:
            self.show_error(LmbenchError("; ".join(wrong)))

    def known_bindings(self) -> list[Binding]:
        """Every binding of every screen and panel that can be given other keys."""
        from lmbench.tui.bench.key_bindings import all_bindings

        return all_bindings(type(self))

    async def _poll(self) -> None:
        while True:
            await self._poll_once(defer_growth=not self.demo)
            if self._runs_are_unread:
                continue
            if not self._follow:
                return
            busy = self.demo or self.snapshot.current is not None
            await asyncio.sleep(BUSY_INTERVAL_S if busy else IDLE_INTERVAL_S)

    async def refresh_snapshot(self) -> None:
        """Read the session's folder once; posts `SnapshotChanged` where something is new."""
        await self._poll_once(defer_growth=False)
        while self._runs_are_unread:
            await self._poll_once(defer_growth=False)

    @property
    def _runs_are_unread(self) -> bool:
        return self._watcher is not None and self._watcher.unread > 0

    async def _poll_once(self, *, defer_growth: bool) -> None:
        """With `defer_growth`, curves that have only grown wait until they are due to be drawn."""
        async with self._poll_lock:
            if self._watcher is None:
                return
            try:
                if self._player is not None:
                    await asyncio.to_thread(self._player.advance, self.clock())
                snapshot = await asyncio.to_thread(self._watcher.poll, in_turns=defer_growth)
            except Exception as error:
                # Each poll fails alike until the cause is removed: it is reported once.
                if repr(error) != self._last_error:
                    self._last_error = repr(error)
                    self.show_error(error, "while reading the session")
                return
            self._last_error = ""
            snapshot = snapshot or self._deferred
            if snapshot is None:
                return
            if (
                defer_growth
                and not self._redraw_interval.elapsed
                and only_grew(self.snapshot, snapshot)
            ):
                self._deferred = snapshot
                return
            self._deferred = None
            self._redraw_interval.restart()
            self.post_message(SnapshotChanged(snapshot))

    def on_snapshot_changed(self, message: SnapshotChanged) -> None:
        snapshot = message.snapshot
        if snapshot.session != self.session:
            # It was read before another one was opened.
            return
        self._keep_selection(snapshot)
        same = self.snapshot.session == snapshot.session
        before = self.snapshot if same else Snapshot(snapshot.session)
        self.report_changes(before, snapshot, self.deleted)
        # A later run, or one of another session, may have the same key.
        self.deleted -= before.by_key.keys() - snapshot.by_key.keys()
        self.snapshot = snapshot

    def _keep_selection(self, snapshot: Snapshot) -> None:
        """A deleted run can neither stay selected nor marked: its neighbour is selected. At first
        the run at work is, or the newest, which until all are read is only the newest of those
        that are."""
        lost = snapshot.run(self.selected) is None
        if snapshot.run(self._awaited) is not None:
            self._put_cursor(self._awaited)
            self._awaited = ""
        elif lost and (beside := self._neighbour(snapshot)):
            self._put_cursor(beside)
        elif (lost or self.selected == self._proposed) and snapshot.runs:
            newest = max(snapshot.runs, key=lambda view: view.id)
            self._put_cursor((snapshot.current or newest).key)
            self._proposed = self.selected if snapshot.unread else ""
        gone = [key for key in self.marked if snapshot.run(key) is None]
        if gone and snapshot.complete:
            self.mark(tuple(key for key in self.marked if key not in gone))

    def _neighbour(self, snapshot: Snapshot) -> str:
        """The run of a new snapshot that stood next to the selected one, which is gone from it: in
        the list of runs, or in the tree where the filter hid it."""
        if snapshot.session != self.snapshot.session:
            return ""
        keys: Sequence[str] = self.listed
        if self.selected not in keys:
            keys = [view.key for view in self.snapshot.runs]
        return neighbour(keys, self.selected, {key for key in keys if snapshot.run(key) is None})

    async def undo_deletion(self) -> Path | None:
        """Put back what was deleted last; gives its folder, or None where that failed."""
        undone = await self.run_in_thread(self.deletions.undo, doing="while undoing a deletion")
        if undone is None:
            return None
        name, folder = undone
        self.deleted.discard(folder.name)
        self.show_message(f"{name} is back")
        return folder

    # -- selection and marks -------------------------------------------------------------------

    def select(self, key: str) -> None:
        """Put the cursor on this run, in all panels; on one that was just made as soon as it is in
        the snapshot."""
        known = self.snapshot.run(key) is not None
        self._proposed = ""
        self._awaited = "" if known else key
        if known:
            self._put_cursor(key)

    def _put_cursor(self, key: str) -> None:
        self.selected = key
        self.remember("selected", key)

    def mark(self, keys: tuple[str, ...]) -> None:
        """Overlay and compare exactly these runs."""
        self.marked = keys
        self.remember("marked", list(keys))

    @property
    def selected_run(self) -> RunView | None:
        return self.snapshot.run(self.selected)

    @property
    def shown_runs(self) -> tuple[RunView, ...]:
        """The runs that plots and comparisons show: the selected one, then the marked ones."""
        keys = dict.fromkeys((self.selected, *self.marked))
        return tuple(view for key in keys if (view := self.snapshot.run(key)) is not None)

    # -- what is remembered --------------------------------------------------------------------

    def recall(self, key: str, default: Any = None) -> Any:
        """What `remember` kept under this key, in this or an earlier visit."""
        return self.saved_state.get(key, default)

    def recall_each(self, name: str) -> dict[str, Any]:
        """What `remember` kept under ``name/…``, here or in another workbench on the session, by
        what follows the slash: a run's key, mostly."""
        if self.snapshot.record is not None:
            self.saved_state.renew(self.snapshot.record.workbench)
        return self.saved_state.each(name)

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value in the session, written within `SAVE_DELAY_S`, off the event loop."""
        if self.saved_state.put(key, value) and self._saving is None and self._running:
            loop = asyncio.get_running_loop()
            self._saving = loop.call_later(SAVE_DELAY_S, self._save_soon)

    def _save_soon(self) -> None:
        self._saving = None
        if not self.demo:
            self.start_work(self._save())

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(self.saved_state.flush)
        except (OSError, LmbenchError) as error:
            self.show_message(f"the workbench's state could not be saved: {error}")

    def flush(self) -> None:
        """Write what is remembered right now."""
        if self.demo:
            return
        try:
            self.saved_state.flush()
        except (OSError, LmbenchError) as error:
            _log.warning("state not saved: %s", error)

    # -- going about ---------------------------------------------------------------------------

    def open(
        self, name: str, *, then: Callable[[Any], None] | None = None, **arguments: Any
    ) -> Screen[Any]:
        """Push the screen of this name (see `SCREENS`), made with `arguments`; `then` gets what it
        is left with."""
        self._drop_watchers()
        module, cls = SCREENS[name]
        screen: Screen[Any] = getattr(importlib.import_module(module), cls)(**arguments)
        self.push_screen(screen, then)
        if name in REOPENED_SCREENS and not arguments:
            self.remember("screen", name)
        return screen

    def _drop_watchers(self) -> None:
        """Those of screens that were left: Textual keeps them, and with them the screens, until
        what they watch changes, which in a session at rest it does not."""
        for watchers in getattr(self, "__watchers", {}).values():
            watchers[:] = [watcher for watcher in watchers if not watcher[0]._closing]

    def colour_style(self, variable: str) -> Style:
        """The theme's colour of this name (``series-3``, ``error``) as a foreground."""
        return _foreground(self.theme_variables.get(variable))

    def colour(self, variable: str) -> Colour:
        """The same for plots: RGB, one of the terminal's sixteen, or None for its default."""
        return self._plotted(self.theme_variables.get(variable))

    def colour_on_white(self, variable: str) -> Colour:
        """The same for plots in a file, whose ground is white, whatever the theme."""
        return self._plotted(light_variables().get(variable))

    @staticmethod
    def _plotted(value: str | None) -> Colour:
        if not value:
            return None
        colour = Color.parse(value)
        if colour.ansi is None:
            return colour.r, colour.g, colour.b
        # Textual has the terminal's default as -1.
        return colour.ansi if colour.ansi >= 0 else None

    @property
    def plot_colours(self) -> PlotColours:
        """Of what is no series."""
        return PlotColours(*map(self.colour, ("foreground-muted", "faint", "error")))

    def show_error(self, error: BaseException, doing: str = "") -> None:
        """Show an error as a dialog. A user's mistake is one line; a defect of ours is logged
        with its traceback, and the dialog names the log."""
        raise NotImplementedError

    async def run_in_thread(
        self, function: Callable[..., Any], *arguments: Any, doing: str = ""
    ) -> Any:
        """Call a function that waits on files or processes in a thread; report where it fails.

        Returns:
            what the function returns, or None where it failed.
        """
        try:
            return await asyncio.to_thread(function, *arguments)
        except Exception as error:
            self.show_error(error, doing)
            return None

    def start_work(
        self,
        work: Coroutine[Any, Any, object],
        *,
        owner: DOMNode | None = None,
        group: str = "default",
        exclusive: bool = False,
    ) -> Worker[None]:
        """Run `work` beside all else, for as long as `owner` is there (else the workbench), and
        `exclusive` work in the place of the owner's earlier of its `group`; report where it
        fails. A worker of Textual's own would end the workbench there, or say nothing."""
        node = owner or self

        async def reported() -> None:
            try:
                await work
            except Exception as error:
                self.show_error(error, f"in {type(node).__name__}")

        return node.run_worker(reported(), group=group, exclusive=exclusive)

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(text)
        self.show_message(f"copied: {one_line(text)}")

    # -- the theme -----------------------------------------------------------------------------

    def watch_theme(self) -> None:
        """Update `theme_variables` before panels draw with them: Textual does it later."""
        self.get_css_variables()

    def set_theme(self, name: str) -> None:
        self.theme = name
        self.remember("theme", name)
        self.show_message(f"theme {name.removeprefix('lmbench-')}")

    # -- the end -------------------------------------------------------------------------------

    def on_unmount(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
        if self._saving is not None:
            self._saving.cancel()
        self.flush()
        self.deletions.finish()


def why_lost(run: Any) -> str:
    """Why a run's process is gone; the launcher is only imported when one is."""
    from lmbench.jobs import launch

    return launch.why_lost(run)


@cache
def _foreground(value: str | None) -> Style:
    return Style(color=Color.parse(value).rich_color) if value else Style()
