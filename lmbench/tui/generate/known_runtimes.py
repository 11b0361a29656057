"""Which runtimes the runs of a session have, as far as the sampler has reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["KnownRuntimes"]

_NAME = re.compile(r"[a-z0-9-]{1,24}")


class KnownRuntimes:
    """By run the names that were offered for its model on this machine."""

    def __init__(self, kept: Any = None) -> None:
        """`kept` has a list of names for each run's key; what does not fit is passed over."""
        items = kept.items() if isinstance(kept, dict) else ()
        self._by_key = {
            key: tuple(name for name in names if isinstance(name, str) and _NAME.fullmatch(name))
            for key, names in items
            if isinstance(names, list)
        }

    def take(self, key: str, names: Sequence[str]) -> None:
        self._by_key[key] = tuple(names)

    @property
    def all(self) -> frozenset[str]:
        return frozenset(name for names in self._by_key.values() for name in names)

    def shared(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The runtimes that each of these runs is known to have."""
        known = [self._by_key.get(key, ()) for key in keys]
        first = known[0] if known else ()
        return tuple(name for name in first if all(name in other for other in known))
