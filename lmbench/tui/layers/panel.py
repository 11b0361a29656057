"""The tables of the selected run's tensors: sparsity, live, and how modules were quantized."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from lmbench.printable import one_line
from lmbench.report.numbers import plural
from lmbench.report.quantized_modules import short_mode
from lmbench.session import events as ev
from lmbench.tui.bench.float_model_run import is_training
from lmbench.tui.bench.snapshots import RunView, short_module
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.kit.sort_order import SortOrder

__all__ = ["LayersPanel"]

Table = Literal["sparsity", "quantization"]
_Line = tuple[tuple[Any, ...], tuple[Cell, ...]]
"""What a row is sorted by under each column, its key the first, and what it shows there."""

_SPARSITY = (
    Column("tensor", 17, left=True, grow=2),
    Column("shape", 10, rank=4),
    Column("nonzero", 10, rank=3),
    Column("sparsity", 20, grow=3),
    Column("change", 7, rank=1),
    Column("|mean|", 7, rank=2),
    Column("std", 7, rank=5),
    Column("rows 0", 6, rank=6),
    Column("cols 0", 6, rank=6),
)
# Of a quantized module what `ModuleReport` has; its kind follows from its name.
_QUANTIZED = (
    Column("module", 14, left=True, grow=2),
    Column("bits", 6, left=True),
    Column("scale", 7, rank=1),
    Column("zero", 5, rank=1),
    Column("clip", 7, left=True, grow=1, rank=1),
    Column("mode w/a", 10, left=True, rank=2),
    Column("w SQNR", 6, rank=3),
    Column("SQNR", 5),
)
_FLOATS = {"16": "fp16", "32": "fp32", "64": "fp64"}
# Kinds of modules that have weights also where these stay floats.
_WEIGHTED = ("Linear", "Embedding")
# Differences in percentage points and decibels that are worth a colour.
_NO_CHANGE = 0.05
_POOR_DB, _GOOD_DB = 20.0, 35.0


class LayersPanel(Panel):
    """Live while a run prunes."""

    TITLE = "Layers"
    HELP = """
Each tensor of the selected run: its shape, how many weights are not zero, its sparsity, the change
since the parent run in percentage points, and the mean magnitude of all weights, zeros too. Tied
weights stand once. During pruning the table follows each step. Of a quantized run it shows of each
module the bits of weights and activations, scale, zero point and clipping of its output, and the
signal-to-quantization-noise ratio (SQNR, in dB) of its output and of its weights; **x** changes
between the two tables.

