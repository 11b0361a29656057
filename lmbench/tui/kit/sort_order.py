"""How the rows of a table are sorted: by which column, and which way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

__all__ = ["SortOrder"]

R = TypeVar("R")

_NONE = (3, "")


@dataclass
class SortOrder:
    """`by` is a column's name, or "" for the order that the rows come in."""

    by: str = ""
    reversed: bool = False

    def turn(self, shown: Iterable[str]) -> None:
        """Sort by the next of the columns that are shown."""
        names = ["", *shown]
        here = names.index(self.by) if self.by in names else 0
        self.by = names[(here + 1) % len(names)]

    def of(
        self, rows: Sequence[R], figure: Callable[[R], Any] | None, *, descending: bool = False
    ) -> list[R]:
        """The rows by their figures, those that have none (None, NaN) last; as they come where
        there is no `figure`."""
        if figure is None:
            return list(rows[::-1] if self.reversed else rows)
        ranked = [(_rank(figure(row)), row) for row in rows]
        ranked.sort(key=itemgetter(0), reverse=self.reversed != descending)
        ranked.sort(key=lambda pair: pair[0] == _NONE)
        return [row for _, row in ranked]

    def words(self, column: str, whose: str) -> str:
        """What the table is sorted by and which way round; "" is the order of `whose`."""
        if not column:
            return f"in the order of the {whose}" + (", the last first" if self.reversed else "")
        return f"sorted by {column}, {'descending' if self.reversed else 'ascending'}"


def _rank(figure: Any) -> tuple[int, Any]:
    """Numbers before texts, which do not compare with them."""
    if figure is None or figure != figure:
        return _NONE
    if isinstance(figure, int | float):
        return 0, figure
    return (1, figure) if isinstance(figure, str) else (2, repr(figure))
