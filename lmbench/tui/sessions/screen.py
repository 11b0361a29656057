"""The sessions: open, save as, duplicate, rename, delete, pack into a file, open a file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, ClassVar
from zipfile import is_zipfile

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from lmbench.errors import LmbenchError
from lmbench.jobs.queue import waiting_for
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.session.archive import SUFFIX, SessionExistsError, pack, unpack
from lmbench.session.manage import copy_session, rename_session, set_aside_session
from lmbench.session.store import Home, Run, Session, check_session_name
from lmbench.tui.bench.deletions import what_becomes_of_queued
from lmbench.tui.kit.dialog import Answer, QuestionDialog, TextDialog, ask_to_replace, typed_path
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar
from lmbench.tui.sessions.listing import SessionRow, day_of, read_sessions, session_row

__all__ = ["SessionsScreen"]

_STATE_WIDTH = 26
_OF_ONE = ("open", "duplicate", "rename", "delete", "pack")


class SessionsScreen(BenchScreen[None]):
    """A session is a folder of runs that belong together, with the workbench as it was left."""

    HELP = """
A session keeps runs that belong together, and how the workbench was left: selected runs, axes,
prompt. Everything is saved as it happens. **Enter** opens the session under the cursor, **n**
begins a new one. **a** saves the open session under another name and goes on there; **D** makes a
copy and stays. **d** deletes, **U** or **u** undoes the last deletion until the workbench is left.
**p** packs a session into one file to share, **o** opens such a file. Sessions with runs at work
cannot be renamed, deleted, copied or packed: stop the runs first.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", id="sessions.open", tooltip="Open the session"),
        Binding("n", "new", "new", id="sessions.new", tooltip="Begin a new session"),
        Binding(
            "a",
            "save_as",
            "save as",
            id="sessions.save_as",
            tooltip="Save the open session under another name, and go on there",
        ),
        Binding("D", "duplicate", "copy", id="sessions.copy", tooltip="Duplicate the session"),
        Binding("r", "rename", "rename", id="sessions.rename", tooltip="Rename the session"),
        Binding("d", "delete", "delete", id="sessions.delete", tooltip="Delete the session (asks)"),
        Binding("u,U", "undo", "undo delete", id="sessions.undo", tooltip="Undo the last deletion"),
        Binding("p", "pack", "pack", id="sessions.pack", tooltip="Pack the session into a file"),
        Binding(
            "o", "unpack", "open file", id="sessions.unpack", tooltip="Open a packed session file"
        ),
        Binding("escape", "dismiss", "back", id="sessions.back", tooltip="Back"),
    ]
    DEFAULT_CSS = """
    SessionsScreen #list { height: 1fr; border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; border-subtitle-color: $text-muted; padding: 0 1; }
    SessionsScreen #empty { height: auto; padding: 1; color: $text-muted; }
    SessionsScreen #where { height: 1; padding: 0 1; color: $text-muted; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[SessionRow] = []

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Vertical(id="list") as box:
            box.border_title = "Sessions"
            box.border_subtitle = "enter open   p pack   o open file   esc back"
            yield Grid()
            yield Static("There is no session yet: n begins one, o opens a file.", id="empty")
        yield Static(id="where", markup=False)
        yield KeyBar()

    async def on_mount(self) -> None:
        self.query_one("#empty").display = False
        self.grid.focus()
        await self._reload(self.bench.session.name if self.bench.session else "")

    @property
    def grid(self) -> Grid:
        return self.query_one(Grid)

    @property
    def row(self) -> SessionRow | None:
        """The session under the cursor."""
        here = self.grid.cursor
        return self._rows[here] if here >= 0 else None

    async def _reload(self, name: str) -> None:
        """Read the folders again, with the cursor on the session of this name."""
        rows = await self.bench.run_in_thread(
            read_sessions, self.bench.home, doing="while reading sessions"
        )
        if self.gone:
            return
        self._rows = rows or []
        grid, shown = self.grid, tuple((row.session.name, self._cells(row)) for row in self._rows)
        grid.cursor_key = name
        state = max((cell_len(cells[2].text) for _, cells in shown), default=0)
        columns = (
            Column("session", 8, left=True, grow=1),
            Column("runs", 4),
            # Names have what the others leave them.
            Column("state", min(max(state, len("state")), _STATE_WIDTH), left=True),
            Column("size", 8),
            Column("made", 8, left=True),
            Column("changed", 8, left=True),
        )
        grid.show(columns, shown)
        self.query_one("#empty").display = not self._rows
        grid.display = bool(self._rows)
        self._show_path()
        self.refresh_bindings()

    def _cells(self, row: SessionRow) -> tuple[Cell, ...]:
        here = self.bench.session is not None and row.session.name == self.bench.session.name
        state = ", ".join(filter(None, ("open" if here else "", row.state)))
        return (
            Cell(row.session.name),
            Cell(str(row.runs)),
            Cell(row.problem or state, "error" if row.problem else "success"),
            Cell(numbers.size(row.bytes)),
            *(Cell(day_of(t, self.bench.clock())) for t in (row.made, row.changed)),
        )

    def on_grid_moved(self) -> None:
        self._show_path()
        self.refresh_bindings()

    def on_grid_opened(self) -> None:
        self.action_open()

    def _show_path(self) -> None:
        row = self.row
        where = str(row.session.path) if row else str(self.bench.home.sessions_path)
        where = printable(row.problem) if row and row.problem else where
        self.query_one("#where", Static).update(Text(where, no_wrap=True, overflow="ellipsis"))

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in _OF_ONE and self.row is None:
            return False
        if action == "save_as" and self.bench.session is None:
            return False
        if action == "undo" and not self.bench.deletions.newest:
            return False
        return not (self.bench.demo and action != "dismiss")

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action, where its words do not say so."""
        return "there is nothing to bring back" if action == "undo" else ""

    def action_open(self) -> None:
        row = self.row
        if row is None:
            return
        if row.problem:
            self.bench.show_error(LmbenchError(row.problem))
            return
        self.bench.change_session(row.session)

    def action_new(self) -> None:
        def make(name: str) -> None:
            self.bench.change_session(self.bench.home.open_session(name))

        self._ask_name("New session", "A name for the session:", "", make)

    def action_save_as(self) -> None:
        session = self.bench.session
        assert session is not None

        async def copy(name: str) -> None:
            made = await self._copy(session.name, name)
            if made is not None:
                # Who has left this screen meanwhile works on in the old one.
                if not self.gone:
                    self.bench.change_session(made)
                self.bench.show_message(f"saved as {name}; {session.name} stays as it was")

        self._ask_name("Save as", f"{session.name} is saved under this name too:", "", copy)

    def action_duplicate(self) -> None:
        row = self.row
        assert row is not None
        old = row.session.name

        async def copy(name: str) -> None:
            if await self._copy(old, name) is not None:
                self.bench.show_message(f"{name} is a copy of {old}")
            await self._reload(name)

        self._ask_name("Duplicate", f"A name for the copy of {old}:", "", copy)

    async def _copy(self, old: str, name: str) -> Session | None:
        self.bench.flush()
        self.bench.show_message(f"copying {old} …")
        return await self.bench.run_in_thread(copy_session, self.bench.home, old, name)

    def action_rename(self) -> None:
        row = self.row
        assert row is not None
        old = row.session.name

        async def rename(name: str) -> None:
            self.bench.flush()
            made = await self.bench.run_in_thread(rename_session, self.bench.home, old, name)
            if isinstance(made, Session):
                self.bench.deletions.moved(row.session.path, made.path)
                if self.bench.session is not None and self.bench.session.name == old:
                    self.bench.attach(made)
                self.bench.show_message(f"{old} is now {name}")
                await self._reload(name)

        self._ask_name("Rename", f"A new name for {old}:", old, rename)

    async def action_delete(self) -> None:
        row = self.row
        assert row is not None
        name = row.session.name
        if self.bench.session is not None and self.bench.session.name == name:
            self.bench.show_error(LmbenchError(f"{name} is open: open another session first"))
            return

        async def delete() -> None:
            deletion = await self.bench.run_in_thread(set_aside_session, self.bench.home, name)
            if deletion is not None:
                self.bench.deletions.add(f"session {name}", deletion)
                self.bench.show_message(f"deleted session {name}: u brings it back until you quit")
            await self._reload(after)

        def answered(answer: str | None) -> None:
            if answer == "delete":
                self._work(delete())

        # Then the cursor is on the neighbour.
        names = [row.session.name for row in self._rows]
        rest = names[names.index(name) + 1 :] or names[: names.index(name)][-1:]
        after = rest[0] if rest else ""
        found = await self.bench.run_in_thread(
            self._as_it_is, row.session, doing="while looking at runs"
        )
        if found is None:
            return
        row, waiting = found
        question = f"Delete {name}: {numbers.plural(row.runs, 'run')}, {numbers.size(row.bytes)}?"
        question += what_becomes_of_queued([run.ref for run in waiting], "it")
        # Not by the key that asked: a key held too long deletes nothing.
        answers = (Answer("delete", "y", "delete", danger=True), Answer("", "escape", "keep"))
        self.app.push_screen(QuestionDialog("Delete", question, answers), answered)

    def _as_it_is(self, session: Session) -> tuple[SessionRow, list[Run]]:
        """What a deletion would take now, whenever the list was read, and what waits for that."""
        return session_row(session), waiting_for(self.bench.home, session.runs())

    async def action_undo(self) -> None:
        here = self.row.session.name if self.row else ""
        folder = await self.bench.undo_deletion()
        if folder is not None and folder.parent == self.bench.home.sessions_path:
            here = folder.name
        await self._reload(here)

    def action_pack(self) -> None:
        row = self.row
        assert row is not None
        session = row.session

        async def write(path: Path, *, replace: bool) -> None:
            self.bench.show_message(f"packing {session.name} …")
            work = partial(pack, session, path, replace=replace)
            packed = await self.bench.run_in_thread(work, doing="while packing")
            if packed is not None:
                left = f", left out {', '.join(packed.left_out)}" if packed.left_out else ""
                self.bench.show_message(
                    f"{session.name} is in {path} ({numbers.size(packed.bytes)}){left}"
                )

        def target(text: str) -> Path:
            path = self._path(text)
            return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)

        def check(text: str) -> str:
            return self._problem_of(text, lambda _: _why_not_written(target(text)))

        def named(answer: str | None) -> None:
            if answer:
                path = target(answer)
                self._unless_there(
                    path,
                    lambda there: self._work(write(path, replace=there)),
                    lambda: ask(answer),
                )

        def ask(value: str) -> None:
            question = "Into which file? From the working folder, or a whole path:"
            self.app.push_screen(TextDialog("Pack", question, value, check), named)

        ask(f"{session.name}{SUFFIX}")

    def _unless_there(
        self, path: Path, go: Callable[[bool], object], back: Callable[[], object]
    ) -> None:
        if os.path.lexists(path):
            ask_to_replace(self.app, "Pack", path, lambda: go(True), back)
        else:
            go(False)

    def _path(self, text: str) -> Path:
        """From the working folder, or a whole path."""
        return self.bench.home.path / typed_path(text)

    def _problem_of(self, text: str, check: Callable[[Path], str]) -> str:
        """Why a text names no file that `check` has nothing against; "" where it does."""
        if not text:
            return "Name a file."
        path = self._path(text)
        return f"This is a folder: {path}" if path.is_dir() else check(path)

    def action_unpack(self) -> None:
        def check(text: str) -> str:
            return self._problem_of(text, _why_not_opened)

        def named(answer: str | None) -> None:
            if answer:
                self._work(self._unpack(self._path(answer)))

        question = f"Which file ({SUFFIX})? From the working folder, or a whole path:"
        self.app.push_screen(TextDialog("Open a file", question, "", check), named)

    async def _unpack(self, path: Path, name: str | None = None) -> None:
        """Make the session of a packed file; where its name is taken, ask for another one."""
        made = await self.bench.run_in_thread(
            _unpacked, path, self.bench.home, name, doing="while unpacking"
        )
        if isinstance(made, Session):
            self.bench.show_message(f"unpacked {made.name}")
            await self._reload(made.name)
        elif isinstance(made, str):
            self._ask_name(
                "Open a file",
                f"There is a session {made} already. A name for the one in {path.name}:",
                _free_name(made, {session.name for session in self.bench.home.sessions()}),
                partial(self._unpack, path),
                same_is_new=True,
            )

    # -- asking --------------------------------------------------------------------------------

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, and tell of it, even where this screen is left meanwhile."""
        self.bench.start_work(work)

    def _ask_name(
        self,
        title: str,
        question: str,
        value: str,
        then: Callable[[str], Any],
        same_is_new: bool = False,
    ) -> None:
        """Ask for a name that no session has yet, `value` being proposed or (not `same_is_new`)
        the one it has; `then` may be a coroutine function."""
        taken = {session.name for session in self.bench.home.sessions()}

        def check(name: str) -> str:
            if name in taken and name != value:
                return f"There is a session {name} already."
            try:
                check_session_name(name)
            except LmbenchError as error:
                return error.message
            return ""

        def named(name: str | None) -> None:
            if name and (same_is_new or name != value):
                result = then(name)
                if result is not None:
                    self._work(result)

        self.app.push_screen(TextDialog(title, question, value, check), named)


def _unpacked(path: Path, home: Home, name: str | None) -> Session | str:
    """In a thread: the session; its name, where one of that name is here."""
    try:
        return unpack(path, home, name)
    except SessionExistsError as error:
        return error.name


def _why_not_written(path: Path) -> str:
    """Why no file can be written there; "" where it can."""
    if path.is_dir():
        return f"This is a folder: {path}"
    if not path.parent.is_dir():
        return f"There is no such folder: {path.parent}"
    try:
        # Permissions alone do not tell: of /proc, or of a disk that is read-only.
        with TemporaryFile(dir=path.parent):
            return ""
    except OSError:
        return f"No file may be written in {path.parent}"


def _why_not_opened(path: Path) -> str:
    """Why a file is no packed session; "" where it looks like one."""
    if not path.is_file():
        return f"There is no such file: {path}"
    if not os.access(path, os.R_OK):
        return f"This file may not be read: {path}"
    return "" if is_zipfile(path) else f"No packed session, or a damaged one: {path}"


def _free_name(name: str, taken: set[str]) -> str:
    """``default-2``, or the next number that is free."""
    return next(new for n in itertools.count(2) if (new := f"{name}-{n}") not in taken)
