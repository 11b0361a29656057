"""The selected run's story: its events in words, or the log that its worker wrote."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import RichLog

from lmbench.tui import figures
from lmbench.tui.watch import Note, RunView
from lmbench.tui.widgets.panel import Panel

__all__ = ["LogPanel"]

_TAIL_BYTES = 64 * 1024
_LINES_KEPT = 2000
_TINTS = {"failed": "error", "warning": "warning", "finished": "success"}


class LogPanel(Panel):
    """Follows the newest line unless one has scrolled up."""

    TITLE = "Log"
    HELP = """
What happened in the selected run, newest last: epochs, checkpoints, pruning steps, warnings, its
end. **x** changes to the log that its worker wrote, with all that libraries said, and back. Scroll
up to read in peace; End follows again.
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
        self._key = ("", "")
        self._shown: Note | None = None
        self._position = 0

    def compose(self) -> ComposeResult:
        yield RichLog(max_lines=_LINES_KEPT, wrap=True, markup=False, min_width=20)

    def on_mount(self) -> None:
        self._source = "log" if self.bench.recall("log") == "log" else "events"

    def action_source(self) -> None:
        self._source = "log" if self._source == "events" else "events"
        self.bench.remember("log", self._source)
        self.refresh_view()

    def refresh_view(self) -> None:
        view = self.bench.selected_run
        log = self.query_one(RichLog)
        key = (view.key if view else "", self._source)
        if key != self._key:
            self._key, self._shown, self._position = key, None, 0
            log.clear()
        name = "events" if self._source == "events" else "worker's log"
        self.subtitle(f"{name} of {view.id} {view.name}" if view else "")
        if view is None:
            return
        if log.lines == [] and not view.notes and self._source == "events":
            log.write(Text(f"Nothing has happened in {view.id} {view.name} yet.", "dim"))
        if self._source == "events":
            self._write_notes(log, view)
        else:
            self._write_tail(log, view.run.log_path)

    def _write_notes(self, log: RichLog, view: RunView) -> None:
        notes = view.notes
        if self._shown is not None and self._shown in notes:
            notes = notes[notes.index(self._shown) + 1 :]
        elif self._shown is not None:
            log.clear()
        for note in notes:
            line = Text(f"{figures.clock(note.t)}  ", "dim")
            tint = _TINTS.get(note.kind)
            line.append(note.text, self.bench.colour_style(tint) if tint else "")
            log.write(line, scroll_end=_following(log))
        if view.notes:
            self._shown = view.notes[-1]

    def _write_tail(self, log: RichLog, path: Path) -> None:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._position:
                    self._position = 0
                    log.clear()
                file.seek(max(self._position, size - _TAIL_BYTES))
                data = file.read()
        except OSError:
            return
        whole, newline, _ = data.rpartition(b"\n")
        if newline:
            self._position = size - len(data) + len(whole) + 1
            for line in whole.decode("utf-8", "replace").splitlines():
                log.write(Text.from_ansi(line), scroll_end=_following(log))


def _following(log: RichLog) -> bool:
    return log.is_vertical_scroll_end
