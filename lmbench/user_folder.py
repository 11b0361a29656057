"""The user's own folders: where the settings for all working folders are, and what `~` is."""

from __future__ import annotations

import os
from pathlib import Path

from lmbench.errors import LmbenchError

__all__ = ["expanded", "user_folder"]


def expanded(path: str | Path) -> Path:
    """A path that a user wrote, with the home folder that its ``~`` or ``~name`` stands for.

    Raises:
        LmbenchError: there is no such user, or no system has such a path.
    """
    if "\0" in str(path):
        raise LmbenchError(f"{str(path)!r}: a path has no null character; take it away")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise LmbenchError(f"{path}: there is no such user; write the path without ~") from None


def user_folder() -> Path:
    """``$LMBENCH_CONFIG``, else the place for settings that the system has; it may not be there."""
    asked = os.environ.get("LMBENCH_CONFIG")
    return expanded(asked) if asked else _default_folder()


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("lmbench", appauthor=False))
