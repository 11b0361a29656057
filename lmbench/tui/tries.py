"""What was tried in the laboratory: settings, and the price each turned out to have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from lmbench.tui.draft import Settings

__all__ = ["State", "Try", "best_first", "from_json", "to_json"]

State = Literal["waiting", "working", "priced", "failed"]


@dataclass(frozen=True)
class Try:
    """`settings` are the engine's ({} for the model as it is); `preset` names them where they are
    a preset's unchanged; `words` say how they differ from what they were made from."""

    number: int
    name: str
    settings: Settings
    preset: str = ""
    words: str = ""
    state: State = "waiting"
    loss: float = math.inf
    ppl: float = math.inf
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""

    def with_price(self, loss: float, ppl: float, size: int, seconds: float) -> Try:
        return replace(self, state="priced", loss=loss, ppl=ppl, bytes=size, seconds=seconds)


def best_first(tries: Iterable[Try]) -> list[Try]:
    """Those with a price, the least loss first (of equals the smaller); then those that wait, in
    their order; then those that failed."""
    order = {"priced": 0, "working": 1, "waiting": 2, "failed": 3}
    return sorted(tries, key=lambda t: (order[t.state], t.loss, t.bytes, t.number))


_KEPT = ("number", "name", "settings", "preset", "words", "loss", "ppl", "bytes", "seconds")


def to_json(tries: Iterable[Try]) -> list[dict[str, Any]]:
    """The tries that have a price, to be remembered."""
    return [{key: getattr(t, key) for key in _KEPT} for t in tries if t.state == "priced"]


def from_json(document: Any) -> list[Try]:
    """What was remembered; entries that do not fit are left out."""
    found = []
    for entry in document if isinstance(document, list) else []:
        if not isinstance(entry, dict) or set(entry) != set(_KEPT):
            continue
        numbers = (entry["number"], entry["loss"], entry["ppl"], entry["bytes"], entry["seconds"])
        if all(isinstance(n, int | float) for n in numbers) and isinstance(entry["settings"], dict):
            found.append(Try(**entry, state="priced"))
    return found
