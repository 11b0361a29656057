"""A process that ends when the one that started it is gone, however that died. No torch here."""

from __future__ import annotations

import os
import time
from threading import Thread

__all__ = ["end_with_parent"]

_WATCH_S = 0.1


def end_with_parent(parent: int) -> None:
    """End this process, whatever it waits for, once its parent is no longer the process `parent`;
    a thread watches. Linux's own signal for it would come at the end of the parent's *thread*."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    Thread(target=watch, name="end with parent", daemon=True).start()
