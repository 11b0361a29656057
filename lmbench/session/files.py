"""Files that are written whole or not at all, and read with a clear complaint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no flock; a lock there is the exclusive creation of a file
    fcntl = None

from lmbench.errors import LmbenchError

__all__ = [
    "fsync_folder",
    "locked",
    "read_json",
    "settled",
    "swap_in",
    "try_lock",
    "write_atomic",
    "write_json",
]


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader sees the old file or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json(path: Path, document: Any) -> None:
    """Strict, human-readable JSON, written atomically.

    Raises:
        ValueError: for a number that JSON has no word for (NaN, infinity).
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: Path, *, version: int) -> dict[str, Any]:
    """One JSON object, of this major version or an older one.

    Raises:
        LmbenchError: the file is missing, damaged, or of a newer version.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise LmbenchError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(document, dict):
        raise LmbenchError(f"{path}: holds no JSON object")
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool):
        raise LmbenchError(f"{path}: field 'version': missing or not a whole number")
    if found > version:
        raise LmbenchError(
            f"{path}: written by a newer lmbench (format {found}, this one reads up to "
            f"{version}); upgrade lmbench to open it"
        )
    return document


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes; waits for it. The kernel frees it on any death."""
    with path.open("a") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> int | None:
    """Take `path` as a lock without waiting: a descriptor that holds it, or None.

    The descriptor is not inherited by children; closing it, or any death, frees the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if fcntl:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
    return descriptor


def swap_in(fresh: Path, final: Path) -> None:
    """Put the complete folder `fresh` in the place of `final`, so that no death loses both.

    `fresh` must be ``final`` with ``.new`` added, all its files written and synced. Dying between
    the two renames leaves ``.new`` and ``.old`` and no `final`, which `settled` understands.
    """
    old = final.with_name(final.name + ".old")
    if not final.exists() and old.exists():
        # Left by such a death; `fresh` is newer than both.
        old.rename(final)
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    fsync_folder(final.parent)
    if old.exists():
        shutil.rmtree(old)


def settled(final: Path) -> Path | None:
    """The complete folder that `swap_in` left for `final`, or None where there is none yet."""
    if final.is_dir():
        return final
    for suffix in (".new", ".old"):
        # Only where `final` had been moved away is its `.new` sure to be complete.
        candidate = final.with_name(final.name + suffix)
        if final.with_name(final.name + ".old").is_dir() and candidate.is_dir():
            return candidate
    return None
