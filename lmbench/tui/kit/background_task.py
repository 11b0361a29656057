"""Work in a thread on behalf of a screen that may be left before it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lmbench.tui.bench.bench import Bench

__all__ = ["BackgroundTask", "TaskCancelledError"]


class TaskCancelledError(Exception):
    """Whoever asked for the work has left."""


class BackgroundTask:
    """One piece of work that can be called off until it has passed its last `check`.

    It belongs to the application: a worker of the screen's own would end with the screen, while
    its thread went on unannounced.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._off = threading.Event()

    def cancel(self) -> None:
        self._off.set()

    def check(self) -> None:
        """In the thread, before anything that others can see.

        Raises:
            TaskCancelledError: nobody waits for it any more.
        """
        if self._off.is_set():
            raise TaskCancelledError

    def progress(self, what: str, done: int, total: int | None) -> None:
        """In the thread: tell how far a fetch is; one that was called off ends here."""
        self.check()
        share = f" {100 * done / total:.0f}%" if total else ""
        self._bench.call_from_thread(self._bench.show_message, f"{what}{share}")

    async def run(self, function: Callable[..., Any], *arguments: Any, doing: str) -> Any:
        """What the function gives, or None where it failed or was called off."""

        def whole() -> Any:
            try:
                return function(*arguments)
            except Exception:
                # What goes wrong after the user has left is no news to them.
                if self._off.is_set():
                    return None
                raise

        return await self._bench.run_in_thread(whole, doing=doing)
