"""The session's runs as a tree: status, perplexity, what compression cost and gained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.events import Click
from textual.geometry import Size
from textual.reactive import var
from textual.strip import Strip

from lmbench.report import numbers
from lmbench.report.plots.curve_data import Curves
from lmbench.report.plots.layout import sparkline
from lmbench.tui.bench.run_marks import STATUS_MARKS, mark_of
from lmbench.tui.bench.snapshots import RunView, Snapshot
from lmbench.tui.kit.lines_view import LinesView, keep_line_in_view

__all__ = ["SORTS", "RunTree", "difference", "spark"]

SORTS: dict[str, str] = {
    "tree": "lineage",
    "ppl": "perplexity",
    "sparsity": "sparsity",
    "size": "size",
    "newest": "newest",
}
"""What the runs may be sorted by; all but the tree show them flat."""

_SPARK_WIDTH = 5
_PPL, _CHANGE, _SPARSITY, _SIZE, _SPARK = range(5)
_WIDTHS = (7, 7, 7, 9, _SPARK_WIDTH + 1)
_HEADINGS = ("ppl", "change", "sparse", "size", "loss")
# Which columns get a place first, where there is room beside status and perplexity.
_NEXT = (_SPARSITY, _SIZE, _SPARK, _CHANGE)
# Cells for a name before columns of figures take their place.
_NAME = 22
# Cells of the sign of a run's status and how far it is.
_SIGN_AND_PERCENT = 5
# A list lower than this has no line for headings.
_LOW = 5


def order(views: tuple[RunView, ...], sort: str) -> list[RunView]:
    """The runs in the order `sort`; those without the figure come last."""
    match sort:
        case "ppl":
            return sorted(views, key=lambda v: (v.valid_ppl is None, v.valid_ppl or 0.0, v.id))
        case "sparsity":
            return sorted(views, key=lambda v: (-(v.total_sparsity or -1.0), v.id))
        case "size":
            return sorted(views, key=lambda v: (v.bytes is None, v.bytes or 0, v.id))
        case "newest":
            return sorted(views, key=lambda v: -v.id)
    return list(views)


def matches(view: RunView, text: str) -> bool:
    """Does every word of the filter occur in the run's number, name, kind or status?"""
    haystack = f"{view.title} {view.kind} {view.status or ''}".lower()
    return all(word in haystack for word in text.lower().split())


def branches(views: list[RunView]) -> list[str]:
    """The lines that join each run to its parent, for runs in the tree's order."""
    drawn = [""] * len(views)
    # For each depth: does a later run of that depth hang on the same parent?
    open_below: dict[int, bool] = {}
    for index in range(len(views) - 1, -1, -1):
        depth = views[index].depth
        for deeper in [d for d in open_below if d > depth]:
            del open_below[deeper]
        if depth:
            bars = "".join("│" if open_below.get(d) else " " for d in range(1, depth))
            drawn[index] = bars + ("├" if open_below.get(depth) else "└")
            open_below[depth] = True
    return drawn


def difference(view: RunView, parent: RunView | None) -> float | None:
    """By how much its perplexity is above its parent's; None where either is unknown."""
    mine, theirs = view.valid_ppl, parent.valid_ppl if parent else None
    if mine is None or theirs is None or not math.isfinite(mine - theirs):
        return None
    return mine - theirs


def spark(view: RunView, width: int) -> str:
    """The course of its loss, of validation once that tells one; "" for a run without."""
    curve = view.curves.valid["loss"]
    if len(curve) < _SPARK_WIDTH:
        curve = view.curves.steps["loss"]
    return sparkline(curve, width)