**t** sorts by the next column, **T** turns the order round. **Enter** opens one tensor: the
distribution of its weights, its gates, its sparsity over time.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", id="layers.open", tooltip="Look at one tensor"),
        Binding("t", "sort", "sort", id="layers.sort", tooltip="Sort by the next column"),
        Binding(
            "T", "reverse", "reverse", id="layers.reverse", show=False, tooltip="Reverse the order"
        ),
        Binding(
            "x",
            "table",
            "sparsity/bits",
            id="layers.table",
            tooltip="Sparsity, or how modules were quantized",
        ),
    ]
    DEFAULT_CSS = """
    LayersPanel #nothing { display: none; height: 1fr; padding: 0 1; color: $text-muted; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._order = SortOrder()
        self._prefers: Table = "quantization"

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("", id="nothing", markup=False)

    def on_mount(self) -> None:
        kept = self.bench.recall("layers")
        if isinstance(kept, dict):
            self._order = SortOrder(str(kept.get("sort", "")), kept.get("reversed") is True)
            self._prefers = "sparsity" if kept.get("table") == "sparsity" else "quantization"

    def take_focus(self) -> None:
        grid = self.query_one(Grid)
        self.screen.set_focus(grid) if grid.display else self.focus()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def table(self) -> Table | None:
        """Which table the selected run has, and is shown; None for neither."""
        view = self.bench.selected_run
        has: list[Table] = []
        if view is not None and view.quantized:
            has.append("quantization")
        if view is not None and view.sparsity is not None:
            has.append("sparsity")
        return self._prefers if self._prefers in has else next(iter(has), None)

    def refresh_view(self) -> None:
        view, table = self.bench.selected_run, self.table
        empty = view is None or table is None
        self.query_one(Grid).display = not empty
        self.query_one("#nothing").display = empty
        self.can_focus = empty
        if view is None or table is None:
            self.set_subtitle("")
            update_static(
                self.query_one("#nothing", Static), _nothing(view, self.bench.snapshot.complete)
            )
        elif table == "sparsity":
            self._show_sparsity(view)
        else:
            self._show_quantization(view)
        self.refresh_bindings()

    def _show_sparsity(self, view: RunView) -> None:
        event = view.sparsity
        assert event is not None
        parent = self.bench.snapshot.run(view.parent or "")
        before = parent.sparsity if parent else None
        earlier = {row.get("name"): _share(row) for row in before.tensors} if before else {}
        rows: list[_Line] = []
        for row in event.tensors:
            number, share, was = partial(_number, row), _share(row), earlier.get(row.get("name"))
            change = share - was if was is not None else None
            figures = (str(row.get("name")), number("dense"), number("nnz"), share, change,
                       *map(number, ("abs_mean", "std", "rows", "cols")))  # fmt: skip
            rows.append((figures, _cells(row, share, was)))
        total = (
            Cell("total (tied once)"),
            Cell(_count(event.parameters)),
            Cell(f"{event.nonzero:,}"),
            Cell(f"{100 * event.total:5.1f}", share=event.total),
            _change(event.total, before.total if before else None),
            *(Cell(),) * 4,
        )
        self._show(_SPARSITY, rows, total)
        self.set_subtitle(f"{view.title} · step {event.step:,}")

    def _show_quantization(self, view: RunView) -> None:
        latest = {event.module: event for event in view.quantized}
        figures = [_figures_of(event) for event in latest.values()]
        self._show(_QUANTIZED, [(row, _quantized_cells(row)) for row in figures])
        self.set_subtitle(f"{view.title} · {plural(len(latest), 'module')}")

    def _show(
        self, columns: tuple[Column, ...], lines: list[_Line], total: tuple[Cell, ...] = ()
    ) -> None:
        """In the order that is asked for: as they come, or by a column, the largest first."""
        titles = [column.title for column in columns]
        by = titles.index(self._order.by) if self._order.by in titles else -1
        figure = (lambda line: line[0][by]) if by >= 0 else None
        lines = self._order.of(lines, figure, descending=not columns[by].left)
        rows = tuple((figures[0], cells) for figures, cells in lines)
        self.query_one(Grid).show(columns, rows, total, by)

    @property
    def _bare(self) -> str:
        """The name of the module under the cursor where it has no weights to open, else ""."""
        view = self.bench.selected_run
        if view is None or self.table != "quantization":
            return ""
        chosen = self.query_one(Grid).cursor_key
        latest = next((e for e in reversed(view.quantized) if e.module == chosen), None)
        return chosen if latest is not None and not _has_weights(latest) else ""

    # -- sorting -------------------------------------------------------------------------------

    def action_sort(self) -> None:
        grid = self.query_one(Grid)
        self._order.turn(grid.columns[i].title for i in grid.shown_columns)
        self._remember()
        by = self._order.by
        self.bench.show_message(f"tensors by {by}" if by else "tensors in their own order")

    def action_reverse(self) -> None:
        self._order.reversed = not self._order.reversed
        self._remember()

    def action_table(self) -> None:
        self._prefers = "sparsity" if self.table == "quantization" else "quantization"
        self._remember()

    def _remember(self) -> None:
        order = {"sort": self._order.by, "reversed": self._order.reversed}
        self.bench.remember("layers", {**order, "table": self._prefers})
        self.refresh_view()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        view = self.bench.selected_run
        match action:
            case "table":
                return view is not None and bool(view.quantized) and view.sparsity is not None
            case "open":
                return self.table is not None and not self._bare
            case "sort" | "reverse":
                return self.table is not None
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        if action == "open" and self._bare:
            return self._no_weights
        view = self.bench.selected_run
        if action == "table" and self.table is not None and view is not None:
            return f"{view.title} has one table only"
        return _nothing(view, self.bench.snapshot.complete) if self.table is None else ""

    @property
    def _no_weights(self) -> str:
        return f"{one_line(self._bare)} has no weights: there is no tensor to open"

    def on_grid_moved(self) -> None:
        self.refresh_bindings()

    def action_open(self) -> None:
        self.query_one(Grid).action_open()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        view = self.bench.selected_run
        if self._bare:
            self.bench.show_message(self._no_weights)
        elif view is not None:
            self.bench.open("tensor", key=view.key, tensor=event.key)


def _nothing(view: RunView | None, complete: bool) -> str:
    """Without the run's name: the same words for the next run are not painted again."""
    if view is None:
        return "No run yet: n starts one." if complete else ""
    finished = view.status == "finished"
    if view.kind == "quantize":
        return f"This run has quantized no module{'' if finished else ' yet'}."
    if not is_training(view):
        return "This run has no table: only trainings, pruning and quantize runs write one."
    if finished:
        return "This run has no table: it has finished without writing one."
    return "No table yet. A training writes one at each epoch, pruning one at each of its steps."


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _share(row: dict[str, Any]) -> float:
    """The share of zeros in [0, 1]."""
    return (_number(row, "fine") or 0.0) / 100


