"""The terminal as Textual drives it, made to outlive what may happen to a terminal.

Textual writes from a thread that ends at the first write that fails; thirty writes later the
application waits for ever for room in its queue. And at each SIGCONT it starts anew, with one more
reader and one more writer, also where nothing had put it to sleep; the kernel sends one along with
the SIGHUP that tells of a terminal's end. It reads keys as fast as they come, however many wait.

And an Escape that the next key follows within a tenth of a second, as over a slow line or beside a
busy core, it takes for the beginning of a sequence: with a digit after it for a sign (``™``), with
any other sign for that sign alone, with a Ctrl key for more to come, at last written as ``^``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.driver import Driver
from textual.drivers import linux_driver
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Key
from textual.message import Message

from lmbench.tui.bench.key_order import MOST_WAITING, KeysInOrder

__all__ = ["KeyParser", "ResilientDriver", "resilient_driver"]

# How often it is looked whether there is room for a key again.
_ROOM_S = 0.01

_ESCAPE = "\x1b"
# After an Escape these begin what terminals send: CSI, OSC, SS3, DCS, APC.
_INTRODUCERS = "[]OP_"


def resilient_driver(driver: type[Driver]) -> type[Driver]:
    """The driver to take in its place; those of other systems and of a browser stay."""
    if driver is not LinuxDriver:
        return driver
    # It makes its parser by this name.
    linux_driver.XTermParser = KeyParser  # pyright: ignore[reportPrivateImportUsage]
    return ResilientDriver


class KeyParser(XTermParser):
    """Escape and the key behind it are two keys; with a letter one, with Alt: `key_order` takes
    that apart where nothing is bound to it."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[Key]:
        known = super()._sequence_to_key_events
        if len(sequence) == 2 and sequence[0] == _ESCAPE and sequence[1] not in _INTRODUCERS:
            if isinstance(ANSI_SEQUENCES_KEYS.get(sequence), tuple):
                return known(sequence)
            sequence, alt = sequence[1], True
        if alt and not sequence.isalpha():
            return [Key("escape", _ESCAPE), *known(sequence)]
        return known(sequence, alt)


class ResilientDriver(LinuxDriver):
    """See the module."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._file = cast(TextIO, _SilentFile(self._file))
        self._asleep = False
        self._loop = asyncio.get_running_loop()
        self._keys_sent = 0

    def process_message(self, message: Message) -> None:
        """In the thread that reads, which waits here where keys come faster than they are done."""
        super().process_message(message)
        app = self._app
        if isinstance(message, Key) and isinstance(app, KeysInOrder):
            self._keys_sent += 1
            while app.waiting_keys(self._keys_sent) >= MOST_WAITING:
                if self.exit_event.wait(_ROOM_S):
                    return

    def _sigtstp_application(self, *signal: Any) -> None:
        self._asleep = True
        super()._sigtstp_application(*signal)

    def _sigcont_application(self, *signal: Any) -> None:
        if self._asleep:
            self._asleep = False
            super()._sigcont_application(*signal)
        else:
            # Whoever stopped us from outside may have written over the picture.
            self._loop.call_soon_threadsafe(self._app.refresh)


class _SilentFile:
    """A file that takes what nobody can read any more."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()
