"""Files that are written whole or not at all, and read with a clear complaint."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lmbench.errors import LmbenchError

__all__ = [
    "drop_fresh",
    "file_stamp",
    "files_in",
    "finish_swap",
    "fresh_folder",
    "fsync_folder",
    "holding_folder",
    "in_use",
    "json_bytes",
    "locked",
    "new_folder",
    "parse_json",
    "read_json",
    "refuse_constant",
    "reserve_space",
    "settled",
    "swap_in",
    "temporary_file",
    "try_lock",
    "write_atomic",
    "write_json",
]


LOCK_PATIENCE_S = 30.0
_LOCK_POLL_S = 0.01


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, staging: Path | None = None) -> None:
    """Replace `path` by `data`: a reader sees the old file or the new one, never a part.

    Args:
        staging: a folder on the same disk to write in first; None for that of `path`.
    """
    _write(path, data, Path.replace, staging)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        FileExistsError: it is there; it is left alone.
    """
    _write(path, data, take_name)


def _write(
    path: Path, data: bytes, name: Callable[[Path, Path], object], staging: Path | None = None
) -> None:
    try:
        with temporary_file(path, staging) as (temporary, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            name(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        # The system names the temporary file, or none.
        raise OSError(error.errno, error.strerror, str(path)) from error


def take_name(temporary: Path, path: Path) -> None:
    """Give a `temporary_file` its name. Raises FileExistsError where something has it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has hard links.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        temporary.replace(path)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below a folder. Folders that vanish meanwhile are passed over, and `Path.rglob`
    would fail at them."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def file_stamp(path: Path | str) -> tuple[int, int, int] | None:
    """What tells whether a file was replaced or written to (number, size, time); None where there
    is no file."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextmanager
def temporary_file(path: Path, staging: Path | None = None) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, or in `staging`, to write its successor in; removed if it was not
    renamed.

    Its name cannot be foreseen and follows no link, its mode is that of any new file, and it is
    locked while it is written, so that `remove_leftovers` can tell it from one that was left.
    """
    temporary = (staging or path.parent) / f".{path.name}.{secrets.token_hex(4)}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def json_bytes(document: Any, indent: int | None = 2) -> bytes:
    """Strict, human-readable JSON; with an `indent` of None one line.

    Raises:
        ValueError: for a number that JSON has no word for (NaN, infinity).
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair (a file name that is no UTF-8) can stand only as an escape.
        return json.dumps(document, indent=indent, allow_nan=False).encode() + b"\n"


def write_json(path: Path, document: Any, staging: Path | None = None) -> None:
    """Write `json_bytes` by `write_atomic`."""
    write_atomic(path, json_bytes(document), staging)


def read_json(path: Path, *, version: int) -> dict[str, Any]:
    """One JSON object, of this major version or an older one.

    Raises:
        LmbenchError: the file is missing, damaged, or of a newer version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LmbenchError(f"no such file ({path})") from None
    except OSError as error:
        raise LmbenchError(f"cannot be read: {error.strerror} ({path})") from None
    return parse_json(data, path, version=version)


def parse_json(data: bytes, path: Path | str, *, version: int) -> dict[str, Any]:
    """What `read_json` gives for a file `path` that holds `data`."""
    try:
        document = json.loads(data, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LmbenchError(f"cannot be read as JSON: {error} ({path})") from None
    if not isinstance(document, dict):
        raise LmbenchError(f"holds no JSON object ({path})")
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool):
        raise LmbenchError(f"field 'version': missing or not a whole number ({path})")
    if found > version:
        raise LmbenchError(
            f"written by a newer lmbench (format {found}, this one reads up to {version}); upgrade "
            f"lmbench to open it ({path})"
        )
    return document


def refuse_constant(word: str) -> float:
    """For `json.loads`: NaN and Infinity are Python's own."""
    raise ValueError(f"{word} is no JSON")


def reserve_space(path: Path, size: int) -> None:
    """A file of `size` bytes, to be unlinked where a full disk has no room for a run's last event.
    Where the disk is full already, none is made."""
    try:
        # Random, since a file system may compress zeros to nothing.
        path.write_bytes(os.urandom(size))
    except OSError:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes. The kernel frees it on any death.

    Raises:
        LmbenchError: another process holds it for longer than any of ours does.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LmbenchError(
                        f"another process has held a lock for {LOCK_PATIENCE_S:g} s: end it, or "
                        f"try again ({path})"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield


def in_use(path: Path) -> bool:
    """Does a live process hold this file or folder as a lock?"""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def holding_folder(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder as a lock between processes, as one that is being filled or emptied, so that
    it is not taken for a leftover. Is it ours? Without `wait` another process may have it, or the
    file system may know no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    ours = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if wait:
                raise
            ours = False
        yield ours
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take `path` as a lock without waiting: a descriptor that holds it, or None.

    The descriptor is not inherited by children; closing it, or any death, frees the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def fresh_folder(final: Path, staging: Path | None = None) -> Path:
    """An empty folder beside `final`, or in `staging`, to write its successor in, for `swap_in`.

    First ends a swap that a death interrupted, so that from here on `final` is the whole one and
    what stands beside it is not.
    """
    place = staging or final.parent
    _name_whole(final, [place])
    fresh = place / f"{final.name}.new"
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir()
    return fresh


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` at the end, and is removed where that fails.

    Raises:
        FileExistsError: something is at `path` by now; it is left as it is.
    """
    filling = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    filling.mkdir()
    try:
        with holding_folder(filling):
            yield filling
        # A rename would replace a folder that is empty.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        filling.rename(path)
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def drop_fresh(final: Path, staging: Path | None = None) -> None:
    """Give up on the `fresh_folder` that is not complete, as where the disk is full."""
    place = staging or final.parent
    if final.is_dir() or not (place / f"{final.name}.old").is_dir():
        shutil.rmtree(place / f"{final.name}.new", ignore_errors=True)


def swap_in(fresh: Path, final: Path) -> None:
    """Put the complete `fresh_folder` in the place of `final`, so that no death loses both.

    All files in `fresh` must be written and synced. Both renames are out of or into the folder of
    `fresh`, so that neither succeeds once that is gone. Dying between the two leaves ``.new`` and
    ``.old`` in it and no `final`, which `settled` understands.
    """
    old = fresh.with_name(final.name + ".old")
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)
    if old.exists():
        # On NFS a file that a process has mapped can be moved, but not removed.
        old.rename(old.with_name(f"{old.name}.{secrets.token_hex(4)}"))
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    fsync_folder(final.parent)
    if old.exists():
        # What cannot be removed yet is in the way of nothing: the new one has its name.
        shutil.rmtree(old, ignore_errors=True)


def settled(final: Path) -> Path | None:
    """The complete folder that `swap_in` left for `final`, or None where there is none yet."""
    if final.is_dir():
        return final
    # A worker swaps in out of its attempt's folder (`lmbench.session.attempts`).
    left = _settled_in(final, [final.parent, *final.parent.glob(".attempt-*")])
    # It may have come to the end of that since the first look.
    return final if final.is_dir() else left


def _settled_in(final: Path, places: Iterable[Path]) -> Path | None:
    for place in places:
        old, fresh = (place / f"{final.name}{end}" for end in (".old", ".new"))
        if old.is_dir():
            # `final` had been moved away, which is done only when its successor is complete.
            return fresh if fresh.is_dir() else old
    return None


def finish_swap(final: Path) -> None:
    """Give the complete folder that an interrupted `swap_in` left its name, and remove the rest."""
    _name_whole(final, [final.parent, *final.parent.glob(".attempt-*")])
    if final.is_dir():
        for end in (".new", ".old"):
            shutil.rmtree(final.with_name(final.name + end), ignore_errors=True)


def _name_whole(final: Path, places: Iterable[Path]) -> None:
    whole = None if final.is_dir() else _settled_in(final, places)
    if whole is not None:
        whole.rename(final)