class RunTree(LinesView):
    """The list itself: one line a run, drawn to the width there is."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "runs--faint",
        "runs--good",
        "runs--bad",
        "runs--busy",
    }
    DEFAULT_CSS = """
    RunTree {
        .runs--faint { color: $text-muted; }
        .runs--good { color: $success; }
        .runs--bad { color: $error; }
        .runs--busy { color: $accent; }
    }
    """

    filter: var[str] = var("", init=False)
    sort: var[str] = var("tree", init=False)

    def __init__(self) -> None:
        super().__init__()
        # The runs as they stand on the screen.
        self.shown: list[RunView] = []
        self._lines: dict[str, int] = {}
        self._branches: list[str] = []
        self._listed: object = None
        self._drawn: object = None
        self._known: Mapping[str, RunView] = {}
        self._marked: set[str] = set()
        self._selected = ""
        self._columns: tuple[int, ...] = ()
        self._ppl_width = _WIDTHS[_PPL]
        self._sparks: dict[str, tuple[Curves, str]] = {}

    def show(self, snapshot: Snapshot) -> None:
        before = self.shown
        listed = (snapshot.runs, self.filter, self.sort)
        if listed != self._listed:
            self._listed = listed
            kept = [view for view in snapshot.runs if matches(view, self.filter)]
            self.shown = order(tuple(kept), self.sort)
            self._lines = {view.key: line for line, view in enumerate(self.shown)}
            self.bench.listed = tuple(self._lines)
            as_tree = self.sort == "tree" and not self.filter
            self._branches = branches(self.shown) if as_tree else [""] * len(self.shown)
            self._sparks = {view.key: (view.curves, self._spark_of(view)) for view in self.shown}
            # Lines are drawn to the width there is: nothing lies to the right.
            self.virtual_size = Size(1, len(self.shown) + self._head)
            self._fit()
        self._repaint(before)
        self._keep_in_view()

    def on_resize(self) -> None:
        self.virtual_size = Size(1, len(self.shown) + self._head)
        self._fit()
        # Textual paints the new size before it tells of it: with the columns of the old one.
        self._repaint(self.shown)
        self._keep_in_view()

    def _spark_of(self, view: RunView) -> str:
        known = self._sparks.get(view.key)
        return known[1] if known and known[0] is view.curves else spark(view, _SPARK_WIDTH)

    @property
    def _head(self) -> int:
        """Lines of headings, above the runs."""
        return int(self.size.height >= _LOW)

    def _repaint(self, before: list[RunView]) -> None:
        """What changed since the last time: all lines, or those of some runs."""
        bench, views = self.bench, self.shown
        keys = [view.key for view in views] if views is not before else self._drawn_keys
        drawn = (keys, self._branches, bench.theme, self._columns, self._ppl_width)
        known, self._known = self._known, bench.snapshot.by_key
        if drawn != self._drawn:
            self._drawn, self._drawn_keys = drawn, keys
            self.refresh()
        elif views is not before:
            # A line has a difference to its parent, which need not be among those that are shown.
            changed = {key for key, view in self._known.items() if known.get(key) is not view}
            for line, view in enumerate(views):
                if view.key in changed or view.parent in changed:
                    self._refresh_line(line)
        for key in {*bench.marked} ^ self._marked:
            self._refresh_line_of(key)
        self._marked = {*bench.marked}
        if bench.selected != self._selected:
            self._refresh_line_of(self._selected)
            self._refresh_line_of(bench.selected)
            self._selected = bench.selected

    _drawn_keys: list[str] = []  # noqa: RUF012

    def _line_of(self, key: str) -> int:
        return self._lines.get(key, -1)

    def _refresh_line_of(self, key: str) -> None:
        if (line := self._line_of(key)) >= 0:
            self._refresh_line(line)

    def _refresh_line(self, line: int) -> None:
        self.refresh_line(line + self._head)

    def watch_filter(self) -> None:
        self.show(self.bench.snapshot)

    def watch_sort(self) -> None:
        self.show(self.bench.snapshot)

    @property
    def cursor(self) -> int:
        """The line of the selected run; -1 where the filter hides it."""
        return self._line_of(self.bench.selected)

    def move_cursor(self, by: int) -> None:
        if self.shown:
            line = min(max(max(self.cursor, 0 if by > 0 else 1) + by, 0), len(self.shown) - 1)
            if self.cursor < 0:
                line = 0
            self.bench.select(self.shown[line].key)

    def _keep_in_view(self) -> None:
        if (line := self.cursor) >= 0:
            # The headings cover the first line.
            keep_line_in_view(self, line, 1 + self._head)

    def on_click(self, event: Click) -> None:
        line = event.y - self._head + int(self.scroll_offset.y)
        if event.y >= self._head and 0 <= line < len(self.shown):
            self.bench.select(self.shown[line].key)

    # -- drawing -------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width, base = self.scrollable_content_region.width, self.visual_style.rich_style
        line = y - self._head + int(self.scroll_offset.y)
        if y < self._head:
            return self._headings().adjust_cell_length(width, base)
        if line >= len(self.shown):
            return Strip.blank(width, base)
        view = self.shown[line]
        if view.key == self.bench.selected:
            name = "lines--cursor" if self.has_focus else "lines--cursor-blurred"
            base = self.get_component_rich_style(name)
        right = self._right(view, base)
        room = width - sum(segment.cell_length for segment in right)
        left = Strip(self._left(view, self._branches[line], base))
        if left.cell_length > room and not _has_perplexity(view):
            # A name that would be cut takes the cells that no figure stands in.
            dash = right[1].text
            taken = min(left.cell_length - room, len(dash) - len(dash.lstrip()) - 1)
            right[1] = Segment(dash[taken:], base)
            room += taken
        if left.cell_length > room:
            left = Strip.join([left.crop(0, max(room - 1, 0)), Strip([Segment("…", base)])])
        return Strip.join([left.extend_cell_length(room, base), Strip(right)])

    def _headings(self) -> Strip:
        if not self.shown:
            return Strip([])
        style = self.get_component_rich_style("runs--faint")
        right = "".join(_HEADINGS[i].rjust(self._width_of(i)) for i in self._columns)
        room = self.scrollable_content_region.width - len(right)
        return Strip([Segment("  run".ljust(room)[:room] + right, style)])

    def _fit(self) -> None:
        """Divide the width among names and columns, the same for all lines."""
        names = [
            len(self._branches[i]) + 3 + cell_len(view.title) for i, view in enumerate(self.shown)
        ]
        self._columns = self._fitting(names)
        self._ppl_width = self._fitting_ppl(names)

    def _width_of(self, column: int) -> int:
        return self._ppl_width if column == _PPL else _WIDTHS[column]

    def _fitting_ppl(self, names: list[int]) -> int:
        """Of the perplexities' column, names that are cut get the cells that no perplexity takes.
        A queued run has a word there that is longer: it alone reaches further to the left."""
        room = self.scrollable_content_region.width - sum(_WIDTHS[i] for i in self._columns)
        lines = [
            (name + len(_status_text(view)) - room, len(_perplexity_text(view)))
            for name, view in zip(names, self.shown, strict=True)
            if view.status != "queued"
        ]
        lacking = max((cells for cells, _ in lines), default=0)
        longest = max([len(_HEADINGS[_PPL]), *(length for _, length in lines)])
        return max(_WIDTHS[_PPL] - max(lacking, 0), min(longest + 1, _WIDTHS[_PPL]))

    def _fitting(self, names: list[int]) -> tuple[int, ...]:
        """Which columns there is room for beside the names: of those that any run has something
        for."""
        width = self.scrollable_content_region.width
        room = width - min(max(names, default=-1) + 1, _NAME) - _SIGN_AND_PERCENT - _WIDTHS[_PPL]
        shown = [_PPL]
        for column in _NEXT:
            fits = _WIDTHS[column] <= room
            if fits and any(self._has(view, column) for view in self.shown):
                shown.append(column)
                room -= _WIDTHS[column]
        return tuple(sorted(shown))

    def _has(self, view: RunView, column: int) -> bool:
        if column == _SPARSITY:
            return bool(view.total_sparsity)
        if column == _SIZE:
            return view.bytes is not None
        if column == _SPARK:
            return bool(self._sparks[view.key][1])
        return difference(view, self._from(view)) is not None

    def _from(self, view: RunView) -> RunView | None:
        return self.bench.snapshot.run(view.parent) if view.parent else None

    def _tint(self, name: str, base: Style) -> Style:
        return _in_colour_of(base, self.get_component_rich_style(name))

    def _left(self, view: RunView, branch: str, base: Style) -> list[Segment]:
        mark = mark_of(view.id)
        marked = view.key in self.bench.marked
        colour = base + self.bench.colour_style(mark.variable)
        return [
            Segment("▸" if view.key == self.bench.selected else " ", base),
            Segment(branch, self._tint("runs--faint", base)),
            Segment(mark.marker, colour + Style(reverse=marked)),
            Segment(f" {view.title}", base),
        ]

    def _right(self, view: RunView, base: Style) -> list[Segment]:
        """The status, and the columns that are shown, widths as in `_WIDTHS`."""
        draw = (
            self._perplexity,
            self._change,
            lambda view, base: _figure(
                numbers.percent(view.total_sparsity or None), _SPARSITY, base
            ),
            lambda view, base: _figure(view.size, _SIZE, base),
            self._spark,
        )
        return [self._status(view, base), *(draw[i](view, base) for i in self._columns)]

    def _status(self, view: RunView, base: Style) -> Segment:
        text, status = _status_text(view), view.status or "lost"
        if view.record is None:
            return Segment(text, self._tint("runs--bad", base))
        tint = {"failed": "runs--bad", "lost": "runs--bad", "finished": "runs--good"}
        name = tint.get(status, "runs--busy" if status in ("running", "paused") else "runs--faint")
        return Segment(text, self._tint(name, base))

    def _perplexity(self, view: RunView, base: Style) -> Segment:
        if view.status == "queued":
            return Segment("queued".rjust(_WIDTHS[_PPL]), self._tint("runs--faint", base))
        return Segment(_perplexity_text(view).rjust(self._ppl_width), base)

    def _change(self, view: RunView, base: Style) -> Segment:
        change = difference(view, self._from(view))
        if change is None:
            return Segment(" " * _WIDTHS[_CHANGE], base)
        text = f"{change:+.1f}" if abs(change) < 1000 else f"{change:+.0e}"
        name = "runs--bad" if change > 0.05 else "runs--good" if change < -0.05 else "runs--faint"
        return Segment(text.rjust(_WIDTHS[_CHANGE]), self._tint(name, base))

    def _spark(self, view: RunView, base: Style) -> Segment:
        colour = base + self.bench.colour_style(mark_of(view.id).variable)
        return Segment(f" {self._sparks[view.key][1]:<{_SPARK_WIDTH}}", colour)


def _status_text(view: RunView) -> str:
    if view.record is None:
        return " ✗"
    status = view.status or "lost"
    sign = STATUS_MARKS[status][0]
    if status == "running" and view.progress is not None:
        return f" {sign}{100 * view.progress.fraction:2.0f}%".ljust(_SIGN_AND_PERCENT)
    return f" {sign}"


def _has_perplexity(view: RunView) -> bool:
    return bool(view.part_ppl) or view.valid_ppl is not None or view.status == "queued"


def _perplexity_text(view: RunView) -> str:
    return view.part_ppl or numbers.perplexity(view.valid_ppl)


def _figure(text: str, column: int, base: Style) -> Segment:
    return Segment(text.rjust(_WIDTHS[column]), base)


@lru_cache(maxsize=64)
def _in_colour_of(base: Style, other: Style) -> Style:
    return base + Style(color=other.color)
