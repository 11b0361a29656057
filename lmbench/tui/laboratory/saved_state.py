"""What the laboratory remembers of a run: its tries, the draft, and what the slider has priced.

It holds for one model: `stamp` (`subject.stamp_of`) tells whether the model is still the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

from lmbench.tui.laboratory.candidates import Try, from_json, to_json
from lmbench.tui.laboratory.quantization_settings import Settings

__all__ = ["Kept", "Pruned"]


class Pruned(NamedTuple):
    """The price of pruning at once: perplexity, weights that are left, bytes when packed."""

    ppl: float
    left: int
    bytes: int


@dataclass(frozen=True)
class Kept:
    """`base` is what the draft was made from, by the name of `base_name` ("" for none yet);
    `pruned` has the prices by target and level in [0, 1)."""

    tries: tuple[Try, ...] = ()
    draft: Settings = field(default_factory=lambda: {"overrides": {}})
    base: Settings = field(default_factory=lambda: {"overrides": {}})
    base_name: str = ""
    everywhere: bool = False
    target: str = "model"
    level: float = 0.0
    pruned: Mapping[str, Mapping[float, Pruned]] = field(default_factory=dict)

    def to_json(self, stamp: int) -> dict[str, Any]:
        return {
            "stamp": stamp,
            "tries": to_json(self.tries),
            "draft": self.draft,
            "base": self.base,
            "base_name": self.base_name,
            "everywhere": self.everywhere,
            "target": self.target,
            "level": self.level,
            "pruned": {
                target: [[level, *price] for level, price in prices.items()]
                for target, prices in self.pruned.items()
            },
        }

    @classmethod
    def from_json(cls, document: Any, stamp: int) -> Kept:
        """What was remembered of this model; what does not fit is left out."""
        kept: dict[str, Any] = document if isinstance(document, dict) else {}
        if kept.get("stamp") != stamp:
            return cls()
        found = cls(
            tries=tuple(from_json(kept.get("tries"))),
            everywhere=kept.get("everywhere") is True,
            target=str(kept.get("target", "model")),
            level=_level(kept.get("level")) or 0.0,
            pruned=_prices(kept.get("pruned")),
        )
        draft, base = kept.get("draft"), kept.get("base")
        if not _are_settings(draft) or not _are_settings(base):
            return found
        return cls(
            found.tries, draft, base, str(kept.get("base_name", "")), found.everywhere,
            found.target, found.level, found.pruned,
        )  # fmt: skip


def _are_settings(value: Any) -> TypeGuard[Settings]:
    return isinstance(value, dict) and isinstance(value.get("overrides"), dict)


def _level(value: Any) -> float | None:
    good = isinstance(value, int | float) and 0 <= value < 1
    return float(value) if good else None


def _prices(document: Any) -> dict[str, dict[float, Pruned]]:
    found: dict[str, dict[float, Pruned]] = {}
    for target, rows in document.items() if isinstance(document, dict) else ():
        for row in rows if isinstance(rows, list) else ():
            numbers = isinstance(row, list) and all(isinstance(n, int | float) for n in row)
            if not numbers or len(row) != 4 or not math.isfinite(row[1]):
                continue
            if (level := _level(row[0])) is not None:
                price = Pruned(float(row[1]), int(row[2]), int(row[3]))
                found.setdefault(target, {})[level] = price
    return found
