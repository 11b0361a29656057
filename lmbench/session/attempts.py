"""Attempts at a run: a late worker is kept out by the file system alone.

Each time a run begins or resumes is an attempt, with a number. Its worker writes into the folder
``.attempt-N`` of the run's folder, and renames out of it what it replaces: ``run.json``,
checkpoints, tables. A new attempt renames the folders of older ones away before it does anything
else; from then on every rename of an older worker, be it on another machine or stopped for an hour,
fails with ENOENT. Nothing of this needs a lock: ``mkdir`` and ``rename`` are atomic on shared file
systems too. The latest attempt's folder stays, with its sign of life.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from pathlib import Path

from lmbench.errors import RESUME, LmbenchError
from lmbench.session.files import finish_swap, json_bytes
from lmbench.session.records import RunRecord

__all__ = [
    "BEAT_S",
    "LOST_AFTER_S",
    "FencedError",
    "attempt_folder",
    "begin_attempt",
    "begin_heartbeat",
    "check_attempt",
    "fence_attempts",
    "last_sign_of_life",
    "next_attempt",
    "remove_fenced",
    "show_life",
    "shows_life",
]

BEAT_S = 10.0
"""Seconds between two signs of life of a worker."""
LOST_AFTER_S = 60.0
"""A run of another machine without a sign of life for so many seconds is lost. The clocks of the
machines, and of the server of the folder that they share, must agree well within it."""

_HEARTBEAT = "heartbeat"
_PREFIX = ".attempt-"
_FENCED = ".fenced"
_FOLDER = re.compile(r"\.attempt-(\d{1,9})")


class FencedError(LmbenchError):
    """A newer attempt at the run has begun: this one may change nothing any more."""


def attempt_folder(run: Path, number: int) -> Path:
    return run / f"{_PREFIX}{number}"


def next_attempt(run: Path, latest: int) -> int:
    """The number of the attempt after `latest` (of ``run.json``) and all that have a folder."""
    found = (_FOLDER.match(path.name) for path in run.iterdir())
    return max([latest, *(int(match[1]) for match in found if match)]) + 1


def begin_attempt(run: Path, number: int) -> bool:
    """Make the folder of a new attempt and fence all older ones off; False where another worker
    has begun it at the same moment."""
    try:
        attempt_folder(run, number).mkdir()
    except FileExistsError:
        return False
    fence_attempts(run, before=number)
    return True


def fence_attempts(run: Path, before: int | None = None) -> None:
    """Have every write of older attempts fail from now on.

    Args:
        before: the attempt that is kept; None for none.
    """
    for folder in list(run.iterdir()):
        match = _FOLDER.fullmatch(folder.name)
        if match and (before is None or int(match[1]) < before):
            folder.rename(folder.with_name(folder.name + _FENCED))


def remove_fenced(run: Path) -> None:
    """End the swaps of checkpoints that fenced attempts were at, and remove what they left."""
    for which in ("last", "best"):
        finish_swap(run / which)
    for folder in run.glob(f"{_PREFIX}*{_FENCED}"):
        # What a process on NFS has mapped stays until it ends.
        shutil.rmtree(folder, ignore_errors=True)


def check_attempt(folder: Path | None) -> None:
    """Raises FencedError where this attempt's folder is gone: a newer one has fenced it, or
    somebody has moved or deleted the run."""
    if folder is not None and not folder.is_dir():
        if not folder.parent.is_dir():
            raise FencedError(
                f"{folder.parent}: the run's folder is there no more, so its process ends; where "
                f"it was moved, {RESUME} where it is now"
            )
        raise FencedError(
            "a newer attempt at this run has begun, so this one "
            f"({folder.name.removeprefix(_PREFIX)}) ends and changes nothing ({folder.parent})"
        )


def begin_heartbeat(folder: Path) -> None:
    """Make the heartbeat of this process; `show_life` touches it from then on."""
    beat = {"version": 1, "host": platform.node(), "pid": os.getpid(), "time": time.time()}
    number = int(folder.name.removeprefix(_PREFIX))
    (folder / _HEARTBEAT).write_bytes(json_bytes({**beat, "attempt": number}))


def show_life(folder: Path) -> None:
    """Touch the heartbeat; the file system's own clock says when.

    Raises:
        OSError: it cannot be touched; FileNotFoundError for a fenced attempt.
    """
    os.utime(folder / _HEARTBEAT)


def last_sign_of_life(run: Path, record: RunRecord) -> float:
    """When a live run's worker last touched its heartbeat, or began, in seconds since the epoch."""
    try:
        # Opened, since a network file system promises a file's times only to those who open it.
        with (attempt_folder(run, record.attempt) / _HEARTBEAT).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return record.started or record.created


def shows_life(run: Path, record: RunRecord) -> bool:
    """Has a live run's worker, on whichever machine, given a sign of life lately? One of a version
    that gave none is believed."""
    return not record.attempt or time.time() - last_sign_of_life(run, record) < LOST_AFTER_S
