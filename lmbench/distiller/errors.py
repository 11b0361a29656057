"""The exceptions of the compression engine; a message names the place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_MOST_NAMED = 6


class DistillerError(ValueError, AssertionError):
    """A wrong argument or a state that the engine cannot work with.

    The original raises ValueError for some of them and fails an assertion for others; code written
    for it may catch either.
    """


class ScheduleError(DistillerError):
    """One or several mistakes of a schedule.

    Attributes:
        problems: one line for each mistake, in the order of the file.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(self.problems))


def did_you_mean(name: object, candidates: Iterable[str], what: str = "closest") -> str:
    """``(closest: a, b)``, or where none is alike ``(there are: a, b, c)``."""
    known = list(candidates)
    if alike := difflib.get_close_matches(str(name), known, n=3, cutoff=0.5):
        return f"({what}: {', '.join(alike)})"
    more = len(known) - _MOST_NAMED
    shown = known if more <= 0 else [*known[:_MOST_NAMED], f"{more} more"]
    return f"(there are: {', '.join(shown)})" if known else "(there are none)"
