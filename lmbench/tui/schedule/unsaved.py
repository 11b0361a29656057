"""Schedules that are written but not saved: kept in the session, each by what it began from."""

from __future__ import annotations

from typing import Any

from lmbench.tui.bench.bench import Bench

__all__ = ["LONGEST", "drafts", "drop_draft", "keep_draft"]

LONGEST = 64 * 1024
"""Characters of the longest draft that is kept: ``session.json`` is read at every look."""

_KEPT = 8
_KEY = "schedule_drafts"


def drafts(bench: Bench) -> dict[str, str]:
    """The texts by source (a preset, or a path as the form writes it), the newest last."""
    kept: Any = bench.recall(_KEY)
    if not isinstance(kept, list):
        return {}
    pairs = [pair for pair in kept if isinstance(pair, list) and len(pair) == 2]
    return {s: text for s, text in pairs if isinstance(s, str) and isinstance(text, str)}


def keep_draft(bench: Bench, source: str, text: str) -> None:
    """Keep a text that is not longer than `LONGEST` as the newest draft."""
    rest = {s: old for s, old in drafts(bench).items() if s != source}
    _keep(bench, {**rest, source: text})


def drop_draft(bench: Bench, source: str) -> None:
    """Forget the draft of a source, where there is one."""
    found = drafts(bench)
    if found.pop(source, None) is not None:
        _keep(bench, found)


def _keep(bench: Bench, found: dict[str, str]) -> None:
    # A list: JSON objects promise no order.
    bench.remember(_KEY, [list(pair) for pair in found.items()][-_KEPT:])
