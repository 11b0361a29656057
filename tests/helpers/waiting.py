"""Waiting for what other processes and threads bring about."""

from __future__ import annotations

import time
from collections.abc import Callable

# Far longer than anything takes on a slow machine.
LIMIT_S = 120.0


def until(
    holds: Callable[[], object],
    what: object = "it never came about",
    *,
    limit_s: float = LIMIT_S,
    every_s: float = 0.01,
) -> None:
    """Return once the condition holds; fail, with `what`, if it never does."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(every_s)
