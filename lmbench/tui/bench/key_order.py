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
from textual.dom import DOMNode
from textual.events import Event, Key

__all__ = ["MOST_WAITING", "KeysInOrder"]

# More than anyone has typed ahead; some 400 bytes each.
MOST_WAITING = 500

# After so long a key that has not come up to the application is looked for.
_CHECK_S = 0.03


class KeysInOrder(App[None]):
    """An application that lets one key go at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting_keys: deque[Key] = deque()
        self._keys_taken = 0
        # Until it is through, with all that it has posted.
        self._key_on_its_way: Key | None = None
        # Has what it is bound to been done, or has something taken it for itself?
        self._key_is_done = False
        # Where a callback waits that follows the key, or what it has posted.
        self._followed_in: DOMNode | None = None
        # One of Textual's timers would be a task for each key.
        self._key_timer: asyncio.TimerHandle | None = None

    async def on_event(self, event: Event) -> None:
        if not isinstance(event, Key):
            await super().on_event(event)
        elif event.is_forwarded:
            # It has come up from where the focus is: here its binding runs.
            await super().on_event(event)
            self._key_has_done(event)
        else:
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

    async def _let_go(self, after: Key | None = None) -> None:
        """Send the next key, if `after` is the one that is on its way."""
        if after is not self._key_on_its_way:
            return
        if after is not None:
            self.key_is_through(after)
        self._key_on_its_way = None
        if self._key_timer is not None:
            self._key_timer.cancel()
            self._key_timer = None
        if not self._waiting_keys or not self.screen_stack:
            return
        key = self._key_on_its_way = self._waiting_keys.popleft()
        self._key_is_done = False
        self._followed_in = None
        target = self.focused or self.screen
        self._check_soon(key, target)
        await super().on_event(key)
        if not key.is_forwarded:
            self._key_has_done(key)
        elif target.check_consume_key(key.key, key.character):
            self._follow_key(key, target, done=False)

    def key_is_through(self, key: Key) -> None:
        """All that a key does has been done."""

    def _check_soon(self, key: Key, target: DOMNode) -> None:
        loop = asyncio.get_running_loop()
        self._key_timer = loop.call_later(_CHECK_S, self._look_for_key, key, target)

    def _look_for_key(self, key: Key, target: DOMNode) -> None:
        """Follow a key that something may have taken; wait no longer for what was lost with the
        widget that had it."""
        node = self._followed_in or target
        if node.is_attached and node.is_running:
            if self._followed_in is None:
                self._follow_key(key, target, done=False)
        elif self._key_is_done:
            self.call_later(self._let_go, key)
        else:
            self.call_later(self._key_has_done, key)
        if self.is_running:
            self._check_soon(key, target)

    def _key_has_done(self, key: Key) -> None:
        """Wait for what the key has posted, as to leave for the next widget: that starts where the
        focus is."""
        if key is self._key_on_its_way and not self._key_is_done and self.screen_stack:
            self._key_is_done = True
            self._follow_key(key, self.focused or self.screen, done=True)

    def _follow_key(self, key: Key, node: DOMNode | None, *, done: bool) -> None:
        """Come behind what `node` has to do, and then behind what each does that holds it, up to
        here: first a key that something may have taken, then what it has posted."""
        if key is not self._key_on_its_way or done != self._key_is_done:
            return
        if isinstance(node, DOMNode) and node is not self:
            self._followed_in = node
            node.call_later(self._follow_key, key, node.parent, done=done)
        elif done:
            # A widget asks for the focus by a message to the application, which is before this.
            self.call_later(self._let_go, key)
        else:
            # It may have come up to here, and wait.
            self.call_later(self._key_has_done, key)
