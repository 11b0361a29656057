"""What all panels of the workbench share: a frame with a title, help, and being kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.content import Content
from textual.events import Click
from textual.geometry import Region
from textual.message import Message
from textual.message_pump import MessagePump
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.key_bindings import bindings_in_force

__all__ = ["Guarded", "GuardedWidget", "Panel", "PicturePanel", "update_static"]


# The column at which a frame's title begins.
_TITLE_AT = 3


def update_static(static: Static, text: str | Text) -> None:
    """Show `text`, if it says anything else than what is there. The screen is laid out anew only
    where that makes it higher or lower: it costs as much as all else that a key does."""
    fresh = text if isinstance(text, Text) else Text(text)
    shown = static.content
    if isinstance(shown, Text) and shown == fresh and shown.spans == fresh.spans:
        return
    before = _height(static)
    static.update(fresh, layout=False)
    if before is None or _height(static) != before:
        static.refresh(layout=True)
        # Laid out since an earlier request that it has not sent on yet, it would keep that height.
        static._layout_updates += 1


def _height(static: Static) -> int | None:
    """What its text takes, before any limit; None where that is not known."""
    width = static.content_size.width
    if static.styles.is_auto_width or not width:
        return None
    if not static.styles.is_auto_height:
        return 0
    lines = str(static.content).split("\n")
    if all(cell_len(line) <= width for line in lines):
        return len(lines)
    return static.visual.get_height(static.styles, width)  # pyright: ignore[reportArgumentType]


class Guarded(MessagePump):
    """A widget or screen whose handlers may fail without taking the workbench down.

    An exception in a message handler, a timer or a watcher is logged and shown as a dialog; the
    widget lives on.
    """

    @property
    def bench(self) -> Bench:
        """The application, with its own type."""
        assert isinstance(self.app, Bench)
        return self.app

    async def _dispatch_message(self, message: Message) -> None:
        try:
            await super()._dispatch_message(message)
        except Exception as error:
            self.bench.show_error(error, f"in {type(self).__name__}")

    def set_timer(
        self,
        delay: float,
        callback: Callable[[], object] | None = None,
        *,
        name: str | None = None,
        pause: bool = False,
    ) -> Timer:
        # As a message: what fails in a timer's own call ends the application.
        later = partial(self.call_later, callback) if callback else None
        return super().set_timer(delay, later, name=name, pause=pause)


class GuardedWidget(Widget, Guarded):
    """A widget that is guarded (see there)."""


class Panel(GuardedWidget):
    """A framed part of a screen, up to date with the snapshot whenever it can be seen.

    Override `refresh_view`; it is called after mounting and whenever the snapshot, the selected
    run, the marked runs or the theme changed while the panel was on display, or once when it
    comes back on display. `TITLE` is the frame's title and the name in help; `HELP` is markdown
    for F1.
    """

    TITLE: ClassVar[str] = ""
    HELP: ClassVar[str | None] = None

    DEFAULT_CSS = """
    Panel {
        border: round $border-blurred;
        border-title-color: $text-muted;
        border-title-style: none;
        border-subtitle-color: $text-muted;
        padding: 0;
    }
    Panel:focus, Panel:focus-within {
        border: heavy $accent;
        border-title-color: $accent;
        border-title-style: bold;
    }
    /* alone, a width of 5fr would be five screens */
    Panel.-maximized { width: 1fr !important; height: 1fr !important; }
    """

    class TabClicked(Message):
        """A tab in the frame's title was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    ALLOW_MAXIMIZE = True

    _stale = False
    _tabs: tuple[tuple[str, str], ...] = ()
    _title = ""
    _subtitle = ""

    def on_mount(self) -> None:
        self.set_title(self._title or self.TITLE)
        for name in ("snapshot", "selected", "marked", "theme"):
            self.watch(self.app, name, self._changed, init=False)
        self._stale = True
        self.call_after_refresh(self.refresh_if_stale)

    def on_show(self) -> None:
        self.refresh_if_stale()

    def has_key(self, key: str) -> bool:
        """Is it one of the panel's or of its parts'?"""
        return any(
            key == own and binding.id
            for node in (self, *self.query("*"))
            for own, binding in bindings_in_force(node)
        )

    def take_focus(self) -> None:
        """Give the focus to the panel, or to the part of it that keys are for; override where
        that is not the first focusable one."""
        if self.can_focus:
            self.focus()
        else:
            for widget in self.query("*"):
                if widget.focusable:
                    widget.focus()
                    return

    def set_title(self, title: str) -> None:
        """Set the frame's title (markup); repaints only where it is new."""
        if title != self._title:
            self._title = title
            self._border_title = self._frame_text(title)
            self._repaint_line(0)

    def set_subtitle(self, text: str) -> None:
        """Set the words at the frame's foot; repaints only where they are new."""
        if text != self._subtitle:
            self._subtitle = text
            self._border_subtitle = self._frame_text(Content(text))
            self._repaint_line(self.outer_size.height - 1)

    def _frame_text(self, markup: str | Content) -> Content:
        # As `border_title` and `border_subtitle` take it, which repaint the whole panel.
        return self.render_str(markup).expand_tabs(4).split()[0]

    def _repaint_line(self, y: int) -> None:
        """Repaint a line of the panel, its frame included."""
        x_inside, y_inside = self.content_offset
        self.refresh(Region(-x_inside, y - y_inside, self.outer_size.width, 1))

    def show_tabs(self, names: tuple[str, ...]) -> None:
        """Show in the frame's title which panels share this place; () for none but itself."""
        if len(names) < 2:
            self._tabs = ()
            self.set_title(self.TITLE)
        else:
            padded = [(name, f" {name.capitalize()} ") for name in names]
            self.set_tabs(padded, self.id or "", "")

    def set_tabs(self, tabs: Sequence[tuple[str, str]], chosen: str, between: str) -> None:
        """Make the frame's title of tabs, each a name and a text; a click posts `TabClicked`."""
        self._tabs = tuple((name, text + between) for name, text in tabs)
        self.set_title(
            between.join(f"[b r]{text}[/]" if name == chosen else text for name, text in tabs)
        )

    def on_click(self, event: Click) -> None:
        if event.y == 0:
            x = event.x - _TITLE_AT
            for name, text in self._tabs:
                if 0 <= x < len(text):
                    self.post_message(self.TabClicked(name))
                    return
                x -= len(text)

    def refresh_view(self) -> None:
        """Bring the panel up to date with ``self.bench.snapshot``, ``.selected``, ``.marked``."""

    def _changed(self) -> None:
        self._stale = True
        if self.is_in_view:
            self.refresh_if_stale()

    @property
    def is_in_view(self) -> bool:
        """Mounted, displayed with all its ancestors, on the screen that is in front, and with no
        other panel maximised: that leaves it without a size."""
        return (
            self.is_mounted
            and self.screen.is_active
            and self.screen.maximized in (None, self)
            and all(node.display for node in self.ancestors_with_self if isinstance(node, Widget))
        )

    def refresh_if_stale(self) -> None:
        if self._stale and self.is_in_view:
            self._stale = False
            self.refresh_view()


class PicturePanel(Panel):
    """One picture, drawn anew at each size."""

    def compose(self) -> ComposeResult:
        yield Static("", id="picture", markup=False)

    def on_resize(self) -> None:
        self.refresh_view()
