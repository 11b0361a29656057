"""Copying, renaming and deleting sessions and runs. What a process works on is refused."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.session.files import fsync_folder, holding_folder, locked, write_json
from lmbench.session.leftovers import unnamed_folder, without_name
from lmbench.session.records import LIVE, RunRecord
from lmbench.session.rename import rename_folder, rename_refs
from lmbench.session.store import Home, Run, Session, check_session_name, is_path

__all__ = [
    "Deletion",
    "at_rest",
    "attempts_at_rest",
    "copy_session",
    "delete_run",
    "delete_session",
    "refuse_begun",
    "refuse_busy",
    "refuse_folder",
    "rename_run",
    "rename_session",
    "run_name_problem",
    "set_aside_run",
    "set_aside_session",
]

# What a run's folder is called.
_FOLDER_NAME = re.compile(r"\d{3,}-[a-z]+")
_LONGEST_RUN_NAME = 64


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
        status = run.status_if_readable()
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
    before, runs = attempts_at_rest(source, "copied"), source.runs()
    with unnamed_folder(home.sessions_path) as staged:
        try:
            shutil.copytree(
                source.path, staged, ignore=_of_the_moment, dirs_exist_ok=True,
                ignore_dangling_symlinks=True,
            )  # fmt: skip
        finally:
            _make_writable(staged)
        copied = Session(staged)
        for added in copied.runs():
            # Made meanwhile: it would stand in the queue a second time.
            if added.path.name not in {run.path.name for run in runs}:
                shutil.rmtree(added.path)
        for run in runs:
            folder = staged / "runs" / run.path.name
            write_json(folder / "run.json", at_rest(run).model_dump(mode="json"))
            for which in ("last", "best"):
                whole = run.checkpoint(which)
                if whole is not None and whole.name != which:
                    # A death left it in the folder of its attempt.
                    shutil.copytree(whole, folder / which)
        copied.write(copied.read().model_copy(update={"name": new_name}))
        rename_refs(staged, name, new_name)
        refuse_begun(source, before, "copied")
        put_in_place(staged, target)
    return target


def attempts_at_rest(session: Session, what: str) -> dict[str, int]:
    """Of each run how often it has begun; raises as `refuse_busy` where one is worked on."""
    refuse_busy(session, what, queued=False)
    return {run.path.name: record.attempt for run, record in session.records()}


def refuse_begun(session: Session, before: Mapping[str, int], what: str) -> None:
    """Raises LmbenchError where a run has been worked on since `before` was found: what was read
    of its checkpoints meanwhile may be of two of them."""
    now = attempts_at_rest(session, what)
    if any(now.get(run) != attempt for run, attempt in before.items()):
        raise LmbenchError(
            f"session '{session.name}' cannot be {what}: a run of it began or was deleted "
            "meanwhile; try again"
        )


def _make_writable(folder: Path) -> None:
    """For its owner, as a copy of what is read-only is not."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def _of_the_moment(_folder: str, names: list[str]) -> list[str]:
    """Locks, half-written files and requests to a worker are no part of a record."""
    return [n for n in names if n.startswith(".") or n == "control"]


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
    rename_folder(home.sessions_path, name, new_name, lambda: refuse_busy(source, "renamed"))
    return target


def run_name_problem(name: str) -> str:
    """Why a run cannot be called so; "" where it can."""
    if not 0 < len(name) <= _LONGEST_RUN_NAME:
        return f"A run's name has 1 to {_LONGEST_RUN_NAME} characters."
    if not name.isprintable():
        return "A run's name has no control characters."
    if not name.strip():
        return "A run's name is more than blanks."
    if name.isdecimal() or name == "@" or "/" in name or _FOLDER_NAME.fullmatch(name):
        return f"{name} would mean another run where runs are named by number, folder or @."
    if is_path(name):
        return f"{name} would mean a file or a folder where runs are named."
    return ""


def rename_run(run: Run, name: str) -> None:
    """Call a run otherwise, also while it is worked on; its number and folder stay.

    Raises:
        LmbenchError: it cannot be called so, or its record cannot be read.
    """
    if problem := run_name_problem(name):
        raise LmbenchError(problem)
    run.update(name=name)


class Deletion:
    """A folder that has lost its name, so that nothing finds it: to be removed, or put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = ExitStack()
        # Else another process would take it for a leftover.
        self._held.enter_context(holding_folder(folder))
        self._aside = folder.with_name(without_name("deleted", folder.name))
        try:
            folder.rename(self._aside)
        except OSError:
            self._held.close()
            raise

    def undo(self) -> None:
        """Give the folder its name back.

        Raises:
            LmbenchError: there is another one of its name, or its session was moved or deleted.
        """
        try:
            if self.folder.exists():
                raise LmbenchError(f"{self.folder.name} is there again: it cannot be put back")
            self._aside.rename(self.folder)
        except FileNotFoundError:
            raise LmbenchError(f"{self.folder.name} is gone: it cannot be put back") from None
        self._held.close()

    @property
    def is_open(self) -> bool:
        """Can it still be put back, or removed?"""
        return self._aside.exists()

    def moved(self, old: Path, new: Path) -> None:
        """Follow the folder that it is in, where that was renamed."""
        if old in self._aside.parents and (aside := new / self._aside.relative_to(old)).exists():
            self.folder, self._aside = new / self.folder.relative_to(old), aside

    def finish(self) -> None:
        """Remove it for good."""
        with self._held:
            if self._aside.is_symlink():
                # Of a folder elsewhere, which is the user's to remove.
                self._aside.unlink()
            elif self._aside.exists():
                shutil.rmtree(self._aside)


def delete_session(home: Home, name: str) -> None:
    """Remove a session for good; the caller has asked. Raises as `set_aside_session`."""
    set_aside_session(home, name).finish()


def set_aside_session(home: Home, name: str) -> Deletion:
    """Take a session away, so that it can still be put back.

    Raises:
        LmbenchError: there is no such session, or a run of it is worked on or waits.
    """
    session = home.session(name)
    # Who makes a run in it waits at this lock, and then finds no session.
    with locked(session.path / ".lock"):
        refuse_busy(session, "deleted")
        return Deletion(session.path)


def refuse_folder(run: Run) -> None:
    """Raises LmbenchError where a run to be deleted is some folder that has a ``run.json``."""
    if not run.in_session:
        raise LmbenchError(
            f"{run.path} is no run of a session (sessions/NAME/runs/NNN-kind), and nothing else is "
            "deleted: remove the folder by hand"
        )


def delete_run(run: Run) -> None:
    """Remove a run's folder for good; the caller has asked. Raises as `set_aside_run`."""
    set_aside_run(run).finish()


def set_aside_run(run: Run) -> Deletion:
    """Take a run's folder away, so that it can still be put back.

    Raises:
        LmbenchError: a process works on it, or it is no run of a session.
    """
    refuse_folder(run)
    # A worker that claims the run waits at this lock, and then finds no run.
    with run.locked():
        if (status := run.status_if_readable()) in LIVE:
            raise LmbenchError(f"run {run.ref} is {status}; stop it before you delete it")
        return Deletion(run.path)
