"""The workbench's own state, kept in ``session.json`` and restored at the start.

Each thing is a key with a JSON value (``theme``, ``selected``, ``plot``, …); what is kept of each
run has a key for each, such as ``lab/001-train``. Only keys that changed are written, under the
session's lock, so two workbenches on one session keep out of each other's way: for each key the
last one wins.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from lmbench.errors import LmbenchError
from lmbench.session.files import locked, write_json
from lmbench.session.records import checked_workbench
from lmbench.session.store import Home, Session

__all__ = ["SavedState", "last_session", "remember_session", "restored"]

T = TypeVar("T")

_LAST = ".workbench.json"


class SavedState:
    """The workbench's state in a session. Reading is instant; `flush` does the writing."""

    def __init__(self, session: Session | None) -> None:
        self._session = session
        self.problems: list[str] = []
        """What was of a wrong type and is not restored."""
        self._values: dict[str, Any] = {}
        self._changed: dict[str, Any] = {}
        self._own: set[str] = set()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        if session is not None:
            try:
                self._values, self.problems = checked_workbench(session.read().workbench)
            except LmbenchError:
                # The screen shows what is wrong with the session; there is nothing to restore.
                self._session = None

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def each(self, name: str) -> dict[str, Any]:
        """What is kept under ``name/…``, by what follows the slash; of a session of an earlier
        lmbench also what it kept as one value under `name`."""
        whole, start = self._values.get(name), f"{name}/"
        found = dict(whole) if isinstance(whole, dict) else {}
        kept = {k.removeprefix(start): v for k, v in self._values.items() if k.startswith(start)}
        return found | kept

    def renew(self, values: Mapping[str, Any]) -> None:
        """Take over what other workbenches have written since, except for keys set here."""
        with self._lock:
            sound, _ = checked_workbench(dict(values))
            self._values |= {k: v for k, v in sound.items() if k not in self._own}

    def put(self, key: str, value: Any) -> bool:
        """Keep a value; is it new, so that a `flush` is due?"""
        if key in self._values and self._values[key] == value:
            return False
        json.dumps(value, allow_nan=False)
        with self._lock:
            self._values[key] = value
            self._changed[key] = value
            self._own.add(key)
        return True

    def flush(self) -> None:
        """Write what changed; waits for the session's lock, and for a write that is under way in
        another thread, so that all is on the disk when this returns.

        Raises:
            OSError, LmbenchError: it could not be written; the change is kept for the next time.
        """
        with self._writing:
            self._write()

    def _write(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
        if not changed or self._session is None:
            return
        try:
            with locked(self._session.path / ".lock"):
                record = self._session.read()
                workbench = {**record.workbench, **changed}
                self._session.write(record.model_copy(update={"workbench": workbench}))
        except (OSError, LmbenchError):
            with self._lock:
                self._changed = {**changed, **self._changed}
            raise


def restored(cls: type[T], document: Any) -> T:
    """A dataclass as it was remembered; what of it does not fit has its default."""
    kept = document if isinstance(document, dict) else {}
    found = {}
    for name, kind in get_type_hints(cls, include_extras=True).items():
        adapter = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
        # pydantic's own error is a ValueError, too.
        with suppress(KeyError, ValueError):
            found[name] = adapter.validate_json(json.dumps(kept[name]))
    return cls(**found)


def last_session(home: Home) -> str | None:
    """The session that was open last, where it is still there."""
    try:
        name = json.loads((home.sessions_path / _LAST).read_bytes()).get("session")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    known = isinstance(name, str) and any(s.name == name for s in home.sessions())
    return name if known else None


def remember_session(home: Home, name: str) -> None:
    write_json(home.sessions_path / _LAST, {"version": 1, "session": name})
