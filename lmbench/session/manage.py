"""Copying, renaming and deleting sessions and runs. What a process works on is refused."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.session.files import fsync_folder, locked, write_atomic, write_json
from lmbench.session.records import LIVE, RunRecord
from lmbench.session.store import Home, Run, Session, check_session_name

__all__ = [
    "at_rest",
    "copy_session",
    "delete_run",
    "delete_session",
    "refuse_busy",
    "rename_refs",
    "rename_session",
]


def at_rest(run: Run) -> RunRecord:
    """The run's record as it is where no process works on it: in a copy or an archive.

    A lost run says so by itself, since its process cannot be looked for elsewhere; a queued one
    is stopped, since nobody asked for it to be worked on there.
    """
    record = run.read()
    status = run.status(record)
    changes: dict[str, Any] = {"pid": None, "process_started": None}
    if status == "queued":
        changes |= {"status": "stopped", "reason": "was waiting for a device"}
    elif status == "lost":
        changes |= {"status": "lost"}
    return record.model_copy(update=changes)


def refuse_busy(session: Session, what: str, *, queued: bool = True) -> None:
    """Refuse to `what` a session while runs of it are worked on, or wait to be.

    Raises:
        LmbenchError: names the runs and what to do.
    """
    busy = []
    for run in session.runs():
        try:
            status = run.status()
        except LmbenchError:
            # A damaged record has no process that would read it.
            continue
        if status in LIVE or (queued and status == "queued"):
            busy.append(f"run {run.id} is {status}")
    if busy:
        raise LmbenchError(
            f"session '{session.name}' cannot be {what}: {', '.join(busy)}; stop it first "
            "(lmbench runs stop)"
        )


def copy_session(home: Home, name: str, new_name: str) -> Session:
    """A second session with all that the first holds.

    Raises:
        LmbenchError: there is no such session, the new name is taken or none, or a run is live.
    """
    source = home.session(name)
    target = _free(home, new_name)
    refuse_busy(source, "copied", queued=False)
    staged = staged_folder(home)
    try:
        shutil.copytree(source.path, staged, ignore=_of_the_moment, dirs_exist_ok=True)
        copied = Session(staged)
        for run in source.runs():
            write_json(
                staged / "runs" / run.path.name / "run.json", at_rest(run).model_dump(mode="json")
            )
        copied.write(copied.read().model_copy(update={"name": new_name}))
        rename_refs(staged, name, new_name)
        put_in_place(staged, target)
    except BaseException:
        shutil.rmtree(staged)
        raise
    return target


def _of_the_moment(_folder: str, names: list[str]) -> list[str]:
    """Locks, half-written files and wishes to a worker are no part of a record."""
    return [n for n in names if n.startswith(".") or n == "control"]


def staged_folder(home: Home) -> Path:
    """An empty folder in which a session can be made before it gets its name."""
    staged = home.sessions_path / f".new-{secrets.token_hex(4)}"
    staged.mkdir(parents=True)
    return staged


def put_in_place(staged: Path, target: Session) -> None:
    """Give a finished folder its session's name.

    Raises:
        LmbenchError: the name was taken meanwhile.
    """
    try:
        staged.rename(target.path)
    except OSError:
        if target.path.exists():
            raise LmbenchError(f"there is a session '{target.name}' already") from None
        raise
    fsync_folder(target.path.parent)


def _free(home: Home, name: str) -> Session:
    session = Session(home.sessions_path / check_session_name(name))
    if session.path.exists():
        raise LmbenchError(f"there is a session '{name}' already")
    return session


def rename_session(home: Home, name: str, new_name: str) -> Session:
    """Give a session another name; runs that refer to its runs follow.

    Raises:
        LmbenchError: there is no such session, the new name is taken or none, or a run of it is
            worked on or waits.
    """
    source = home.session(name)
    target = _free(home, new_name)
    refuse_busy(source, "renamed")
    put_in_place(source.path, target)
    target.update(name=new_name)
    for session in home.sessions():
        rename_refs(session.path, name, new_name)
    return target


def rename_refs(session: Path, name: str, new_name: str) -> None:
    """In a session's folder, make references to runs of session `name` name `new_name`.

    A reference is a whole string ``NAME/NNN-kind`` or ``NAME/N``, as parents of runs, teachers,
    samples and the workbench's selection have it. Damaged files are left as they are.
    """
    if name == new_name:
        return
    pattern = re.compile(re.escape(name) + r"(/(?:\d{3,}-[a-z]+|\d+|@))")

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            match = pattern.fullmatch(value)
            return new_name + match[1] if match else value
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    for path in [session / "session.json", *sorted(session.glob("runs/*/run.json"))]:
        with locked(path.parent / ".lock"):
            document = _json_or_none(path.read_bytes())
            changed = renamed(document)
            if changed != document:
                write_json(path, changed)
    samples = session / "samples.jsonl"
    if samples.is_file():
        lines = samples.read_bytes().split(b"\n")
        changed = [_renamed_line(line, renamed) for line in lines]
        if changed != lines:
            write_atomic(samples, b"\n".join(changed))


def _renamed_line(line: bytes, renamed: Any) -> bytes:
    document = _json_or_none(line)
    changed = renamed(document)
    return line if changed == document else json.dumps(changed, ensure_ascii=False).encode()


def _json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def delete_session(home: Home, name: str) -> None:
    """Remove a session for good; the caller has asked.

    Raises:
        LmbenchError: there is no such session, or a run of it is worked on or waits.
    """
    session = home.session(name)
    refuse_busy(session, "deleted")
    shutil.rmtree(_out_of_sight(session.path))


def delete_run(run: Run) -> None:
    """Remove a run's folder for good; the caller has asked.

    Raises:
        LmbenchError: a process works on it.
    """
    # A worker that claims the run waits at this lock, and then finds no run.
    with locked(run.path / ".lock"):
        try:
            status = run.status()
        except LmbenchError:
            # A damaged record, which no worker can claim.
            status = "lost"
        if status in LIVE:
            raise LmbenchError(f"run {run.ref} is {status}; stop it before you delete it")
        doomed = _out_of_sight(run.path)
    shutil.rmtree(doomed)


def _out_of_sight(folder: Path) -> Path:
    """Take a folder's name away, at once, however long removing it takes; its new path."""
    doomed = folder.with_name(f".deleted-{secrets.token_hex(4)}")
    folder.rename(doomed)
    return doomed
