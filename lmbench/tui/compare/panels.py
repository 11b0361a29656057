"""The two panels of comparing: the table, and perplexity against size."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from lmbench.report.numbers import plural
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.tui.compare.selection import Compared, Table, folder_of
from lmbench.tui.kit.grid import Column, Grid, GridPanel
from lmbench.tui.kit.panel import Panel, PicturePanel, update_static

__all__ = ["ComparePanel", "ScatterPanel", "TablePanel"]

_TABLES: dict[Table, tuple[tuple[str, Column], ...]] = {
    "runs": (
        ("run", Column("run", 16, left=True, grow=3, most=40)),
        ("kind", Column("kind", 8, left=True, rank=4)),
        ("sparsity", Column("sparsity", 8, rank=2)),
        ("nonzero", Column("nonzero", 10, rank=3)),
        ("valid_ppl", Column("valid", 7)),
        ("test_ppl", Column("test", 7)),
        ("bytes", Column("size", 8)),
        ("ms_per_token", Column("ms/token", 8, rank=1)),
    ),
    "runtimes": (
        ("model", Column("run", 14, left=True, grow=3, most=40)),
        ("runtime", Column("runtime", 11, left=True)),
        ("disk", Column("disk", 7)),
        ("numbers", Column("weights", 7, rank=1)),
        ("peak", Column("peak", 7)),
        ("ms", Column("ms/token", 8)),
        ("ms_p95", Column("p95", 7, rank=3)),
        ("step_vs_naive", Column("x naive", 7, rank=4)),
        ("step_vs_fp32", Column("x fp32", 6, rank=1)),
        ("tokens_per_s", Column("tokens/s", 9)),
        ("score_vs_naive", Column("x naive", 7, rank=5)),
        ("score_vs_fp32", Column("x fp32", 6, rank=2)),
        ("ppl", Column("ppl", 7)),
        ("tokens", Column("ppl of", 7, rank=6)),
    ),
}
"""For each table its columns, by their names in `report.compare` and `report.runtime_table`."""

_ADAPTED = (
    ("test_cache_ppl", Column("cache", 7)),
    ("test_dynamic_ppl", Column("dynamic", 7)),
    ("test_cache_dynamic_ppl", Column("both", 7)),
)
"""After the perplexity on test, where a run has been evaluated so."""


class ComparePanel(Panel):
    """Shows a `Compared`, and posts `Turned` when it has turned it round."""

    class Turned(Message):
        """It is to be looked at otherwise."""

    def __init__(self, compared: Compared, id: str) -> None:
        super().__init__(id=id)
        self.compared = compared


class TablePanel(ComparePanel, GridPanel):
    """The table, in the order that is asked for."""

    TITLE = "Compare"
    HELP = """
The marked runs (**Space** marks in the list of runs), or, with fewer than two marked, all that have
a model; **a** changes between the two. The columns: perplexity on valid and test; sparsity and
non-zero parameters, tied weights counted once; the size of the model's file (≈ the size that it
would have packed, where a run stores each number as a float); and milliseconds a token, as a
benchmark on this machine measured them: in fp32 for trained and pruned runs, with integers for
packed ones. A quantized run has none before it is packed. **b** queues a benchmark of each run that
was not measured or has changed since (it asks first where these are more than four that are not
marked); if there is none, of the run under the cursor.

**v** has the marked runs evaluated in the background, or the one under the cursor where all runs
are compared: with a neural cache, by dynamic evaluation, or both, their settings tuned on the start
of valid. What they come to on test is in columns of its own (cache, dynamic, both), which are there
when a run has such a figure. A packed run takes the cache alone: integers cannot follow a text, nor
can weights that were trained on a grid.

**r** shows the benchmarks instead, a line for each run in each runtime: file size, the weights'
size in memory, peak memory, milliseconds a token (the median; p95 where there is room), tokens a
second when evaluating, and the perplexity in that runtime. Behind each of the two speeds stands how
many times that of torch's own layers it is (**x naive**), and that of the best dense fp32 runtime
(**x fp32**). The frame's foot names the text that it was measured on: by default the
start of test, so it differs from the perplexity on all of test in the table of runs. Coloured is
the fastest runtime of each run whose perplexity is within 0.1% of an exact one's.

