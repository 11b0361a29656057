"""How often growing curves are drawn again, so that a training is not slowed by it.

The threads of a training on all cores wait for each other, so each drawing delays all of them. The
workbench measures the processor time of its drawings and waits in proportion.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LONGEST_S", "SHARE", "RedrawInterval"]

SHARE = 0.006
"""The share of one core that drawing may take."""
LONGEST_S = 3.0


class RedrawInterval:
    """The time until curves are drawn again."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        """`clock` gives seconds, `used` the processor's seconds that this process has taken."""
        self._clock, self._used = clock, used
        self._used_before = used()
        self._due_at = clock()

    @property
    def elapsed(self) -> bool:
        return self._clock() >= self._due_at

    def restart(self) -> None:
        """A drawing begins: wait in proportion to the processor time used since the last one."""
        used = self._used()
        self._due_at = self._clock() + min((used - self._used_before) / SHARE, LONGEST_S)
        self._used_before = used
