"""Keys take effect in the order in which they were pressed.

Textual types a letter in the widget that has the focus, but looks a key's binding up only when the
key has bubbled from there to the application. In a burst, as a slow line or a busy machine delivers
them, letters overtake the Backspace, End or arrow before them and land where they were not meant.
Here a key waits until the one before it is through.

A terminal tells Alt and a letter by the same two bytes as Escape and then the letter. Textual takes
them for the first where they come within a tenth of a second, as they do over a slow line or beside
a busy core: the Escape would be lost, and what follows it, too. Here they are two keys, unless
something is bound to the one.

Keys that wait take memory: the driver (`kit/driver.py`) reads no more of them while `MOST_WAITING`
do, and whoever types faster than the workbench works, a script mostly, waits as for any program.
"""

from __future__ import annotations

import asyncio
from collections import deque

from textual.app import App
from textual.events import Event, Key
from textual.message import Message
from textual.widget import Widget

__all__ = ["MOST_WAITING", "KeysInOrder"]

# More than anyone has typed ahead; some 400 bytes each.
MOST_WAITING = 500

# How often it is checked whether the widget that got a key's mark is still there to return it.
_CHECK_S = 0.05


class Through(Message):
    """Follows a key on its way up to the application, and then what its binding has posted."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


class KeysInOrder(App[None]):
    """An application that lets one key go at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting_keys: deque[Key] = deque()
        self._keys_taken = 0
        # Until the key is through; one of Textual's timers would be a task for each key.
        self._key_on_its_way: asyncio.TimerHandle | None = None
        self._marked_widget: Widget | None = None

    async def on_event(self, event: Event) -> None:
        if not isinstance(event, Key) or event.is_forwarded:
            await super().on_event(event)
            return
        self._keys_taken += 1
        if self.screen_stack:
            await self._take(event)

    def waiting_keys(self, sent: int) -> int:
        """How many of the `sent` keys wait, those included that did not come this far yet."""
        return sent - self._keys_taken + len(self._waiting_keys)

    async def _take(self, event: Key) -> None:
        self._waiting_keys += self._pressed(event)
        if self._key_on_its_way is None:
            await self._let_go()

    def _pressed(self, key: Key) -> tuple[Key, ...]:
        letter = key.character or ""
        if (
            not key.key.startswith("alt+")
            or not letter.isalnum()
            or key.key in self.screen.active_bindings
        ):
            return (key,)
        return Key("escape", "\x1b"), Key(letter, letter)

    async def _let_go(self) -> None:
        """Send the next key, and its mark behind it."""
        if self._key_on_its_way is not None:
            self._key_on_its_way.cancel()
            self._key_on_its_way = None
        if not self._waiting_keys or not self.screen_stack:
            return
        key = self._waiting_keys.popleft()
        self._marked_widget = None
        self._check_soon()
        await super().on_event(key)
        self._mark(again=True)

    def _check_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._key_on_its_way = loop.call_later(_CHECK_S, self._go_on_without)

    def _go_on_without(self) -> None:
        """Let the next key go where the mark was lost with the widget that had it."""
        widget = self._marked_widget
        if widget is not None and not (widget.is_attached and widget.is_running):
            self.call_later(self._let_go)
        elif self.is_running:
            self._check_soon()

    def _mark(self, *, again: bool) -> None:
        """Follow the key, unless leaving has taken the screens down meanwhile."""
        if self.screen_stack:
            self._marked_widget = self.focused or self.screen
            self._marked_widget.post_message(Through(again=again))

    def on_through(self, mark: Through) -> None:
        mark.stop()
        if mark.again:
            # The binding ran here. Messages of its own, as to leave for the next widget, start
            # where the focus is; a second mark comes after them.
            self._mark(again=False)
        else:
            # A widget asks for the focus by a message to the application, which is before this.
            self.call_later(self._let_go)
