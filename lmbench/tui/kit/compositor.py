"""What a change costs to paint: no more than the widgets that it touches; and who is told of it.

For whatever changed Textual renders every widget that overlaps the smallest rectangle around all
changes, each with all its lines, and cuts those that others hide as well. A key that moves the
cursor and redraws a plot in the opposite corner would render the whole screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import cast

from textual._compositor import ChopsUpdate, Compositor, ReflowResult
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

__all__ = ["FrugalCompositor"]


class FrugalCompositor(Compositor):
    """Textual's, but for how it finds what to paint and whom to tell; what is painted is the
    same."""

    _changed: tuple[Region, ...] = ()

    def reflow(self, parent: Widget, size: Size) -> ReflowResult:
        """Textual's, with all widgets whose size is not the one that they were told last.

        Textual compares two layouts. The older one is made anew when a widget's place is asked for
        after a scroll, or after a hidden widget changed: with the new sizes already, where that
        comes between a change of style and the layout.
        """
        found = super().reflow(parent, size)
        untold = {
            widget for widget, place in self._full_map.items() if widget._size != place.region.size
        }
        return found._replace(resized=found.resized | untold)

    def render_partial_update(self) -> ChopsUpdate | None:
        # `_render_chops` is only told the rectangle around them.
        self._changed = tuple(self._dirty_regions)
        try:
            return super().render_partial_update()
        finally:
            self._changed = ()

    def _render_chops(
        self, crop: Region, is_rendered_line: Callable[[int], bool]
    ) -> Sequence[Mapping[int, Strip]]:
        """Of each line the pieces from one edge of a widget to the next, by their column: those
        that a change touches, all where nothing is said to have changed."""
        chops: list[dict[int, Strip | None]] = [dict.fromkeys(cuts[:-1]) for cuts in self.cuts]
        missing = self._touched_pieces(self._changed or (self.size.region,))
        # In front first: it hides what comes later.
        for widget, (region, clip) in self.visible_widgets.items():
            if not missing:
                break
            shown = region.intersection(clip)
            lines = [
                y
                for y, columns in missing.items()
                if shown.y <= y < shown.bottom and any(shown.x <= x < shown.right for x in columns)
            ]
            for top, bottom in _runs(lines):
                part = Region(shown.x - region.x, top - region.y, shown.width, bottom - top)
                for y, strip in zip(range(top, bottom), widget.render_lines(part), strict=True):
                    cuts = [cut for cut in self.cuts[y] if shown.x <= cut <= shown.right]
                    pieces = strip.divide([cut - shown.x for cut in cuts[1:]])
                    for x, piece in zip(cuts, pieces, strict=False):
                        if x in missing[y]:
                            missing[y].remove(x)
                            chops[y][x] = piece
                    if not missing[y]:
                        del missing[y]
        return cast("Sequence[Mapping[int, Strip]]", chops)

    def _touched_pieces(self, changed: Iterable[Region]) -> dict[int, set[int]]:
        """By line, where the pieces begin that reach into what has changed."""
        touched: dict[int, set[int]] = {}
        for part in changed:
            for y in part.intersection(self.size.region).line_range:
                pieces = touched.setdefault(y, set())
                for x, end in pairwise(self.cuts[y]):
                    if x < part.right and end > part.x:
                        pieces.add(x)
        return {y: touched[y] for y in sorted(touched) if touched[y]}


def _runs(lines: Iterable[int]) -> Iterable[tuple[int, int]]:
    """(first, end) of each run of lines that follow each other; they come in order."""
    found: list[tuple[int, int]] = []
    for y in lines:
        if found and found[-1][1] == y:
            found[-1] = (found[-1][0], y + 1)
        else:
            found.append((y, y + 1))
    return found
