"""The one exception that means: the user can mend this, and here is how."""

from __future__ import annotations

__all__ = ["ERROR", "LmbenchError"]


class LmbenchError(Exception):
    """Bad input, told in one line that names what is wrong, where, and what to do.

    Where several things are wrong at once (the mistakes of a schedule), each is a line of its own.

    The command line prints the line on stderr and exits with code 2; the workbench shows it as a
    dialog. Anything that is a defect of ours is raised as some other exception.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(" ".join(line.split()) for line in lines))

    @property
    def message(self) -> str:
        return str(self)


ERROR = "error: "
"""Begins the last line of a run's log where it ended by a user's mistake."""
