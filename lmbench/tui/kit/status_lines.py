"""The three lines around the panels: what is open, what runs and what just happened, the keys."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import lru_cache

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.app import App, RenderResult
from textual.binding import Binding
from textual.dom import DOMNode
from textual.events import Click
from textual.screen import ModalScreen, Screen

from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.tui.bench.key_bindings import bindings_in_force
from lmbench.tui.bench.run_marks import STATUS_MARKS, mark_of
from lmbench.tui.bench.snapshots import RunView, Snapshot
from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["KeyBar", "StatusBar", "StatusLine", "TopBar", "bar"]

# Below this the line about what happened moves up beside the session's name.
_ROOMY_ROWS = 28
_FIRST = ("main.new", "main.pause", "main.stop", "main.resume", "new.start")
_ALWAYS = ("app.help", "app.quit")


def bar(fraction: float, width: int, done: Style, rest: Style) -> Text:
    """A progress bar of `width` cells; half cells count."""
    halves = round(max(0.0, min(1.0, fraction)) * width * 2)
    text = Text("━" * (halves // 2), done)
    if halves % 2:
        text.append("╸", done)
    text.append("─" * (width - (halves + 1) // 2), rest)
    return text


class StatusLine(GuardedWidget):
    """One that says more or less by the terminal's height; the screen tells it of that."""

    DEFAULT_CSS = """
    StatusLine { height: 1; width: 1fr; background: $panel; color: $foreground; }
    """

    _drawn: object = None

    def on_mount(self) -> None:
        for name in ("snapshot", "last_message", "recent_message", "theme"):
            self.watch(self.app, name, self.redraw, init=False)

    def on_resize(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Repaint, if the line says anything else than before."""
        line = self.line()
        fresh = line.plain, line.spans, self.bench.theme
        if fresh != self._drawn:
            self._drawn = fresh
            self.refresh()

    def line(self) -> Text:
        raise NotImplementedError

    def render(self) -> RenderResult:
        return self.line()


class TopBar(StatusLine):
    """The session and its corpus; right, the device, its load and the worker's memory."""

    def line(self) -> Text:
        snapshot = self.bench.snapshot
        left = Text(" lmbench", "bold", no_wrap=True, overflow="ellipsis")
        if self.bench.session is not None:
            left.append(f"  {self.bench.session.name}", "not bold")
        corpus = snapshot.record.corpus if snapshot.record else None
        names = {v.record.corpus.name for v in snapshot.runs if v.record and v.record.corpus}
        if corpus or len(names) == 1:
            left.append(f" · {one_line(corpus.name if corpus else names.pop())}", "not bold")
        if self.bench.demo:
            left.append("  recorded", "not bold italic")
        right = _machine(snapshot)
        older = self.bench.last_message and not self.bench.recent_message
        if self.app.size.height < _ROOMY_ROWS and (view := snapshot.current) and older:
            # The status bar names the run at work.
            words = self.bench.last_message.removeprefix(f"{view.title}: ")
            room = max(self.size.width - left.cell_len - right.cell_len - 4, 1)
            # Between words: a figure that is cut reads as another one.
            words = textwrap.shorten(words, room, break_on_hyphens=False, placeholder=" …")
            left.append(f"   {words}", "not bold dim")
        return _justified(left, right, self.size.width)


def _machine(snapshot: Snapshot) -> Text:
    view = snapshot.current
    if view is None:
        return Text("queued " if snapshot.queue else "idle ", "dim")
    if view.started is None:
        return Text("starting " if _starts(view) else "busy ", "dim")
    parts = [one_line(view.started.device)]
    if view.started.device == "cpu" and view.started.threads:
        parts.append(f"{view.started.threads} thr")
    if view.step is not None:
        parts.append(f"{view.step.utilisation:3.0f}%")
        parts.append(numbers.size(view.step.memory).rjust(7))
    return Text("  ".join(parts) + " ")


def _starts(view: RunView) -> bool:
    """Has its worker said nothing yet?"""
    return view.started is None and view.progress is None and not view.notes


class StatusBar(StatusLine):
    """How far the live run is and what waits behind it; and what just happened."""

    DEFAULT_CSS = """
    StatusBar { background: $surface; height: auto; max-height: 2; }
    """

    def redraw(self) -> None:
        self.styles.height = 2 if self.app.size.height >= _ROOMY_ROWS else 1
        super().redraw()

    def line(self) -> Text:
        snapshot = self.bench.snapshot
        view = snapshot.current
        width = self.size.width
        words = self.bench.recent_message or self.bench.last_message
        happened = Text(f" {words}", "dim", no_wrap=True, overflow="ellipsis")
        happened.truncate(width, overflow="ellipsis")
        if view is None:
            progress = self._idle(snapshot)
        else:
            progress = self._progress(view, len(snapshot.queue), width)
        if self.app.size.height >= _ROOMY_ROWS:
            return Text("\n").join([happened, progress])
        newest = self.bench.recent_message or (self.bench.last_message and view is None)
        return happened if newest else progress

    def _idle(self, snapshot: Snapshot) -> Text:
        waiting = len(snapshot.queue)
        if waiting:
            why = "starting, unless another session's run has the device"
            return Text(f" {waiting} queued: {why}", "dim")
        return Text(" nothing runs", "dim")

    def _progress(self, view: RunView, waiting: int, width: int) -> Text:
        mark = mark_of(view.id)
        colour = self.bench.colour_style(mark.variable)
        faint = self.bench.colour_style("faint")
        left = Text(" ", no_wrap=True)
        left.append(f"{mark.marker} ", colour)
        left.append(f"{view.title} ")
        right = Text("", no_wrap=True)
        progress = view.progress
        if progress is not None:
            right.append(f" {progress.what} {100 * progress.fraction:3.0f}%")
        if view.status == "paused":
            right.append(f"  {STATUS_MARKS['paused'][0]} paused", "bold")
        elif _starts(view):
            right.append(" starting …")
        elif progress is not None and progress.aside:
            right.append(f"  {progress.aside}")
        elif view.step is not None:
            right.append(f"  {numbers.rate(view.step.tokens_per_s)}")
        if progress is not None and progress.left_s is not None:
            right.append(f"  left {numbers.duration(progress.left_s)}")
        if waiting:
            right.append(f"  +{waiting} queued")
        right.append(" ")
        room = width - left.cell_len - right.cell_len - 1
        if room >= 6 and progress is not None:
            left.append_text(bar(progress.fraction, min(room, 60), colour, faint))
        return _justified(left, right, width)


class KeyBar(GuardedWidget):
    """The keys that do something here and now: work first, then the focused panel's own. On a
    screen without a `StatusBar` what was just said stands here for a moment."""

    DEFAULT_CSS = """
    KeyBar { height: 1; width: 1fr; background: $panel; color: $foreground; }
    """

    _drawn: object = None

    def __init__(self) -> None:
        super().__init__()
        # Where each entry ends, with its action and whose it is; before it, where each of its keys
        # ends, if it names several.
        self._places: list[tuple[int, str, str, DOMNode]] = []
        self._text = Text()
        self._due = False
        self._below_status_bar = False

    def on_mount(self) -> None:
        self._below_status_bar = bool(self.screen.query(StatusBar))
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._redraw_soon())
        for name in ("recent_message", "theme"):
            self.watch(self.app, name, self.redraw, init=False)

    def on_resize(self) -> None:
        self.redraw()

    def _redraw_soon(self) -> None:
        """Once, however many panels have new bindings at one key."""
        if not self._due:
            self._due = True
            self.call_later(self.redraw)

    def redraw(self) -> None:
        self._due = False
        message = "" if self._below_status_bar else self.bench.recent_message
        # A dialog names its keys itself, and those of the screen behind it do nothing.
        asked = isinstance(self.app.screen, ModalScreen)
        offered = [] if message or asked else self._offered()
        fresh = message, offered, self.size.width, self.bench.theme
        if fresh != self._drawn:
            self._drawn = fresh
            self._text = self._line(message, offered)
            self.refresh()

    def _line(self, message: str, offered: list[tuple[Binding, DOMNode]]) -> Text:
        self._places = []
        if not offered:
            return Text(f" {message}", no_wrap=True, overflow="ellipsis")
        style = Style(bold=True) + self.bench.colour_style("footer-key-foreground")
        palette = Binding("ctrl+p", "command_palette", "commands")
        always = [(b, node) for b, node in offered if b.id in _ALWAYS]
        last = [(self._item(b, style), b, node) for b, node in always]
        last.append((_key("^p", "commands", style), palette, self.app))
        room = self.size.width - sum(item.cell_len for item, _, _ in last)
        text = Text(no_wrap=True)
        shown = []
        for binding, node in offered:
            item = self._item(binding, style)
            if binding.id not in _ALWAYS and item.cell_len <= room:
                shown.append((item, binding, node))
                room -= item.cell_len
        for item, binding, node in (*shown, *last):
            end, keys = text.cell_len, self.app.get_key_display(binding).split()
            for key in keys if len(keys) > 1 else ():
                end += 1 + cell_len(key)
                self._places.append((end, key, binding.action, node))
            text.append_text(item)
            self._places.append((text.cell_len, "", binding.action, node))
        return text

    async def on_click(self, event: Click) -> None:
        """Do what the key does that is clicked: an entry may stand for two, such as ← →."""
        for end, shown, action, node in self._places:
            if event.x < end:
                for key, binding in bindings_in_force(node):
                    if self.app.get_key_display(Binding(key, "")) == shown.replace("−", "-"):
                        action = binding.action
                await self.app.run_action(action, node)
                return

    def _item(self, binding: Binding, style: Style) -> Text:
        return _key(self.app.get_key_display(binding), binding.description, style)

    def _offered(self) -> list[tuple[Binding, DOMNode]]:
        found: dict[str, tuple[int, Binding, DOMNode]] = {}
        for binding, node in self._in_force():
            if binding.show and binding.description and binding.id:
                own = not isinstance(node, Screen | App)
                rank = 0 if binding.id in _FIRST else 1 if own else 2
                found.setdefault(binding.id, (rank, binding, node))
        ordered = sorted(found.values(), key=lambda entry: entry[0])
        return [(binding, node) for _, binding, node in ordered]

    def _in_force(self) -> Iterator[tuple[Binding, DOMNode]]:
        """What `Screen.active_bindings` says of the keys that any shown binding has. That asks of
        every other one, too, whether it is possible now, which at each key takes long."""
        chain = self.screen._modal_binding_chain
        bound = [(key, binding, node) for node, bindings in chain for key, binding in bindings]
        shown = {key for key, binding, _ in bound if binding.show}
        chosen: dict[str, tuple[Binding, DOMNode, bool | None]] = {}
        for key, binding, node in bound:
            if key in shown and (
                key not in chosen or (binding.priority and not chosen[key][0].priority)
            ):
                possible = self.app._check_action_state(binding.action, node)
                if possible is not False:
                    chosen[key] = binding, node, possible
        for binding, node, possible in chosen.values():
            if possible:
                yield binding, node

    def render(self) -> RenderResult:
        return self._text


@lru_cache(maxsize=256)
def _key(key: str, words: str, style: Style) -> Text:
    return Text.assemble((f" {key}", style), f" {words} ")


def _justified(left: Text, right: Text, width: int) -> Text:
    """`left` and `right` at the two ends of a line of `width`; the left one is cut."""
    room = max(0, width - right.cell_len - 1)
    left.truncate(room, overflow="ellipsis", pad=True)
    left.append(" ")
    line = left + right
    line.truncate(width)
    line.no_wrap = True
    return line
