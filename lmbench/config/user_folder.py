"""Where the user's own settings are, for all working folders."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_folder"]


def user_folder() -> Path:
    """``$LMBENCH_CONFIG``, else the place for settings that the system has; it may not be there."""
    asked = os.environ.get("LMBENCH_CONFIG")
    return Path(asked).expanduser() if asked else _default_folder()


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("lmbench", appauthor=False))
