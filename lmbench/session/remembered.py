"""What was measured once on this machine, in the user's cache folder. No torch here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from lmbench.corpus.files import make_cache, user_cache
from lmbench.errors import LmbenchError
from lmbench.session.files import locked, read_json, write_json

__all__ = ["recall", "remember"]

_VERSION = 1


def recall(kind: str, key: str) -> Any:
    """What was found of this kind under `key`, which names all that it depends on; None where
    nothing was, or the file is damaged. Any JSON may stand there."""
    return _all(_path(kind)).get(key)


def remember(kind: str, key: str, found: Any) -> None:
    """Keep it for the processes to come; where it cannot be written, or another process keeps the
    lock, they measure again."""
    path = _path(kind)
    with suppress(OSError, LmbenchError):
        make_cache(path.parent)
        with locked(path.with_suffix(".lock")):
            write_json(path, {"version": _VERSION, "found": _all(path) | {key: found}})


def _path(kind: str) -> Path:
    return user_cache() / f"{kind}.json"


def _all(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, version=_VERSION).get("found")
    except LmbenchError:
        return {}
    return found if isinstance(found, dict) else {}
