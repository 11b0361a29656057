"""The tables of the selected run's tensors: sparsity, live, and how modules were quantized."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from lmbench.session import events as ev
from lmbench.tui import figures
from lmbench.tui.watch import RunView, one_line
from lmbench.tui.widgets.grid import Cell, Column, Grid
from lmbench.tui.widgets.panel import Panel, put

__all__ = ["LayersPanel"]

Table = Literal["sparsity", "quantization"]

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
# Settings of a quantized module, in the order in which one asks for them; the rest follows.
_FIRST = ("bits", "bits_activations", "bits_weights", "scale", "zero_point", "clip", "mode")
_HIDDEN = ("type",)
_TITLES = {
    "zero_point": "zero",
    "bits_activations": "a bits",
    "bits_weights": "w bits",
    "clip_activations": "clip",
    "per_channel": "channels",
}
# Differences in percentage points and decibels that are worth a colour.
_NO_CHANGE = 0.05
_POOR_DB, _GOOD_DB = 20.0, 35.0


class LayersPanel(Panel):
    """Live while a run prunes."""

    TITLE = "Layers"
    HELP = """
Each tensor of the selected run: its shape, how many weights are not zero, its sparsity, the change
since the parent run in percentage points, and the mean magnitude. Tied weights stand once. During
pruning the table follows each step. Of a quantized run it shows bits, scale, zero point, clipping
and the signal-to-noise ratio (SQNR) of each module; **x** changes between the two tables.

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
    LayersPanel.-empty #nothing { display: block; }
    LayersPanel.-empty Grid { display: none; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._sort = ""
        self._reversed = False
        self._prefers: Table = "quantization"

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("", id="nothing", markup=False)

    def on_mount(self) -> None:
        kept = self.bench.recall("layers")
        if isinstance(kept, dict):
            self._sort = str(kept.get("sort", ""))
            self._reversed = kept.get("reversed") is True
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
        self.set_class(empty, "-empty")
        self.can_focus = empty
        if view is None or table is None:
            self.subtitle("")
            put(self.query_one("#nothing", Static), _nothing(view))
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
        rows = [(row, _share(row), earlier.get(row.get("name"))) for row in event.tensors]
        keys: list[tuple[Any, ...]] = [
            (
                str(row.get("name")),
                _number(row, "dense"),
                _number(row, "nnz"),
                share,
                share - was if was is not None else None,
                _number(row, "abs_mean"),
                _number(row, "std"),
                _number(row, "rows"),
                _number(row, "cols"),
            )
            for row, share, was in rows
        ]
        places = self._order([c.title for c in _SPARSITY], keys)
        shown = [(str(rows[i][0].get("name")), _cells(*rows[i])) for i in places]
        total = (
            Cell("total (tied once)"),
            Cell(_count(event.parameters)),
            Cell(f"{event.nonzero:,}"),
            Cell(f"{100 * event.total:5.1f}", share=event.total),
            _change(event.total, before.total if before else None),
            *(Cell(),) * 4,
        )
        self.query_one(Grid).show(_SPARSITY, tuple(shown), total, self._sorted(_SPARSITY))
        self.subtitle(f"{view.id} {view.name} · step {event.step:,}")

    def _show_quantization(self, view: RunView) -> None:
        latest = {event.module: event for event in view.quantized}
        events = list(latest.values())
        names = _settings_of(events)
        columns = (
            Column("module", 14, left=True, grow=2),
            *(
                Column(_TITLES.get(n, n.replace("_", " ")), _wide(n, events), rank=rank)
                for rank, n in enumerate(names)
            ),
            Column("SQNR dB", 7),
        )
        keys: list[tuple[Any, ...]] = [
            (e.module, *(_sortable(e.settings.get(n)) for n in names), e.sqnr) for e in events
        ]
        places = self._order([c.title for c in columns], keys)
        shown = []
        for event in (events[i] for i in places):
            values = (Cell(_said(event.settings.get(n))) for n in names)
            name = Cell(one_line(event.module))
            shown.append((event.module, (name, *values, _decibels(event.sqnr))))
        self.query_one(Grid).show(columns, tuple(shown), (), self._sorted(columns))
        self.subtitle(f"{view.id} {view.name} · {len(events)} modules")

    # -- sorting -------------------------------------------------------------------------------

    def _order(self, titles: list[str], keys: list[tuple[Any, ...]]) -> list[int]:
        """Places of the rows in the order that is asked for: as they come, or by a column, the
        largest first; what has no figure stands last."""
        places = list(range(len(keys)))
        if self._sort not in titles:
            return places[::-1] if self._reversed else places
        column = titles.index(self._sort)
        known = [i for i in places if keys[i][column] is not None]
        texts = any(isinstance(keys[i][column], str) for i in known)
        known.sort(key=lambda i: str(keys[i][column]) if texts else keys[i][column])
        if texts == self._reversed:
            known.reverse()
        return known + [i for i in places if keys[i][column] is None]

    def _sorted(self, columns: tuple[Column, ...]) -> int:
        titles = [column.title for column in columns]
        return titles.index(self._sort) if self._sort in titles else -1

    def action_sort(self) -> None:
        grid = self.query_one(Grid)
        shown = [i for i, _ in grid.layout_columns(grid.scrollable_content_region.width)]
        titles = ["", *(grid.columns[i].title for i in shown)]
        here = titles.index(self._sort) if self._sort in titles else 0
        self._sort = titles[(here + 1) % len(titles)]
        self._remember()
        self.bench.say(f"tensors by {self._sort}" if self._sort else "tensors in their own order")

    def action_reverse(self) -> None:
        self._reversed = not self._reversed
        self._remember()

    def action_table(self) -> None:
        self._prefers = "sparsity" if self.table == "quantization" else "quantization"
        self._remember()

    def _remember(self) -> None:
        kept = {"sort": self._sort, "reversed": self._reversed, "table": self._prefers}
        self.bench.remember("layers", kept)
        self.refresh_view()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        view = self.bench.selected_run
        match action:
            case "table":
                return view is not None and bool(view.quantized) and view.sparsity is not None
            case "open" | "sort" | "reverse":
                return self.table is not None
        return True

    def action_open(self) -> None:
        self.query_one(Grid).action_open()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        view = self.bench.selected_run
        if view is not None:
            self.bench.open("tensor", key=view.key, tensor=event.key)


def _nothing(view: RunView | None) -> str:
    if view is None:
        return "No run yet: n starts one."
    if view.kind == "quantize":
        return f"{view.id} {view.name} has quantized no module yet."
    return (
        f"No table of {view.id} {view.name} yet. A training writes one at each epoch, pruning one "
        "at each of its steps."
    )


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
        Cell("×".join(str(side) for side in sides)),
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


def _settings_of(events: list[ev.QuantResult]) -> list[str]:
    """The settings that any module has, those one asks for first in front."""
    found = dict.fromkeys(name for event in events for name in event.settings)
    known = [name for name in _FIRST if name in found]
    return known + [name for name in found if name not in (*_FIRST, *_HIDDEN)]


def _said(value: Any) -> str:
    """A setting in words; of one value per channel, the least and the greatest."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        numbers = [v for v in value if isinstance(v, int | float)]
        if len(numbers) != len(value) or not numbers:
            return ", ".join(_said(item) for item in value)
        if len(numbers) == 1:
            return _said(numbers[0])
        return f"{min(numbers):.3g}…{max(numbers):.3g}"
    if isinstance(value, dict):
        return " ".join(f"{key}={_said(item)}" for key, item in value.items())
    return one_line(str(value))


def _sortable(value: Any) -> Any:
    return value if isinstance(value, int | float | None) else _said(value)


def _wide(name: str, events: list[ev.QuantResult]) -> int:
    title = _TITLES.get(name, name.replace("_", " "))
    longest = max((len(_said(event.settings.get(name))) for event in events), default=0)
    return min(max(len(title), longest), 20)


def _decibels(value: float | None) -> Cell:
    if value is None:
        return Cell("–")
    tint = "error" if value < _POOR_DB else "success" if value >= _GOOD_DB else ""
    return Cell(figures.short(value) if not math.isfinite(value) else f"{value:.1f}", tint=tint)
