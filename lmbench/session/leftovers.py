"""What a process that died in the middle of its work left lying about."""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from lmbench.session.files import holding_folder, in_use

__all__ = ["is_temporary", "remove_leftovers", "unnamed_folder", "without_name"]

# A file being written (`write_atomic`), a folder that had no name yet, or had it no more.
_TEMPORARY = re.compile(
    r"\..+\.[0-9a-z_]{8,16}\.tmp|\.(?:new|deleted)-[0-9a-f]{8}(?:-.+?)?(?:@(?P<host>.*))?"
)
# Between making a file and locking it pass microseconds; another machine's lock may not be seen.
_YOUNG_S, _YOUNG_ELSEWHERE_S = 1.0, 24 * 3600.0


def is_temporary(name: str) -> bool:
    """Is a file or folder called so only until it is whole, or until it is removed?"""
    return _TEMPORARY.fullmatch(name) is not None


def without_name(kind: Literal["new", "deleted"], name: str = "") -> str:
    """What a folder is called on this machine that has no name yet, or that had `name`."""
    named = f"-{name}" if name else ""
    return f".{kind}-{secrets.token_hex(4)}{named}@{platform.node()}"


@contextmanager
def unnamed_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent` to make something in, which no other process takes for a
    leftover; removed at the end, unless it was given another name."""
    remove_leftovers(parent)
    folder = parent / without_name("new")
    folder.mkdir()
    try:
        with holding_folder(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders directly in `folder` that no live process holds.

    What cannot be removed stays for the next time.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith("."):
                with suppress(OSError):
                    _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return
    young = _YOUNG_S if match["host"] in (None, platform.node()) else _YOUNG_ELSEWHERE_S
    if time.time() - path.lstat().st_mtime <= young or in_use(path):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