**t** sorts by the next column, **T** turns the order round. **x** changes the plot between test and
valid, **y** between a logarithmic and a linear axis. **e** writes the table as Markdown, CSV, LaTeX
or HTML, or the plot as SVG. **Enter** goes to the run.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "go to run", id="compare.open", tooltip="Select the run"),
        Binding(
            "t", "sort", "sort", id="compare.sort", key_display="t T",
            tooltip="Sort by the next column",
        ),
        Binding(
            "T", "reverse", "reverse", id="compare.reverse", show=False,
            tooltip="Reverse the order",
        ),
    ]  # fmt: skip

    def refresh_view(self) -> None:
        compared, grid = self.compared, self.query_one(Grid)
        rows = compared.rows()
        self.show_grid(bool(rows), compared.invitation)
        names = [name for name, _ in self._columns]
        by = compared.order.by
        sorted_by = names.index(by) if by in names else -1
        self._stay_on_the_run(grid, [key for key, _ in rows])
        grid.show(tuple(c for _, c in self._columns), rows, (), sorted_by)
        runs = len(compared.runs.rows)
        of_all = f"{plural(runs, 'run')} with a model"
        words = [plural(runs, "marked run") if compared.of_marked else of_all]
        if compared.table == "runtimes":
            words += [plural(len(rows), "runtime"), compared.scored_words]
        # Of a session that is still read the figures are not those of all.
        words[0] = compared.reading or words[0]
        self.set_subtitle(" · ".join(filter(None, words)))
        self.refresh_bindings()

    @property
    def _columns(self) -> tuple[tuple[str, Column], ...]:
        columns = _TABLES[self.compared.table]
        if self.compared.table == "runtimes":
            return columns
        shown = self.compared.adapted
        return (*columns[:6], *(c for c in _ADAPTED if c[0] in shown), *columns[6:])

    def _stay_on_the_run(self, grid: Grid, keys: list[str]) -> None:
        """In the other table the cursor stands on the same run."""
        if grid.cursor_key not in keys:
            same = (key for key in keys if folder_of(key) == folder_of(grid.cursor_key))
            grid.cursor_key = next(same, grid.cursor_key)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.compared.shown.rows)

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        return "the table has no lines"

    def action_sort(self) -> None:
        names = [name for name, _ in self._columns]
        self.compared.order.turn(names[i] for i in self.query_one(Grid).shown_columns)
        self.bench.show_message(self.compared.order_words)
        self.post_message(self.Turned())

    def action_reverse(self) -> None:
        order = self.compared.order
        order.reversed = not order.reversed
        self.bench.show_message(self.compared.order_words)
        self.post_message(self.Turned())


class ScatterPanel(ComparePanel, PicturePanel, can_focus=True):
    """Perplexity against size, with the Pareto front."""

    TITLE = "Perplexity by size"
    HELP = """
Size and perplexity of each run (a quantize run has the size that it would have packed); down and to
the left is better. The thin line is the Pareto front: no run is both smaller and better than one on
it. **x** changes between test and valid, **y** between a logarithmic and a linear axis.
"""

    def refresh_view(self) -> None:
        compared = self.compared
        size, picture = self.content_size, self.query_one(Static)
        plot = compared.plot(self.bench.colour)
        if not plot.series:
            self.set_subtitle("")
            words = "Runs with a score and a size come here: none has both yet."
            update_static(picture, Text("" if compared.reading else words, "dim"))
            return
        look = replace(self.bench.plot_colours, faint=self.bench.colour("accent"))
        update_static(picture, Text("\n").join(draw(plot, size.width, size.height, look).lines))
        by, front = plot.x_axis, compared.front_words
        self.set_subtitle(f"{compared.split} perplexity by {by} · front: {front}")
