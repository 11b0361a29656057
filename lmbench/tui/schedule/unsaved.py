"""Schedules that are written but not saved: kept in the session, each by what it began from."""

from __future__ import annotations

import time
import zlib

from lmbench.tui.bench.bench import Bench

__all__ = ["LONGEST", "drafts", "drop_draft", "keep_draft", "mark_of", "origin_of"]

LONGEST = 64 * 1024
"""Characters of the longest draft that is kept: ``session.json`` is read at every look."""

_KEPT = 8
# A key for each, so that two workbenches on one session keep each other's.
_KEY = "schedule_drafts"


def drafts(bench: Bench) -> dict[str, str]:
    """The texts by source (a preset, or a path as the form writes it), the newest last."""
    found: list[tuple[float, str, str]] = []
    for key, kept in bench.recall_each(_KEY).items():
        match kept:
            case {"t": int() | float() as t, "text": str() as text}:
                found.append((t, _source(bench, key), text))
    return {source: text for _, source, text in sorted(found)}


def origin_of(bench: Bench, source: str) -> int | None:
    """The `mark_of` the text that a draft began from, where that is known."""
    kept = bench.recall_each(_KEY).get(_name(bench, source))
    return kept.get("of") if isinstance(kept, dict) else None


def mark_of(text: str) -> int:
    """What tells a text from another one."""
    return zlib.crc32(text.encode())


def keep_draft(bench: Bench, source: str, text: str, of: int | None = None) -> None:
    """Keep a text that is not longer than `LONGEST` as the newest draft; `of` marks what it began
    from."""
    drop_draft(bench, source)
    bench.remember(f"{_KEY}/{_name(bench, source)}", {"t": time.time(), "text": text, "of": of})
    for old in list(drafts(bench))[:-_KEPT]:
        drop_draft(bench, old)


def drop_draft(bench: Bench, source: str) -> None:
    """Forget the draft of a source, where there is one."""
    if source in drafts(bench):
        # Those of earlier versions lie under the whole path.
        for name in (_name(bench, source), source):
            if name in bench.recall_each(_KEY):
                bench.remember(f"{_KEY}/{name}", None)


_OWN = "session:"


def _folder(bench: Bench) -> str:
    return f"sessions/{bench.session.name}/" if bench.session else _OWN


def _name(bench: Bench, source: str) -> str:
    """What a draft is kept under: of the session's own files without its name, which may change."""
    folder = _folder(bench)
    return _OWN + source.removeprefix(folder) if source.startswith(folder) else source


def _source(bench: Bench, name: str) -> str:
    """What the draft of that name began from."""
    return _folder(bench) + name.removeprefix(_OWN) if name.startswith(_OWN) else name
