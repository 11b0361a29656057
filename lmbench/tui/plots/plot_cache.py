"""A plot as it was drawn, kept for as long as nothing of it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import is_

from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from lmbench.report.plots.curve_data import Curves
from lmbench.report.plots.layout import Picture

__all__ = ["Drawn", "centred", "within"]


@dataclass(frozen=True)
class Drawn:
    """A plot as it was drawn, which is costly. Not the plot itself: its series are as long as the
    training."""

    look: object = None
    curves: tuple[Curves, ...] = ()
    lines: list[Text] = field(default_factory=list)
    picture: Picture = field(default_factory=Picture)
    span: tuple[float, float] | None = None
    """The part of the x axis that is shown, None without curves."""
    zoomed: bool = False
    """Is there more of the x axis?"""
    strips: dict[object, Strip] = field(default_factory=dict)
    """Lines as they were painted, by what they depend on."""

    def is_of(self, look: object, curves: tuple[Curves, ...]) -> bool:
        """Curves are immutable, so the same object is the same picture."""
        same = len(curves) == len(self.curves) and all(map(is_, curves, self.curves))
        return same and look == self.look

    def strip(self, y: int, width: int, base: Style, console: Console) -> Strip:
        """A line as it is painted, of so many cells, in the style `base` where it has none."""
        key = y, width, base
        if key not in self.strips:
            strip = Strip(self.lines[y].render(console)) if y < len(self.lines) else Strip([])
            self.strips[key] = strip.apply_style(base).adjust_cell_length(width, base)
        return self.strips[key]


def within(cursor: float | None, span: tuple[float, float] | None) -> float | None:
    """The cursor, if there is anything of the x axis where it stands."""
    if cursor is None or span is None:
        return None
    left, right = span
    slack = 1e-9 * (right - left)
    if not left - slack <= cursor <= right + slack:
        return None
    return min(max(cursor, left), right)


def centred(words: str, width: int, height: int) -> list[Text]:
    text = Text(words, "dim", justify="center")
    lines = list(text.wrap(Console(width=max(width, 1)), max(width - 4, 1)))
    blank = [Text() for _ in range(max(0, (height - len(lines)) // 2))]
    for line in lines:
        line.align("center", width)
    return blank + lines
