"""Renaming a session so that no death on the way leaves it half renamed.

What is to be done is written down first (``sessions/.rename.json``), then the folder is renamed,
then its record and the references to its runs, and the note is removed. Whoever opens a session
of the working folder and finds the note finishes what it says. Every step can be taken again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.session.files import (
    fsync_folder,
    holding_folder,
    json_bytes,
    locked,
    read_json,
    write_atomic,
    write_json,
)

__all__ = ["finish_rename", "rename_folder", "rename_refs"]

_NOTE = ".rename.json"


def rename_folder(sessions: Path, name: str, new_name: str, check: Callable[[], None]) -> None:
    """Rename session `name`, which exists, in the folder `sessions`; references follow.

    Args:
        check: refuses it where a run is at work; while it looks no run can be made.

    Raises:
        LmbenchError: the new name is taken, or a file that refers to the session cannot be
            written, or what `check` raises. Nothing is changed then.
    """
    with holding_folder(sessions):
        _check_writable(sessions, name)
        with locked(sessions / name / ".lock"):
            check()
            write_json(sessions / _NOTE, {"version": 1, "from": name, "to": new_name})
            try:
                (sessions / name).rename(sessions / new_name)
            except OSError:
                (sessions / _NOTE).unlink()
                if (sessions / new_name).exists():
                    raise LmbenchError(f"there is a session '{new_name}' already") from None
                raise
        fsync_folder(sessions)
        _finish(sessions, name, new_name)


def finish_rename(sessions: Path) -> None:
    """Finish a rename that a death interrupted; does nothing while another process is at it."""
    if not (sessions / _NOTE).exists():
        return
    # A full or read-only disk: the next opening tries again.
    with holding_folder(sessions, wait=False) as ours, suppress(OSError, LmbenchError):
        if not ours:
            return
        note = read_json(sessions / _NOTE, version=1)
        name, new_name = str(note.get("from")), str(note.get("to"))
        if (sessions / new_name).is_dir():
            _finish(sessions, name, new_name)
        else:
            # It died before the folder had its new name: nothing was changed.
            (sessions / _NOTE).unlink()


def _finish(sessions: Path, name: str, new_name: str) -> None:
    record = sessions / new_name / "session.json"
    with locked(record.parent / ".lock"):
        data = record.read_bytes()
        changed = _changed(data, lambda d: {**d, "name": new_name} if isinstance(d, dict) else d)
        if changed != data:
            write_atomic(record, changed)
    for folder in _session_folders(sessions):
        rename_refs(folder, name, new_name)
    (sessions / _NOTE).unlink()
    fsync_folder(sessions)


def _session_folders(sessions: Path) -> list[Path]:
    return sorted(p.parent for p in sessions.glob("[!.]*/session.json"))


def _check_writable(sessions: Path, name: str) -> None:
    """See that every file that has to be written can be."""
    files = [sessions / name / "session.json"]
    files += [p for s in _session_folders(sessions) for p in _referring_files(s, name)]
    for path in files:
        if not os.access(path.parent, os.W_OK):
            raise LmbenchError(
                f"session '{name}' cannot be renamed: {path} has to be written and {path.parent} "
                "is read-only"
            )


def _referring_files(session: Path, name: str) -> list[Path]:
    """The files of a session that may refer to runs or files of session `name`."""
    records = [*sorted(session.glob("runs/*/run.json")), *session.glob("session.json")]
    json, yaml = (f'"{name}/', f"sessions/{name}/"), (f"{name}/",)
    files = {
        **dict.fromkeys([*records, session / "samples.jsonl"], json),
        session / "sweep.yaml": yaml,
    }
    found = ((path, marks, _bytes_or_none(path) or b"") for path, marks in files.items())
    return [path for path, marks, data in found if any(mark.encode() in data for mark in marks)]


def rename_refs(session: Path, name: str, new_name: str) -> None:
    """In a session's folder, make references to runs of session `name` name `new_name`.

    A reference is a whole string ``NAME/NNN-kind`` or ``NAME/N``, as parents of runs, teachers,
    samples, sweeps and the workbench's selection have it, or the path of one of its files, from the
    working folder, as a sweep's runs have it, or the whole path, as the evaluation of a packed file
    has it. Damaged files, and files without a reference, are left as they are.
    """
    if name == new_name:
        return
    named = re.escape(name)
    home = re.escape(f"{session.parent.parent}/")
    pattern = re.compile(
        rf"{named}(/(?:\d{{3,}}-[a-z]+|\d+|@))|((?:{home})?sessions/){named}(/.+)", re.DOTALL
    )

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            match = pattern.fullmatch(value)
            return f"{match[2] or ''}{new_name}{match[1] or match[3]}" if match else value
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    for path in _referring_files(session, name):
        with locked(path.parent / ".lock"):
            data = path.read_bytes()
            if path.suffix == ".jsonl":
                lines = [_changed(line, renamed, indent=None) for line in data.split(b"\n")]
                changed = b"\n".join(line.rstrip(b"\n") for line in lines)
            elif path.suffix == ".yaml":
                changed = _changed_words(data, renamed)
            else:
                changed = _changed(data, renamed)
            if changed != data:
                write_atomic(path, changed)


def _changed(data: bytes, change: Callable[[Any], Any], *, indent: int | None = 2) -> bytes:
    """A JSON document after `change`; `data` itself where it is damaged or stays what it was."""
    try:
        document = json.loads(data)
        changed = change(document)
        return data if changed == document else json_bytes(changed, indent)
    except (ValueError, RecursionError):
        return data


def _changed_words(data: bytes, change: Callable[[str], str]) -> bytes:
    """A YAML text with each of its words after `change`; `data` itself where it is damaged."""
    import yaml  # Few sessions hold any.

    try:
        text = data.decode()
        tokens = list(yaml.scan(text, Loader=yaml.SafeLoader))
    except (ValueError, yaml.YAMLError):
        return data
    for token in reversed(tokens):
        if isinstance(token, yaml.ScalarToken) and (new := change(token.value)) != token.value:
            start, end = token.start_mark.index, token.end_mark.index
            text = text[:start] + json.dumps(new) + text[end:]
    return text.encode()


def _bytes_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
