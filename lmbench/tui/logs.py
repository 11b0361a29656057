"""The workbench's own log: defects are written there, never over the screen."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from lmbench.session.store import Home

__all__ = ["crash_line", "log_path", "start_log"]

_LIMIT_BYTES = 1_000_000


def log_path(home: Home) -> Path:
    return home.sessions_path / "workbench.log"


def start_log(home: Home) -> None:
    """Send this package's warnings and errors to the log file, once a process."""
    logger = logging.getLogger("lmbench.tui")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    # Opened at the first complaint, so that a home where nothing goes wrong gets no file.
    handler = RotatingFileHandler(
        log_path(home), maxBytes=_LIMIT_BYTES, backupCount=1, delay=True, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def crash_line(error: BaseException | None, doing: str) -> str:
    """The error in one line."""
    if error is None:
        return doing
    words = " ".join(str(error).split()) or "no further words"
    return f"{type(error).__name__} {doing}: {words}".replace("  ", " ")
