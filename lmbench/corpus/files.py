"""Folders and files that appear whole or not at all. No torch here."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from lmbench.user_folder import expanded

__all__ = [
    "Progress",
    "is_writable",
    "make_cache",
    "own_cache",
    "publish",
    "put_back",
    "replace_folder",
    "scratch_folder",
    "sync",
    "user_cache",
]

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(what, done, total)``, in bytes; ``total`` is None while it is unknown."""

_SCRATCH = re.compile(r"\.lmbench-(?P<host>.*)-(?P<pid>\d+)-[^-]*")


def user_cache() -> Path:
    """The user's cache folder for lmbench, where things go that the data folder cannot take.

    ``$LMBENCH_CACHE`` where it is set, else what the platform has for it.
    """
    asked = os.environ.get("LMBENCH_CACHE")
    if asked:
        return expanded(asked)
    return own_cache()


def own_cache() -> Path:
    """What the platform has as this user's cache folder for lmbench."""
    return Path(platformdirs.user_cache_dir("lmbench", appauthor=False))


def make_cache(folder: Path) -> None:
    """Make this folder of a cache, and those above it, for this user alone, whatever the umask:
    where others could write, compiled kernels are not loaded."""
    for place in (*reversed(folder.parents), folder):
        place.mkdir(exist_ok=True, mode=0o700)


def is_writable(folder: Path) -> bool:
    """Whether ``folder``, or the nearest parent that exists, may be written to.

    A folder with no write bit at all counts as read-only even for the superuser, whom the system
    would let through: whoever took the bits away meant the folder to be left as it is.
    """
    with contextlib.suppress(PermissionError):  # it, or one above it, may not be entered
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        writable = folder.is_dir() and bool(folder.stat().st_mode & 0o222)
        return writable and os.access(folder, os.W_OK)
    return False


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder in ``parent`` to build something in; gone afterwards, whatever happens.

    Scratch folders of this machine's processes that were killed are swept away first. Raises
    OSError when ``parent`` cannot be written.
    """
    if parent.is_relative_to(user_cache()):
        make_cache(parent)
    else:
        parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    prefix = f".lmbench-{_host()}-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _host() -> str:
    """This machine's name, as far as it can stand in a file's name."""
    return re.sub(r"[^\w.-]", "_", platform.node())


def _sweep(parent: Path) -> None:
    for entry in parent.iterdir():
        match = _SCRATCH.fullmatch(entry.name)
        # Process ids mean nothing across machines, and a folder may be shared between several.
        if match and match["host"] == _host():
            import psutil

            if not psutil.pid_exists(int(match["pid"])):
                shutil.rmtree(entry, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the system write the file to disk before what follows."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def replace_folder(built: Path, target: Path) -> None:
    """Put the folder ``built`` in the place of ``target``.

    Dying between the two moves leaves the old one beside it, from where `put_back` takes it. Raises
    OSError when a move is impossible; ``target`` is then what it was.
    """
    aside = _aside(target)
    target.rename(aside)
    try:
        built.rename(target)
    except OSError:
        put_back(target)
        raise
    put_back(target)


def put_back(target: Path) -> None:
    """End what `replace_folder` had begun where its process died."""
    aside = _aside(target)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.is_dir():
        aside.rename(target)


def _aside(target: Path) -> Path:
    # No corpus that is made has a name that begins with a dot.
    return target.with_name(f".{target.name}.replaced")


def publish(built: Path, target: Path, is_whole: Callable[[Path], bool]) -> None:
    """Move the folder ``built`` to ``target`` in one step.

    A ``target`` that another process published meanwhile is kept if ``is_whole`` says that it is
    sound; anything else in its place is moved into the scratch folder of ``built``, to go with it.
    Both must lie on one file system. Raises OSError when the move is impossible.
    """
    attempts = 5
    for attempt in range(attempts):
        try:
            built.rename(target)
            return
        except OSError:
            if target.is_dir() and is_whole(target):
                return
            if attempt == attempts - 1 or not target.exists():
                raise
            with contextlib.suppress(FileNotFoundError):
                target.rename(built.parent / f"replaced-{attempt}")
