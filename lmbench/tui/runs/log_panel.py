"""The selected run's log: its events in words, or what its worker wrote."""

from __future__ import annotations

import asyncio
import re
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import RichLog

from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.session.log_lines import read_log
from lmbench.tui.bench.snapshots import Note, RunView
from lmbench.tui.kit.panel import Panel
from lmbench.tui.runs.log_lines import LogLines

__all__ = ["LogPanel"]

_LINES_KEPT = 2000
# In place of the stamp of a log that was not looked at.
_UNSEEN = ""
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_TINTS = {"failed": "error", "warning": "warning", "finished": "success"}


class LogPanel(Panel):
    """Follows the newest line unless one has scrolled up."""

    TITLE = "Log"
    HELP = """
What happened in the selected run, newest last: epochs, checkpoints, pruning steps, warnings, its
end. **x** changes to the log that its worker wrote, with all that libraries said, and back. Scroll
up to read in peace; End follows again. **/** searches, **n** and **N** go from match to match. What
is selected with the mouse is copied by Ctrl+C.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "x",
            "source",
            "events/log",
            id="log.source",
            tooltip="Change between the events and the worker's log",
        ),
    ]
    DEFAULT_CSS = """
    LogPanel RichLog { background: transparent; height: 1fr; padding: 0 1; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._source = "events"
        self._key = ("", "", "")
        self._shown: Note | None = None
        self._position = 0
        self._seen: object = _UNSEEN
        self._width = 0

    def compose(self) -> ComposeResult:
        yield LogLines(max_lines=_LINES_KEPT, wrap=True, markup=False, min_width=20)

    def on_mount(self) -> None:
        self._source = "log" if self.bench.recall("log") == "log" else "events"

    def on_resize(self) -> None:
        """Lines are wrapped as they are written: write them again to the new width."""
        width = self.content_size.width
        if width and width != self._width:
            self._width, self._key = width, ("", "", "")
            self.refresh_view()

    def action_source(self) -> None:
        self._source = "log" if self._source == "events" else "events"
        self.bench.remember("log", self._source)
        self.refresh_view()

    def refresh_view(self) -> None:
        view = self.bench.selected_run
        log = self.query_one(RichLog)
        key = (view.key if view else "", self._source, self.bench.theme)
        if key != self._key:
            self._key, self._shown = key, None
            self._position, self._seen = 0, _UNSEEN
            log.clear()
        name = "events" if self._source == "events" else "worker's log"
        self.set_subtitle(f"{name} of {view.title}" if view else "")
        if view is None:
            return
        if self._source == "events":
            self._write_notes(log, view)
        elif view.log != self._seen:
            self._seen = view.log
            self.bench.start_work(self._follow(view, key), owner=self, group="log", exclusive=True)

    def _write_notes(self, log: RichLog, view: RunView) -> None:
        notes, follow = view.notes, self._shown is None or log.is_vertical_scroll_end
        if self._shown is not None and self._shown in notes:
            notes = notes[notes.index(self._shown) + 1 :]
        elif notes or self._shown is not None:
            # The history was restarted, or the line that there is none.
            log.clear()
        if not view.notes:
            who = view.title
            _say_of_none(log, view, f"Nothing has happened in {who} yet.", f"{who} has no events.")
        for note in notes:
            tint = _TINTS.get(note.kind)
            line = Text.assemble((f"{numbers.clock(note.t)}  ", "dim"))
            line.append(note.text, self.bench.colour_style(tint) if tint else "")
            log.write(line, scroll_end=follow)
        self._shown = view.notes[-1] if view.notes else None

    async def _follow(self, view: RunView, key: tuple[str, str, str]) -> None:
        """Add what the worker's log got since the last look."""
        part = await asyncio.to_thread(read_log, view.run.log_path, self._position)
        # Nor where the screen was left meanwhile.
        if key != self._key or not self.query(RichLog):
            return
        log = self.query_one(RichLog)
        # What is written anew ends at its end, wherever its forerunner was scrolled to.
        follow = part.anew or not self._position or log.is_vertical_scroll_end
        if part.anew or (part.lines and not self._position):
            log.clear()
        self._position = part.position
        for line in part.lines:
            log.write(_coloured(line), scroll_end=follow)
        if not self._position:
            nothing = f"The worker of {view.title} has written nothing"
            _say_of_none(log, view, f"{nothing} yet.", f"{nothing}.")


def _coloured(line: str) -> Text:
    """A line in the colours that its writer gave it, without what else a terminal would obey."""
    parts = _COLOUR.split(line)
    parts[::2] = map(printable, parts[::2])
    return Text.from_ansi("".join(parts))


def _say_of_none(log: RichLog, view: RunView, yet: str, none: str) -> None:
    """Words in place of lines, of a run that may still write some or of one that will not."""
    # What is written before the log has a size is not among its lines yet.
    if not (log.lines or log._deferred_renders):
        log.write(Text(yet if view.live or view.status == "queued" else none, "dim"))
