"""The table of a sweep: a column for each axis that varies, and those of the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from rich.cells import cell_len

from lmbench.jobs.sweeps.status import STOPPED_EARLY, WAITS, Setting, status_words, value_words
from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.report.plots.layout import sparkline
from lmbench.report.plots.series import perplexity_of
from lmbench.report.seeds import Spread
from lmbench.report.tables import PART_SIGN
from lmbench.tui.bench.run_marks import STATUS_MARKS, mark_of
from lmbench.tui.bench.run_place import where_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.grid import Cell, Column

__all__ = ["Line", "TableColumn", "columns_of_runs", "columns_of_settings", "fitted", "rung_of"]

_COURSE = 8
_SIGNS = {word: sign for sign, word in STATUS_MARKS.values()} | {WAITS: "◧", STOPPED_EARLY: "◧"}
_TINTS = {"failed": "error", "lost": "error", "running": "accent", "paused": "accent"}


@dataclass(frozen=True, eq=False)
class Line:
    """A row of the table: a setting over its seeds with all of its runs, or one of these alone.
    `key` is the folder of its first run."""

    key: str
    setting: Setting
    views: tuple[RunView, ...]
    seed: int | None = None

    @property
    def view(self) -> RunView:
        return self.views[0]

    @property
    def status(self) -> str:
        """That of its run, in the words of a sweep."""
        view = self.view
        return status_words(view.status, view.record) if view.status and view.record else "lost"


@dataclass(frozen=True)
class TableColumn:
    """`figure` is what a table is sorted by, None where a row has none; `least` and `most` are
    cells of its width."""

    name: str
    figure: Callable[[Line], Any]
    cell: Callable[[Line], Cell]
    left: bool = False
    rank: int = 0
    least: int = 0
    most: int = 16
    grow: int = 0


def fitted(column: TableColumn, cells: Sequence[Cell]) -> Column:
    """The column as wide as its widest cell."""
    widest = max((cell_len(cell.text) for cell in cells), default=0)
    width = min(max(widest, cell_len(column.name), column.least), column.most)
    return Column(column.name, width, column.left, column.grow, column.rank)


def columns_of_runs(
    axes: Sequence[str], lines: Sequence[Line], *, rungs: bool
) -> Iterator[TableColumn]:
    """The columns of the table with a line for each run."""
    yield TableColumn("run", lambda line: line.view.id, _run, left=True, least=5)
    yield from _settings(axes, lines)
    if len({line.seed for line in lines}) > 1:
        yield _plain("seed", lambda line: line.seed, str, rank=3)
    yield TableColumn("status", lambda line: line.status, _status, left=True, least=10)
    yield TableColumn("valid", lambda line: line.view.valid_ppl, _valid, least=6)
    ppl = numbers.perplexity
    yield _plain("test", lambda line: line.view.test_ppl, ppl, rank=4, least=6)
    yield _plain("sparsity", lambda line: line.view.total_sparsity, numbers.percent, rank=2)
    size = lambda line: Cell(line.view.size)  # noqa: E731
    yield TableColumn("size", lambda line: line.view.bytes, size, rank=5, least=8)
    if rungs:
        yield _plain("rung", lambda line: rung_of(line.view) or None, str, rank=6)
    if any(where_of(line.view) for line in lines):
        where = lambda line: where_of(line.view)  # noqa: E731
        yield _plain("where", where, str, left=True, rank=7, most=28)
    yield TableColumn("course", lambda line: None, _course, left=True, rank=8, least=_COURSE)
    if any(line.view.reason for line in lines):
        reason = lambda line: one_line(line.view.reason) or None  # noqa: E731
        yield _plain("why it ended", reason, str, left=True, rank=9, least=24, most=24, grow=1)


def columns_of_settings(axes: Sequence[str], lines: Sequence[Line]) -> Iterator[TableColumn]:
    """The columns of the table with a line for each setting over its seeds."""
    yield from _settings(axes, lines)
    done = lambda line: line.setting.statuses.get("finished", 0)  # noqa: E731
    yield TableColumn("runs", done, _progress, left=True)
    for name, rank in (("valid", 0), ("test", 3)):
        spread = attrgetter(f"setting.{name}")
        yield TableColumn(
            name,
            lambda line, of=spread: of(line).mean if of(line) else None,
            lambda line, of=spread: Cell(_spread(of(line), line.setting)),
            rank=rank,
            least=10,
        )
    yield _plain("sparsity", lambda line: line.setting.sparsity, numbers.percent, rank=2)
    yield TableColumn("size", lambda line: line.setting.size.bytes, _size, rank=4)
    yield TableColumn("against the best", _behind_share, _behind, left=True, rank=5, most=24)


def _plain(
    name: str, figure: Callable[[Line], Any], words: Callable[[Any], str], **look: Any
) -> TableColumn:
    """A column whose cells are its figures in words."""

    def cell(line: Line) -> Cell:
        value = figure(line)
        return Cell("" if value is None else words(value))

    return TableColumn(name, figure, cell, **look)


def _settings(axes: Sequence[str], lines: Sequence[Line]) -> Iterator[TableColumn]:
    """What tells the settings apart: the stage, where there are several, and the axes."""
    if len({line.setting.stage for line in lines}) > 1:
        yield _plain("stage", lambda line: line.setting.stage, value_words, left=True, most=10)
    for axis in axes:
        numeric = all(_is_number(line.setting.values.get(axis, 0)) for line in lines)
        value = lambda line, axis=axis: line.setting.values.get(axis)  # noqa: E731
        yield _plain(value_words(axis), value, value_words, left=not numeric, rank=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- of a run -----------------------------------------------------------------------------------


def _run(line: Line) -> Cell:
    mark = mark_of(line.view.id)
    return Cell(f"{mark.marker} {line.view.id}", mark.variable)


def _status(line: Line) -> Cell:
    status, view = line.status, line.view
    words = status
    if status == "running" and view.progress is not None:
        words = f"{100 * view.progress.fraction:.0f}%"
    return Cell(f"{_SIGNS[status]} {words}", _TINTS.get(status, ""))


def _valid(line: Line) -> Cell:
    view = line.view
    ppl = "" if view.valid_ppl is None else numbers.perplexity(view.valid_ppl)
    return Cell(view.part_ppl or ppl)


def rung_of(view: RunView) -> str:
    """How many rungs a run has come to, and after which epoch the last was; "" for none."""
    noted = view.record.results.get("rungs", {}) if view.record else {}
    return f"{len(noted)} (ep {max(map(int, noted))})" if noted else ""


def _course(line: Line) -> Cell:
    losses = line.view.curves.valid["loss"]
    if not len(losses):
        return Cell()
    return Cell(sparkline(perplexity_of(losses), _COURSE), mark_of(line.view.id).variable)


# -- of a setting -------------------------------------------------------------------------------


def _progress(line: Line) -> Cell:
    done = line.setting.statuses.get("finished", 0)
    text = f"{done} of {len(line.setting.runs)}"
    return Cell(text, _TINTS["running"] if "running" in line.setting.statuses else "")


def _spread(spread: Spread | None, setting: Setting) -> str:
    if spread is None:
        return ""
    return spread.text().partition(", n =")[0] + (PART_SIGN if setting.part_tokens else "")


def _size(line: Line) -> Cell:
    return Cell(numbers.size(*line.setting.size))


def _behind_share(line: Line) -> float | None:
    return (line.setting.behind or 0.0) if line.setting.valid else None


def _behind(line: Line) -> Cell:
    setting = line.setting
    if setting.behind is None:
        return Cell("" if setting.valid is None else "best", "success")
    return Cell(f"{setting.behind:+.1%}" + (", in the spread" if setting.inside else ""))
