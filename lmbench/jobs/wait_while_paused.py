"""What the user requests of a live worker, and where a paused one waits. No torch here.

Requests arrive in the file ``control`` of the run's folder, a word a line (`control_file`). Lines
are appended and never rewritten, so none is lost however fast they follow each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

from lmbench.session.store import Run

__all__ = ["Request", "Requests"]

Request = Literal["checkpoint", "stop"]

# How often a paused worker looks for the next request.
_PAUSE_POLL_S = 0.1


class Requests:
    """What was requested of one worker; `next` is cheap enough for every batch (one `stat`).

    Args:
        show_status: called when the run begins to wait, and when it goes on.

    Attributes:
        paused_s: seconds that were waited so far.
    """

    def __init__(
        self, run: Run, paused: bool, show_status: Callable[[Literal["paused", "running"]], None]
    ) -> None:
        self._control = str(run.control_path)
        self._show_status = show_status
        # Of the file of requests: when it was read last, and the whole lines that it had.
        self._seen: tuple[int, int] | None = None
        self._taken = b""
        self._shown_paused = paused
        self._stop = False
        self._pause = False
        self._checkpoint = False
        self.paused_s = 0.0

    def stop(self) -> None:
        """As if the user had requested it; safe in a signal handler."""
        self._stop = True

    @property
    def stop_requested(self) -> bool:
        return self._stop

    def next(self) -> Request | None:
        """``stop`` (from then on at each call), ``checkpoint`` (once a request), or None.

        While the run is paused this does not return, unless to hand out ``checkpoint`` or
        ``stop``; the next call goes on waiting.
        """
        self._read()
        if self._pause or self._shown_paused:
            self._wait()
        if self._stop:
            return "stop"
        if self._checkpoint:
            self._checkpoint = False
            return "checkpoint"
        return None

    @property
    def _paused(self) -> bool:
        return self._pause and not self._stop

    def _wait(self) -> None:
        began = time.monotonic()
        self._show(self._paused)
        while self._paused and not self._checkpoint:
            time.sleep(_PAUSE_POLL_S)
            self._read()
        if not self._paused:
            self._show(False)
        self.paused_s += time.monotonic() - began

    def _show(self, paused: bool) -> None:
        if paused != self._shown_paused:
            self._show_status("paused" if paused else "running")
            self._shown_paused = paused

    def _read(self) -> None:
        """Take in the lines that were added since the last look."""
        try:
            now = os.stat(self._control)  # noqa: PTH116 (a Path costs more than the call)
        except FileNotFoundError:
            return
        if (now.st_mtime_ns, now.st_size) == self._seen:
            return
        try:
            with open(self._control, "rb") as file:  # noqa: PTH123
                text = file.read()
                now = os.fstat(file.fileno())
        except OSError:
            # A folder of that name, say: nothing can be requested through it.
            return
        # What was added since the text was read is read at the next look.
        self._seen = (now.st_mtime_ns, now.st_size) if now.st_size == len(text) else None
        # Someone who writes it by hand (echo stop > control) starts the file over.
        added = text.startswith(self._taken) and text != self._taken
        fresh = text[len(self._taken) if added else 0 :]
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._taken = text[: len(text) - len(fresh) + len(whole)]
        for line in whole.decode("utf-8", "replace").split("\n"):
            self._take(line.strip())

    def _take(self, word: str) -> None:
        if word in ("stop", "end"):
            self._stop = True
        elif word == "checkpoint":
            self._checkpoint = True
        elif word in ("pause", "continue"):
            self._pause = word == "pause"