def _cells(row: dict[str, Any], share: float, was: float | None) -> tuple[Cell, ...]:
    shape = row.get("shape")
    sides = shape if isinstance(shape, list | tuple) else ()
    rows, cols = _number(row, "rows"), _number(row, "cols")
    return (
        Cell(one_line(str(row.get("name")))),
        Cell("×".join(one_line(side) for side in sides)),
        Cell(f"{_number(row, 'nnz') or 0:,.0f}"),
        Cell(f"{100 * share:5.1f}", share=share),
        _change(share, was),
        Cell(_fixed(_number(row, "abs_mean"))),
        Cell(_fixed(_number(row, "std"))),
        Cell("" if rows is None else f"{rows:.1f}"),
        Cell("" if cols is None else f"{cols:.1f}"),
    )


def _change(share: float, was: float | None) -> Cell:
    """Percentage points since the parent."""
    if was is None:
        return Cell()
    points = 100 * (share - was)
    if abs(points) < _NO_CHANGE:
        return Cell("·", tint="faint")
    return Cell(f"{points:+.1f}", tint="success" if points > 0 else "warning")


def _fixed(value: float | None) -> str:
    """A magnitude in so many digits that figures of one kind stand under each other."""
    if value is None:
        return ""
    return f"{value:.4f}" if 1e-3 <= value < 100 or value == 0 else f"{value:.1e}"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def _has_weights(event: ev.QuantResult) -> bool:
    settings = event.settings
    return settings.get("bits_weights") is not None or settings.get("kind") in _WEIGHTED


def _bits(settings: dict[str, Any]) -> str:
    """``w8 a8``, ``w4``, ``a8``, or the floats that the module computes in, such as ``fp16``."""
    precision = settings.get("precision")
    if precision is not None:
        return _FLOATS.get(str(precision), one_line(str(precision)))
    sides = (("w", settings.get("bits_weights")), ("a", settings.get("bits_activations")))
    return " ".join(f"{side}{bits}" for side, bits in sides if isinstance(bits, int))


def _figures_of(event: ev.QuantResult) -> tuple[Any, ...]:
    """A module's values under `_QUANTIZED`, to be sorted by; None where it has none."""
    settings = event.settings
    return (
        event.module,
        _bits(settings) or None,
        _number(settings, "output_scale"),
        _number(settings, "output_zero_point"),
        one_line(str(settings.get("clip_acts") or "")).lower() or None,
        one_line(short_mode(str(settings.get("mode") or ""))) or None,
        _decibels_of(settings.get("weight_sqnr")),
        event.sqnr,
    )


def _decibels_of(value: Any) -> float | None:
    """A ratio in dB; an event has the word for what JSON has no number for."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _quantized_cells(figures: tuple[Any, ...]) -> tuple[Cell, ...]:
    module, bits, scale, zero, clip, mode, weights, output = figures
    return (
        Cell(short_module(module)),
        Cell(bits or ""),
        Cell("" if scale is None else f"{scale:.4g}"),
        Cell("" if zero is None else f"{zero:.0f}"),
        Cell(clip or ""),
        Cell(mode or ""),
        Cell() if weights is None else _decibels(weights),
        _decibels(output),
    )


def _decibels(value: float | None) -> Cell:
    if value is None or math.isnan(value):
        return Cell("–")
    tint = "error" if value < _POOR_DB else "success" if value >= _GOOD_DB else ""
    text = f"{value:.1f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"
    return Cell(text, tint=tint)
