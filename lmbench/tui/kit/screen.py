"""What all screens of the workbench share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from textual.actions import parse
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.events import Compose, Key, Resize, ScreenResume
from textual.geometry import Size
from textual.message import Message
from textual.messages import Update
from textual.reactive import Reactive
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget

from lmbench.tui.bench.key_bindings import bindings_in_force, is_typed
from lmbench.tui.kit.background_task import BackgroundTask
from lmbench.tui.kit.compositor import FrugalCompositor
from lmbench.tui.kit.panel import Guarded, Panel
from lmbench.tui.kit.status_lines import KeyBar, StatusLine

__all__ = ["BenchScreen"]

T = TypeVar("T")


class BenchScreen(Screen[T], Guarded):
    """A screen whose handlers may fail without taking the workbench down (see `Guarded`), and
    whose panels catch up when it comes to the front."""

    # Those that win or lose the focus repaint themselves; Textual would repaint the whole screen,
    # too: more to compute, and over a slow line more to send.
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)

    # A key is answered there.
    ALLOW_IN_MAXIMIZED_VIEW = "StatusBar, KeyBar"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "z",
            "maximise",
            "maximise",
            id="app.maximise",
            show=False,
            tooltip="Give the panel the whole screen, or take it back",
        )
    ]

    _result: tuple[T | None] | None = None
    _styled = False
    _background: BackgroundTask | None = None
    """Work that is called off when the screen is left."""
    _settling: Timer | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._compositor = FrugalCompositor()

    def panel(self, name: str) -> Panel:
        return self.query_one(f"#{name}", Panel)

    def post_message(self, message: Message) -> bool:
        # Textual sends the screen a message for each widget that is to be painted.
        if isinstance(message, Update) and self._thread_id == threading.get_ident():
            if self in self._compositor:
                self._dirty_widgets.add(message.widget)
                self.check_idle()
            return True
        return super().post_message(message)

    def _on_timer_update(self) -> None:
        if self._repaint_required:
            # A screen below asks this one to paint where it has changed: Textual would forget what
            # of this one is to be painted elsewhere.
            self._compositor.update_widgets(self._dirty_widgets)
        super()._on_timer_update()

    def on_compose(self, event: Compose) -> None:
        self._take_size_classes(self.app.size)

    def on_resize(self, event: Resize) -> None:
        """Lay out in the new size's style at once. Textual lays out before it styles, and what
        that leaves no room for loses the focus."""
        if self._take_size_classes(event.size):
            self.app.stylesheet.update(self)
        for line in self.query(StatusLine):
            line.redraw()

    def _take_size_classes(self, size: Size) -> bool:
        """Take the classes of the terminal's size; are they other ones?"""
        before = self.classes
        breakpoints = self.app.HORIZONTAL_BREAKPOINTS, self.app.VERTICAL_BREAKPOINTS
        for cells, classes in zip(size, breakpoints, strict=True):
            reached = [name for least, name in sorted(classes or ()) if least <= cells]
            self.remove_class(*(name for _, name in classes or ()), update=False)
            self.add_class(*reached[-1:], update=False)
        return self.classes != before

    def _check_auto_scroll(
        self, select_widget: Widget, mouse_coordinate: tuple[float, float], delta_y: float
    ) -> None:
        # By the middle of its line: at the top of the last line Textual does not scroll.
        middle = mouse_coordinate[0], int(mouse_coordinate[1]) + 0.5
        super()._check_auto_scroll(select_widget, middle, delta_y)

    def _update_focus_styles(
        self, focused: Widget | None = None, blurred: Widget | None = None
    ) -> None:
        """Style anew what looks otherwise around the focus: of what it is in and their children,
        which is as far as rules with `:focus-within` reach. Textual would style all that the
        outermost of these holds, and no child where that itself looks the same."""
        around = {
            node
            for end in (focused, blurred)
            if end is not None
            for ancestor in end.ancestors_with_self
            for node in (ancestor, *ancestor.children)
            if node._has_focus_within
        }
        self.app.stylesheet.update_nodes(around, animate=True)

    def focus_panel(self, panel: Panel) -> None:
        """Give a panel the focus; where another has all of the screen, it gives that up."""
        if self.maximized not in (None, panel):
            self.minimize()
        panel.take_focus()

    def action_go(self, step: int) -> None:
        """To the next panel, or to the one before."""
        if self.maximized is not None:
            self.minimize()
        panels = [panel for panel in self.query(Panel) if panel.is_in_view]
        here = next((i for i, panel in enumerate(panels) if panel.has_focus_within), -1)
        panels[(here + step) % len(panels)].take_focus()

    def action_maximise(self) -> None:
        """The focused panel alone, or all of them again."""
        panel = next((panel for panel in self.query(Panel) if panel.has_focus_within), None)
        if self.maximized is not None:
            self.minimize()
        elif panel is not None:
            self.maximize(panel, container=False)
        else:
            self.bench.show_message("there is no panel here to maximise", keep=False)

    def on_key(self, event: Key) -> None:
        """A key that can do nothing now or here comes this far: say why, or where it does."""
        refused: tuple[DOMNode, Binding] | None = None
        for node, bindings in self._modal_binding_chain:
            for binding in bindings.key_to_bindings.get(event.key, ()):
                if self.app._check_action_state(binding.action, node) is not False:
                    # Textual does this one instead.
                    return
                if binding.id and refused is None:
                    refused = node, binding
        why = _why_not(*refused) if refused is not None else self._where_else(event.key)
        self.bench.show_message(why, keep=False)

    def _where_else(self, key: str) -> str:
        """What to say of a key that is not bound here: whose it is, and how to get there."""
        shown = self._shown_key(key)
        for panel in self.query(Panel):
            if panel.TITLE and panel.has_key(key):
                return f"{shown} is a key of {panel.TITLE}{self._way_to(panel)}"
        help = self._key_of(self.app, "help")
        return f"{shown} does nothing here" + (f": {help} lists the keys" if help else "")

    def _way_to(self, panel: Panel) -> str:
        """Which key goes to a panel, or from each to the next."""
        if key := self._key_of(self, f"panel('{panel.id}')"):
            return f": {key} goes there"
        key = self._key_of(self, "go(1)", "app.focus_next")
        return f": {key} goes from panel to panel" if key else ""

    def _key_of(self, node: DOMNode, *actions: str) -> str:
        """The first key of one of these actions that is not typed here, as it is shown."""
        keys = (key for key, b in bindings_in_force(node) if b.action in actions)
        return next((self._shown_key(key) for key in keys if not is_typed(self, key)), "")

    def _shown_key(self, key: str) -> str:
        return self.app.get_key_display(Binding(key, ""))

    def settle(self, seconds: float, then: Callable[[], object]) -> None:
        """Do it so long after the last of several requests."""
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(seconds, then)

    @property
    def gone(self) -> bool:
        """Was it left? Work that it began may outlive it."""
        return self not in self.app.screen_stack

    def finish(self, result: T | None = None) -> None:
        """Dismiss the screen, or as soon as what covers it is gone."""
        self._result = (result,)
        self._finish()

    def _finish(self) -> None:
        if self._result is not None and self.app.screen is self:
            self.dismiss(*self._result)

    async def on_unmount(self) -> None:
        if self._background is not None:
            self._background.cancel()

    def on_screen_suspend(self) -> None:
        self._redraw_keys()

    def _redraw_keys(self) -> None:
        for bar in self.query(KeyBar):
            bar.redraw()

    def on_screen_resume(self, event: ScreenResume) -> None:
        # At first each part has just been styled.
        event.refresh_styles = event.refresh_styles and self._styled
        self._styled = True
        self.bench.leave_answer()
        for panel in self.query(Panel):
            panel.refresh_if_stale()
        self._redraw_keys()
        self._finish()


def _why_not(node: DOMNode, binding: Binding) -> str:
    """What a node says of an action that it does not allow now, or else that it does not."""
    _, action, parameters = parse(binding.action)
    explain = getattr(node, "why_not", None)
    reason = explain(action, parameters) if explain is not None else ""
    words = binding.tooltip or binding.description
    return reason or f"not possible now: {words[:1].lower()}{words[1:]}"
