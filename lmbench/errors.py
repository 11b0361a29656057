"""Errors that the user can mend: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = [
    "BAD_INPUT",
    "ERROR",
    "INTERRUPTED",
    "NOT_FINITE",
    "RESUME",
    "LmbenchError",
    "os_error_line",
]

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit codes of a command: what the user gave is wrong; Ctrl-C."""

ERROR = "error: "
"""Begins the last line of a run's log where the user can mend why it ended."""

RESUME = "resume the run"
"""What to do about a run that failed, once the cause is mended."""

NOT_FINITE = (
    "the model's predictions are not finite numbers: its weights are damaged, or its training "
    "diverged; use another checkpoint"
)
"""Of a model that cannot be used, whatever it is to write or to score."""


class LmbenchError(Exception):
    """Bad input, described in one line that names what is wrong, where, and what to do.

    Where several things are wrong at once (the mistakes of a schedule), each is a line of its own.

    The command line prints the line on stderr and exits with code 2; the workbench shows it as a
    dialog. Anything that is a defect of ours is raised as some other exception.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(" ".join(line.split()) for line in lines))

    @property
    def message(self) -> str:
        return str(self)


_REMEDIES = {
    errno.ENOSPC: "make room on that disk and try again",
    errno.EDQUOT: "make room within your quota and try again",
    errno.EACCES: "see that you may read and write there",
    errno.EPERM: "see that you may read and write there",
    errno.EROFS: (
        "make it writable, or choose another place (LMBENCH_HOME names the working folder)"
    ),
    errno.EIO: "the disk may be failing: check it, then try again",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "close other programs, or allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}


def os_error_line(
    error: OSError, doing: str = "", *, file: Path | None = None, then: str = ""
) -> str:
    """A call that the system refused, in one line: what was being done, the system's reason, what
    to do, and the file last: a narrow line may end before it.

    Args:
        file: where it was, if the error does not say.
        then: what to do once the cause is mended, if not to try again.
    """
    number, reason, file = error.errno, error.strerror, error.filename or file
    if number is None and error.args and isinstance(error.args[0], list) and error.args[0]:
        # What `shutil.copytree` collects: (source, target, reason) of each file.
        file, _, reason = error.args[0][0]
    parts = [doing, str(reason or error or type(error).__name__)]
    remedy = _REMEDIES.get(number or 0, "try again")
    if then:
        again = "try again" in remedy
        remedy = remedy.replace("try again", then) if again else f"{remedy}, then {then}"
    line = f"{': '.join(part for part in parts if part)}; {remedy}"
    return " ".join((f"{line} ({file})" if file else line).split())
