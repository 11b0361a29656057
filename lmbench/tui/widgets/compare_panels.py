"""The two panels of comparing: the table, and perplexity against size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from lmbench.report.draw import Look, draw
from lmbench.tui.widgets.grid import Column, Grid
from lmbench.tui.widgets.panel import Panel, put

if TYPE_CHECKING:
    from lmbench.tui.screens.compare import CompareScreen

__all__ = ["KEYS", "ScatterPanel", "TablePanel", "folder_of", "number_of"]

_TABLE = (
    Column("run", 16, left=True, grow=3),
    Column("kind", 8, left=True, rank=4),
    Column("sparsity", 8, rank=2),
    Column("nonzero", 10, rank=3),
    Column("valid", 7),
    Column("test", 7),
    Column("size", 8),
    Column("ms/token", 8, rank=1),
)
KEYS = ("run", "kind", "sparsity", "nonzero", "valid_ppl", "test_ppl", "bytes", "ms_per_token")
"""The columns' names in `report.compare`."""


def folder_of(row: dict[str, Any]) -> str:
    """The run's folder."""
    return str(row["run"]).rpartition("/")[2]


def number_of(row: dict[str, Any]) -> int:
    return int(folder_of(row).partition("-")[0])


class _ComparePanel(Panel):
    @property
    def compare(self) -> CompareScreen:
        from lmbench.tui.screens.compare import CompareScreen

        assert isinstance(self.screen, CompareScreen)
        return self.screen


class TablePanel(_ComparePanel):
    """The table, in the order that is asked for."""

    TITLE = "Compare"
    HELP = """
The marked runs (**Space** marks in the list of runs), or, with fewer than two marked, all that have
a model; **a** changes between the two. Perplexities of valid and test, sparsity and non-zero
parameters with tied weights counted once, the bytes of the model's file (with ≈ those that a
quantize run, itself a simulation in floats, would have packed), and the milliseconds a token that a
benchmark on this machine has found (**b** queues one for runs without): in fp32 for trained and
pruned runs, on the packed integers for packed ones. What is quantized but not packed has none.

**t** sorts by the next column, **T** turns the order round. **e** writes the table as Markdown,
CSV, LaTeX or HTML, or the plot as SVG. **Enter** goes to the run.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "go to run", id="compare.open", tooltip="Select the run"),
        Binding("t", "sort", "sort", id="compare.sort", tooltip="Sort by the next column"),
        Binding("T", "reverse", "reverse", id="compare.reverse", tooltip="Reverse the order"),
    ]
    DEFAULT_CSS = """
    TablePanel #nothing { display: none; height: 1fr; padding: 0 1; color: $text-muted; }
    TablePanel.-empty #nothing { display: block; }
    TablePanel.-empty Grid { display: none; }
    """

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("No run has a model yet: Esc, then n starts one.", id="nothing", markup=False)

    def refresh_view(self) -> None:
        screen = self.compare
        screen.catch_up()
        rows = screen.rows
        self.set_class(not rows, "-empty")
        self.can_focus = not rows
        shown = tuple((folder_of(row), screen.cells(row)) for row in rows)
        titles = list(KEYS)
        by = titles.index(screen.sort) if screen.sort in titles else -1
        self.query_one(Grid).show(_TABLE, shown, (), by)
        self.subtitle(f"{len(rows)} {'marked runs' if screen.of_marked else 'runs with a model'}")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.compare.rows)

    def action_open(self) -> None:
        self.query_one(Grid).action_open()

    def action_sort(self) -> None:
        grid = self.query_one(Grid)
        shown = [i for i, _ in grid.layout_columns(grid.scrollable_content_region.width)]
        self.compare.sort_by_next([KEYS[i] for i in shown])

    def action_reverse(self) -> None:
        self.compare.reverse()


class ScatterPanel(_ComparePanel, can_focus=True):
    """Perplexity against size, with the Pareto front."""

    TITLE = "Perplexity by size"
    HELP = """
Each run at its size (a quantize run at the one that it would have packed) and its perplexity; down
and to the left is better. The thin line is the Pareto front: no run is both smaller and better than
one on it. **x** changes between test and valid, **y** between a logarithmic and a linear axis.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "split", "test/valid", id="compare.split", tooltip="Test or valid perplexity"),
        Binding("y", "log", "log", id="compare.log", tooltip="Logarithmic or linear"),
    ]

    def compose(self) -> ComposeResult:
        yield Static("", id="picture")

    def on_resize(self) -> None:
        self.refresh_view()

    def refresh_view(self) -> None:
        screen = self.compare
        size, picture = self.content_size, self.query_one(Static)
        plot = screen.plot()
        if not plot.series:
            words = "Runs with a score and a size come here: none has both yet."
            put(picture, Text(words, "dim"))
            return
        look = Look(
            self.bench.colour("foreground-muted"),
            self.bench.colour("accent"),
            self.bench.colour("error"),
        )
        put(picture, Text("\n").join(draw(plot, size.width, size.height, look).lines))
        front = ", ".join(str(number_of(row)) for row in screen.front())
        self.subtitle(f"{screen.split} perplexity by {screen.size_words} · front: {front}")

    def action_split(self) -> None:
        screen = self.compare
        screen.look_at(split="valid" if screen.split == "test" else "test")

    def action_log(self) -> None:
        screen = self.compare
        screen.look_at(log=not screen.log_axis)
