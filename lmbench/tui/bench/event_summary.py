"""What the workbench shows of a finished run's events, kept beside its log.

A log of a million events takes half a minute to read. Its summary (``.events-summary.npz``: curves
as arrays, the newest events, and lines of text) takes a fraction of a second. It names the size and
the time of the log that it was made from; where these differ, or where anything in it is damaged,
it is ignored and written again. Hidden files stay out of packed sessions.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lmbench.report.plots.curve_data import Columns, Curves
from lmbench.session import events as ev
from lmbench.session.files import file_stamp, write_atomic
from lmbench.tui.bench.run_history import EVENT_LISTS, NEWEST_EVENTS, Note, RunProgress

__all__ = ["RunSummary", "load_summary", "save_summary"]

_VERSION = 3
_NAME = ".events-summary.npz"
_WORTH_BYTES = 64 * 1024
"""Logs smaller than this are read as fast as a summary would be."""
_GROUPS = ("steps", "valid", "prunes", "lr_drops")
_BY_TENSOR = ("sparsity", "targets")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """`facts` are the fields of a `RunView` that come from events; `unread` counts lines of the log
    that could not be read."""

    curves: Curves
    facts: dict[str, Any]
    progress: RunProgress | None
    unread: int = 0


def load_summary(events_path: Path) -> RunSummary | None:
    """The summary of a log as it is now; None where there is none that fits."""
    path = events_path.with_name(_NAME)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays.zip.testzip() is not None:
                return None
            head = json.loads(bytes(arrays["head"]))
            if head["version"] != _VERSION or head["log"] != _stamp(events_path):
                return None
            return _summary(head, arrays)
    except Exception:  # numpy's and zip's readers have some ten for what is damaged
        return None


def save_summary(events_path: Path, summary: RunSummary, size: int) -> None:
    """Keep a summary of a log of which `size` bytes were read; nothing where the log has grown
    since, is small, or the folder cannot be written.
    """
    stamp = _stamp(events_path)
    if stamp is None or stamp[0] != size or size < _WORTH_BYTES:
        return
    arrays, names = _arrays(summary.curves)
    facts = {name: _lines(value) for name, value in summary.facts.items() if name != "notes"}
    head = {
        "version": _VERSION,
        "log": stamp,
        "columns": names,
        "test_loss": summary.curves.test_loss,
        "facts": facts,
        "notes": [dataclasses.astuple(note) for note in summary.facts["notes"]],
        "progress": dataclasses.astuple(summary.progress) if summary.progress else None,
        "unread": summary.unread,
    }
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    try:
        write_atomic(events_path.with_name(_NAME), file.getvalue())
    except OSError:
        return


def _stamp(path: Path) -> list[int] | None:
    stamp = file_stamp(path)
    return list(stamp[1:]) if stamp else None


def _arrays(curves: Curves) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The data of all columns, and the names of the columns; tensors by their place, since their
    names can be anything."""
    groups = {name: getattr(curves, name) for name in _GROUPS}
    for group in _BY_TENSOR:
        tensors: dict[str, Columns] = dict(getattr(curves, group))
        groups |= {f"{group}/{place}": columns for place, columns in enumerate(tensors.values())}
    names = {group: list(columns.names) for group, columns in groups.items()}
    names |= {group: list(getattr(curves, group)) for group in _BY_TENSOR}
    return {group: columns.data for group, columns in groups.items()}, names


def _summary(head: dict[str, Any], arrays: Any) -> RunSummary:
    names = head["columns"]

    def columns(group: str) -> Columns:
        data = arrays[group]
        if data.ndim != 2 or len(data) != len(names[group]) or data.dtype.kind != "f":
            raise ValueError(group)
        data.flags.writeable = False
        return Columns(tuple(names[group]), data)

    def by_tensor(group: str) -> Mapping[str, Columns]:
        found = {name: columns(f"{group}/{place}") for place, name in enumerate(names[group])}
        return MappingProxyType(found)

    curves = Curves(
        steps=columns("steps"),
        valid=columns("valid"),
        test_loss=head["test_loss"],
        sparsity=by_tensor("sparsity"),
        targets=by_tensor("targets"),
        prunes=columns("prunes"),
        lr_drops=columns("lr_drops"),
    )
    facts: dict[str, Any] = {}
    for name in NEWEST_EVENTS:
        lines = head["facts"][name]
        facts[name] = _event(lines[0]) if lines else None
    for name in EVENT_LISTS:
        facts[name] = tuple(map(_event, head["facts"][name]))
    facts["notes"] = tuple(Note(float(t), str(kind), str(text)) for t, kind, text in head["notes"])
    progress = RunProgress(*head["progress"]) if head["progress"] else None
    return RunSummary(curves, facts, progress, int(head["unread"]))


def _lines(value: Any) -> list[str]:
    events = value if isinstance(value, tuple) else (value,)
    return [ev.event_line(event).decode() for event in events if event is not None]


def _event(line: str) -> ev.Event:
    event = ev.parse_event(line)
    if event is None:
        raise ValueError(line)
    return event
