"""A worker's signs of life, for those who cannot see its process. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmbench.session.attempts import BEAT_S, begin_heartbeat, show_life

__all__ = ["heartbeat"]


@contextmanager
def heartbeat(attempt: Path) -> Iterator[None]:
    """Touch the heartbeat of an attempt's folder every `BEAT_S` seconds, in a thread.

    Raises:
        OSError: its file cannot be made.
    """
    begin_heartbeat(attempt)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                show_life(attempt)
            except FileNotFoundError:
                # A newer attempt has begun; the work notices when it writes.
                return
            except OSError:
                # A file system that is away for a moment may be back at the next beat.
                continue

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        over.set()
