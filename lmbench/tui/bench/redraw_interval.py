"""How often curves that merely grow are drawn anew: so that a training does not feel it.

A training on all cores waits for each picture on every one of them, as its threads wait for each
other. So the workbench measures what its pictures take on this machine, at this size, and rests
in proportion.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LONGEST_S", "SHARE", "Rest"]

SHARE = 0.006
"""How much of one core the workbench takes for watching."""
LONGEST_S = 3.0


class Rest:
    """The time until the next picture is due."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        """`clock` gives seconds, `used` the processor's seconds that this process has taken."""
        self._clock, self._used = clock, used
        self._used_before = used()
        self._over_at = clock()

    @property
    def over(self) -> bool:
        return self._clock() >= self._over_at

    def begin(self) -> None:
        """A picture is about to be drawn: rest for what was used up to the last one and since."""
        used = self._used()
        self._over_at = self._clock() + min((used - self._used_before) / SHARE, LONGEST_S)
        self._used_before = used
