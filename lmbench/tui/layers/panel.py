"""The tables of the selected run's tensors: sparsity, live, quantized modules, or a file's."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual import on
from textual.binding import Binding, BindingType

from lmbench.printable import one_line
from lmbench.report.numbers import plural
from lmbench.tui.bench.float_model_run import is_training
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.grid import Grid, GridPanel
from lmbench.tui.kit.sort_order import SortOrder
from lmbench.tui.layers.tables import (
    Table,
    has_weights,
    packed_table,
    packed_tensors,
    quantized_table,
    sparsity_table,
)

__all__ = ["LayersPanel"]

_Kind = Literal["sparsity", "quantization", "packed"]


class LayersPanel(GridPanel):
    """Live while a run prunes."""

    TITLE = "Layers"
    HELP = """
Each tensor of the selected run: its shape, how many weights are not zero, its sparsity, the change
since the parent run in percentage points, and the mean magnitude of all weights, zeros too. Tied
weights stand once. During pruning the table follows each step. Of a quantized run it shows of each
module the bits of weights and activations, scale, zero point and clipping of its output, and the
signal-to-quantization-noise ratio (SQNR, in dB) of its output and of its weights; **x** changes
between the two tables. Of a packed run it shows how its file holds each tensor, in how many bytes,
and how much smaller that is than fp32.

**t** sorts by the next column, **T** turns the order round. **Enter** opens one tensor (of a packed
run none): the distribution of its weights, its gates, its sparsity over time.
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

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._order = SortOrder()
        self._prefers: _Kind = "quantization"

    def on_mount(self) -> None:
        kept = self.bench.recall("layers")
        if isinstance(kept, dict):
            self._order = SortOrder(str(kept.get("sort", "")), kept.get("reversed") is True)
            self._prefers = "sparsity" if kept.get("table") == "sparsity" else "quantization"

    # -- what is shown -------------------------------------------------------------------------

    @property
    def table(self) -> _Kind | None:
        """Which table the selected run has, and is shown; None for none."""
        view = self.bench.selected_run
        has: list[_Kind] = []
        if view is not None and view.quantized:
            has.append("quantization")
        if view is not None and view.sparsity is not None:
            has.append("sparsity")
        if view is not None and packed_tensors(view.record):
            has.append("packed")
        return self._prefers if self._prefers in has else next(iter(has), None)

    def refresh_view(self) -> None:
        view, table = self.bench.selected_run, self.table
        if view is None or table is None:
            self.show_grid(False, _nothing(view, self.bench.snapshot.complete))
            self.set_subtitle("")
        elif table == "sparsity":
            assert view.sparsity is not None
            parent = self.bench.snapshot.run(view.parent or "")
            self._show(sparsity_table(view.sparsity, parent.sparsity if parent else None))
            self.set_subtitle(f"{view.title} · step {view.sparsity.step:,}")
        elif table == "quantization":
            shown = quantized_table(view.quantized)
            self._show(shown)
            self.set_subtitle(f"{view.title} · {plural(len(shown.lines), 'module')}")
        else:
            assert view.record is not None
            self._show(packed_table(view.record))
            self.set_subtitle(view.title)
        self.refresh_bindings()

    def _show(self, table: Table) -> None:
        """In the order that is asked for: as they come, or by a column, the largest first."""
        self.show_grid(True)
        columns = table.columns
        titles = [column.title for column in columns]
        by = titles.index(self._order.by) if self._order.by in titles else -1
        figure = (lambda line: line[0][by]) if by >= 0 else None
        lines = self._order.of(table.lines, figure, descending=not columns[by].left)
        rows = tuple((figures[0], cells) for figures, cells in lines)
        self.query_one(Grid).show(columns, rows, table.total, by)

    @property
    def _bare(self) -> str:
        """The name of the module under the cursor where it has no weights to open, else ""."""
        view = self.bench.selected_run
        if view is None or self.table != "quantization":
            return ""
        chosen = self.query_one(Grid).cursor_key
        latest = next((e for e in reversed(view.quantized) if e.module == chosen), None)
        return chosen if latest is not None and not has_weights(latest) else ""

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
                return self.table not in (None, "packed") and not self._bare
            case "sort" | "reverse":
                return self.table is not None
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        if action == "open" and self._bare:
            return self._no_weights
        view = self.bench.selected_run
        if action == "open" and self.table == "packed" and view is not None:
            return f"{view.title} is a file: open a tensor in the run that was packed"
        if action == "table" and self.table is not None and view is not None:
            return f"{view.title} has one table only"
        return _nothing(view, self.bench.snapshot.complete) if self.table is None else ""

    @property
    def _no_weights(self) -> str:
        return f"{one_line(self._bare)} has no weights: there is no tensor to open"

    def on_grid_moved(self) -> None:
        self.refresh_bindings()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        view = self.bench.selected_run
        if not self.check_action("open", ()):
            self.bench.show_message(self.why_not("open", ()))
        elif view is not None:
            self.bench.open("tensor", key=view.key, tensor=event.key)


def _nothing(view: RunView | None, complete: bool) -> str:
    """Without the run's name: the same words for the next run are not painted again."""
    if view is None:
        return "No run yet: n starts one." if complete else ""
    finished = view.status == "finished"
    if view.kind == "quantize":
        return f"This run has quantized no module{'' if finished else ' yet'}."
    if view.kind == "pack":
        return f"This run has written no file{'' if finished else ' yet'}."
    if not is_training(view):
        return "This run has no table: only trainings, prune, quantize and pack runs write one."
    if finished:
        return "This run has no table: it has finished without writing one."
    return "No table yet. A training writes one at each epoch, pruning one at each of its steps."
