"""The workbench's own log: defects are written there, never over the screen."""

from __future__ import annotations

import errno
import logging
import shutil
from logging.handlers import RotatingFileHandler
from pathlib import Path

from lmbench.errors import LmbenchError, os_error_line
from lmbench.session.store import Home

__all__ = ["describe_error", "log_path", "one_line_error", "start_log"]

_LIMIT_BYTES = 1_000_000
# What the user's disk says no with is no defect of ours.
_THE_DISKS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENODEV)
}

_log = logging.getLogger(__name__)


def log_path(home: Home) -> Path:
    return home.sessions_path / "workbench.log"


def start_log(home: Home) -> None:
    """Send this package's warnings and errors to the log file, once a process."""
    logger = logging.getLogger("lmbench.tui")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    # Opened at the first problem, so that a home where nothing goes wrong gets no file.
    handler = RotatingFileHandler(
        log_path(home), maxBytes=_LIMIT_BYTES, backupCount=1, delay=True, encoding="utf-8"
    )
    # Where the log itself cannot be written, the screen is no place to say so.
    handler.handleError = lambda record: None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def describe_error(error: BaseException, doing: str, home: Home) -> tuple[str, str]:
    """Title and text of the dialog about an error; a defect of ours is logged."""
    if isinstance(error, LmbenchError):
        return "That does not work", error.message
    # `shutil.Error` lists the files that could not be copied, and has no number.
    if isinstance(error, shutil.Error) or (
        isinstance(error, OSError) and error.errno in _THE_DISKS
    ):
        return "The disk refused", os_error_line(error, doing)
    _log.error("%s", doing or "error", exc_info=error)
    return (
        "Something went wrong",
        f"{one_line_error(error, doing)}\n\nThe details are in {log_path(home)}",
    )


def one_line_error(error: BaseException | None, doing: str) -> str:
    """The error in one line."""
    if error is None:
        return doing
    words = " ".join(str(error).split()) or "no further words"
    return f"{type(error).__name__} {doing}: {words}".replace("  ", " ")
