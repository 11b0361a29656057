"""What the workbench saves of the laboratory of a run: candidates, the draft, pruned levels.

Its figures hold for one model: by `stamp` (`laboratory_messages.stamp_of`) another one is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lmbench.report.numbers import as_float
from lmbench.tui.laboratory.candidates import Candidate, are_settings, from_json, to_json
from lmbench.tui.laboratory.quantization_settings import Settings

__all__ = ["PrunedScore", "SavedState"]


class PrunedScore(NamedTuple):
    """Of a model pruned at once: perplexity, weights that are left, bytes when packed."""

    ppl: float
    left: int
    bytes: int


@dataclass(frozen=True)
class SavedState:
    """`base` is what the draft was made from, by the name of `base_name` ("" for none yet);
    `pruned` has scores by target and level in [0, 1)."""

    candidates: tuple[Candidate, ...] = ()
    draft: Settings = field(default_factory=lambda: {"overrides": {}})
    base: Settings = field(default_factory=lambda: {"overrides": {}})
    base_name: str = ""
    everywhere: bool = False
    target: str = "model"
    level: float = 0.0
    pruned: Mapping[str, Mapping[float, PrunedScore]] = field(default_factory=dict)

    def to_json(self, stamp: int) -> dict[str, Any]:
        return {
            "stamp": stamp,
            "candidates": to_json(self.candidates),
            "draft": self.draft,
            "base": self.base,
            "base_name": self.base_name,
            "everywhere": self.everywhere,
            "target": self.target,
            "level": self.level,
            "pruned": {
                target: [[level, *score] for level, score in scores.items()]
                for target, scores in self.pruned.items()
            },
        }

    @classmethod
    def from_json(cls, document: Any, stamp: int) -> SavedState:
        """What was saved; what does not fit is left out. The figures of another model are left out
        as well: its candidates wait to be evaluated on this one."""
        saved: dict[str, Any] = document if isinstance(document, dict) else {}
        same = saved.get("stamp") == stamp
        # Under "tries" by versions before this one.
        candidates = from_json(saved.get("candidates", saved.get("tries")))
        found = cls(
            candidates=tuple(c if same else c.waiting() for c in candidates),
            everywhere=saved.get("everywhere") is True,
            target=str(saved.get("target", "model")),
            level=_level(saved.get("level")) or 0.0,
            pruned=_scores(saved.get("pruned")) if same else {},
        )
        draft, base = saved.get("draft"), saved.get("base")
        if not are_settings(draft) or not are_settings(base):
            return found
        name = str(saved.get("base_name", ""))
        return replace(found, draft=draft, base=base, base_name=name)


def _level(value: Any) -> float | None:
    good = isinstance(value, int | float) and 0 <= value < 1
    return float(value) if good else None


def _scores(document: Any) -> dict[str, dict[float, PrunedScore]]:
    found: dict[str, dict[float, PrunedScore]] = {}
    for target, rows in document.items() if isinstance(document, dict) else ():
        for row in rows if isinstance(rows, list) else ():
            figures = [as_float(number) for number in row] if isinstance(row, list) else []
            if len(figures) != 4 or None in figures or (level := _level(row[0])) is None:
                continue
            score = PrunedScore(float(row[1]), int(row[2]), int(row[3]))
            found.setdefault(target, {})[level] = score
    return found
