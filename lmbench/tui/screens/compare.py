"""Runs side by side: the published-style table over perplexity against size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from lmbench.report.compare import (
    COLUMNS,
    MEASURABLE,
    Comparison,
    Format,
    compare_runs,
    pareto_front,
)
from lmbench.report.plots import Plot
from lmbench.report.series import Series
from lmbench.report.tables import size_sign
from lmbench.session.files import write_atomic
from lmbench.tui import figures
from lmbench.tui.marks import mark_of
from lmbench.tui.screens.base import BenchScreen
from lmbench.tui.watch import RunView
from lmbench.tui.widgets.compare_panels import (
    KEYS,
    ScatterPanel,
    TablePanel,
    folder_of,
    number_of,
)
from lmbench.tui.widgets.dialog import AskText
from lmbench.tui.widgets.grid import Cell, Grid
from lmbench.tui.widgets.panel import Panel
from lmbench.tui.widgets.pick import Pick
from lmbench.tui.widgets.status import KeyBar, StatusBar, TopBar

__all__ = ["CompareScreen"]

_KINDS = ("train", "prune", "quantize", "pack")
_FORMATS: dict[str, tuple[str, str]] = {
    "markdown": (".md", "the table, for documents and issues"),
    "csv": (".csv", "the table, every digit"),
    "latex": (".tex", "the table as a tabular"),
    "html": (".html", "the table, for a page"),
    "svg": (".svg", "the plot, as a picture"),
}
_MARGIN = 0.06


class CompareScreen(BenchScreen[None]):
    """Opened by `c`."""

    HELP = TablePanel.HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "export", "export", id="compare.export", tooltip="Write table or plot"),
        Binding("a", "all", "marked/all", id="compare.all", tooltip="The marked runs, or all"),
        Binding(
            "b", "benchmark", "benchmark", id="compare.benchmark",
            tooltip="Measure ms a token of the runs that have none",
        ),
        Binding("tab", "go", "next panel", id="compare.next", show=False),
        Binding("shift+tab", "go", "previous panel", id="compare.previous", show=False),
        Binding("escape", "back", "back", id="compare.back", tooltip="Back to the runs"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    CompareScreen #compare { height: 1fr; layout: vertical; }
    CompareScreen TablePanel { height: 2fr; }
    CompareScreen ScatterPanel { height: 3fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._comparison = Comparison(())
        self._known: tuple[Any, ...] = ()
        self._all = False
        self.sort = ""
        self._reversed = False
        self.split = "test"
        self.log_axis = False

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="compare"):
            yield TablePanel(id="table")
            yield ScatterPanel(id="scatter")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        kept = self.bench.recall("compare")
        if isinstance(kept, dict):
            self.sort = str(kept.get("sort", ""))
            self._reversed = kept.get("reversed") is True
            self.split = "valid" if kept.get("split") == "valid" else "test"
            self.log_axis = kept.get("log") is True
        self.query_one(TablePanel).take_focus()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def of_marked(self) -> bool:
        return len(self.bench.marked) > 1 and not self._all

    @property
    def views(self) -> tuple[RunView, ...]:
        """The runs that are compared."""
        runs = self.bench.snapshot.runs
        if self.of_marked:
            runs = tuple(view for view in runs if view.key in self.bench.marked)
        else:
            runs = tuple(view for view in runs if view.kind in _KINDS)
        return tuple(view for view in runs if view.record is not None)

    def catch_up(self) -> None:
        """Read the runs anew, in a thread, where something is new."""
        known = tuple(view.record for view in self.views)
        known += tuple(v.record for v in self.bench.snapshot.runs if v.kind == "benchmark")
        if known != self._known:
            self._known = known
            self.run_worker(self._read(), group="compare", exclusive=True, exit_on_error=False)

    async def _read(self) -> None:
        runs = [view.run for view in self.views]
        found = await self.bench.do(compare_runs, runs, doing="while comparing runs")
        if found is not None:
            self._comparison = found
            self._show()

    def _show(self) -> None:
        for panel in self.query(Panel):
            panel.refresh_view()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table's rows in the order that is asked for; what has no figure stands last."""
        rows = list(self._comparison.rows)
        if self.sort not in KEYS:
            return rows[::-1] if self._reversed else rows
        known = [row for row in rows if row.get(self.sort) is not None]
        known.sort(key=lambda row: row[self.sort], reverse=self._reversed)
        return known + [row for row in rows if row.get(self.sort) is None]

    def cells(self, row: dict[str, Any]) -> tuple[Cell, ...]:
        number = number_of(row)
        mark, nonzero, ms = mark_of(number), row["nonzero"], row["ms_per_token"]
        best = folder_of(row) in {folder_of(other) for other in self.front()}
        return (
            Cell(f"{mark.marker} {number} {row['name']}", mark.variable),
            Cell(row["kind"]),
            Cell(figures.percent(row["sparsity"])),
            Cell("" if nonzero is None else f"{nonzero:,}"),
            Cell(figures.perplexity(row["valid_ppl"])),
            Cell(figures.perplexity(row["test_ppl"]), "success" if best else ""),
            Cell(size_sign(row["kind"]) * bool(row["bytes"]) + figures.size(row["bytes"])),
            Cell("" if ms is None else f"{ms:.2f}"),
        )

    def _points(self) -> list[tuple[dict[str, Any], tuple[float, float]]]:
        key = f"{self.split}_ppl"
        return [
            (row, (float(row["bytes"]), float(row[key])))
            for row in self._comparison.rows
            if row["bytes"] and row[key] is not None
        ]

    def front(self) -> list[dict[str, Any]]:
        """The rows on the Pareto front, the smallest first."""
        points = self._points()
        return [points[i][0] for i in pareto_front([point for _, point in points])]

    def plot(self) -> Plot:
        """The scatter plot as it is looked at now."""
        points = self._points()
        series = []
        for row, (size, ppl) in points:
            number = number_of(row)
            mark, label = mark_of(number), f"{number} {row['name']}"
            at, colour = np.array([size]), self.bench.colour(mark.variable)
            series.append(Series(label, at, np.array([ppl]), mark.marker, colour, "points"))
        front = pareto_front([point for _, point in points])
        if len(front) > 1:
            x, y = np.array([points[i][1] for i in front]).T
            series.append(Series("Pareto front", x, y, style="thin"))
        sizes = [size for _, (size, _) in points] or [0.0, 1.0]
        room = (max(sizes) - min(sizes)) * _MARGIN or 0.5 * max(sizes)
        window = (max(min(sizes) - room, 0.0), max(sizes) + room)
        return Plot(tuple(series), x_axis=self.size_words, log=self.log_axis, window=window)

    @property
    def size_words(self) -> str:
        """What the sizes of the scatter plot are."""
        simulated = any(size_sign(row["kind"]) for row, _ in self._points())
        return "bytes (quantized: as packed)" if simulated else "bytes"

    def look_at(self, *, split: str | None = None, log: bool | None = None) -> None:
        self.split = self.split if split is None else split
        self.log_axis = self.log_axis if log is None else log
        self._remember()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "export":
                return bool(self._comparison.rows)
            case "all":
                return len(self.bench.marked) > 1
            case "benchmark":
                return bool(self._unmeasured) and not self.bench.demo
        return True

    def action_back(self) -> None:
        self.dismiss(None)

    def action_go(self) -> None:
        table = self.query_one(TablePanel)
        (self.query_one(ScatterPanel) if table.has_focus_within else table).take_focus()

    def action_all(self) -> None:
        self._all = not self._all
        self._show()

    def sort_by_next(self, shown: list[str]) -> None:
        names = ["", *shown]
        here = names.index(self.sort) if self.sort in names else 0
        self.sort = names[(here + 1) % len(names)]
        words = dict(COLUMNS).get(self.sort, "").lower()
        self.bench.say(f"sorted by {words}" if words else "in the order of the runs")
        self._remember()

    def reverse(self) -> None:
        self._reversed = not self._reversed
        self._remember()

    def _remember(self) -> None:
        kept = {"sort": self.sort, "reversed": self._reversed}
        self.bench.remember("compare", {**kept, "split": self.split, "log": self.log_axis})
        self._show()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        self.bench.select(event.key)
        self.dismiss(None)

    @property
    def _unmeasured(self) -> list[RunView]:
        """Runs with a model whose speed no benchmark has measured, or is about to."""
        waiting = {
            view.parent
            for view in self.bench.snapshot.runs
            if view.kind == "benchmark" and view.status in ("queued", "running")
        }
        without = {folder_of(row) for row in self._comparison.rows if row["ms_per_token"] is None}
        return [
            view
            for view in self.views
            if view.key in without - waiting
            and view.status == "finished"
            and view.kind in MEASURABLE
        ]

    async def action_benchmark(self) -> None:
        """Queue a benchmark of each run that has no ms a token yet."""
        runs = self._unmeasured
        done = await self.bench.do(_benchmark, runs, doing="while queueing benchmarks")
        if done:
            waits = "benchmark waits" if done == 1 else "benchmarks wait"
            self.bench.say(f"{done} {waits} for the device")
            await self.bench.look()

    def action_export(self) -> None:
        offered = [(form, about) for form, (_, about) in _FORMATS.items()]
        self.app.push_screen(Pick("Export as", offered), self._ask_path)

    def _ask_path(self, form: str | None) -> None:
        if form is None:
            return
        suffix = _FORMATS[form][0]
        name = self.bench.session.name if self.bench.session else "session"

        def check(text: str) -> str:
            path = Path(text).expanduser()
            if path.suffix != suffix:
                return f"The name of a {form} file ends in {suffix}"
            if path.exists():
                return f"{path.name} is there already: take another name"
            return "" if path.parent.is_dir() else f"There is no folder {path.parent}"

        def done(text: str | None) -> None:
            if text:
                self.run_worker(self._export(form, Path(text).expanduser()), exit_on_error=False)

        question = "Write it to this file:"
        value = f"{name.replace(' ', '-')}-compared{suffix}"
        self.app.push_screen(AskText("Export", question, value, check), done)

    async def _export(self, form: str, path: Path) -> None:
        await self.bench.do(self._write, form, path, doing="while exporting")
        if path.exists():
            self.bench.say(f"wrote {path}")

    def _write(self, form: str, path: Path) -> None:
        from lmbench.report.export import export

        if form == "svg":
            export(self.plot(), path, f"{self.split.capitalize()} perplexity against size")
            return
        forms: dict[str, Format] = {
            "markdown": "markdown", "csv": "csv", "latex": "latex", "html": "html",
        }  # fmt: skip
        write_atomic(path, Comparison(tuple(self.rows)).write(forms[form]).encode())


def _benchmark(views: list[RunView]) -> int:
    """In a thread: make and start a benchmark of each run."""
    from lmbench.config import BenchmarkConfig
    from lmbench.jobs import launch
    from lmbench.jobs.prepare import command_for

    for view in views:
        command = command_for("benchmark", {}, parent=view.run.ref)
        run = view.run.session.new_run(
            BenchmarkConfig(), "benchmark", name=f"{view.id} speed", parent=view.run,
            command=command,
        )  # fmt: skip
        launch.start(run)
    return len(views)
