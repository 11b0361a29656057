"""Which document goes to which split. No torch here."""

from __future__ import annotations

import math
import random

from lmbench.config.corpus_making import DataMakeConfig

__all__ = ["SplitChoice"]


class SplitChoice:
    """Gives a split to each document in turn, the same ones for the same seed.

    Among each twenty documents (at shares of 0.05) one is drawn for valid and one for test, so that
    even a short text has both: sampling by strata.
    """

    def __init__(self, config: DataMakeConfig) -> None:
        self._random = random.Random(config.seed)
        self._shares = {"valid": config.valid, "test": config.test}
        self._owed = {"valid": 0.0, "test": 0.0}
        self._stratum = math.ceil(1 / min(config.valid, config.test) - 1e-9)
        self._next: list[str] = []

    def next(self) -> str:
        """The split of the next document."""
        if not self._next:
            drawn: list[str] = []
            for split, share in self._shares.items():
                self._owed[split] += share * self._stratum
                # Shares such as 0.05 have no exact binary form; what does not fit is owed on.
                count = min(int(self._owed[split] + 1e-9), self._stratum - len(drawn))
                self._owed[split] -= count
                drawn += [split] * count
            self._next = drawn + ["train"] * (self._stratum - len(drawn))
            self._random.shuffle(self._next)
        return self._next.pop()
