"""The exceptions of the compression engine; a message names the place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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


def closest(name: object, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates most like ``name``, best first; the first ones when none is alike."""
    known = list(candidates)
    return difflib.get_close_matches(str(name), known, n=count, cutoff=0.5) or known[:count]


def did_you_mean(name: object, candidates: Iterable[str], what: str = "closest") -> str:
    """``(closest: a, b, c)``, or ``(there are none)`` when there is nothing to choose from."""
    names = closest(name, candidates)
    return f"({what}: {', '.join(names)})" if names else "(there are none)"
