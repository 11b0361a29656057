"""Runs side by side: the published-style table over perplexity against size."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import ScreenResume

from lmbench.report.compare import MEASURABLE, Comparison, Format, compare_runs, compare_runtimes
from lmbench.report.numbers import plural
from lmbench.session import Run
from lmbench.session.files import write_atomic
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.compare.measuring import (
    WAYS,
    LeftOut,
    divide,
    numbers_of,
    queue_benchmarks,
    queue_evaluations,
    queued_words,
    reasons,
)
from lmbench.tui.compare.panels import ComparePanel, ScatterPanel, TablePanel
from lmbench.tui.compare.selection import Compared, folder_of
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.dialog import Answer, QuestionDialog, ask_for_file
from lmbench.tui.kit.grid import Grid
from lmbench.tui.kit.next_steps import RECORDING
from lmbench.tui.kit.panel import Panel
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, TopBar

__all__ = ["CompareScreen"]

# So many benchmarks of runs that nobody marked are queued without a question.
_FEW = 4
_KINDS = ("train", "prune", "quantize", "pack")
_Format = Format | Literal["svg"]
_FORMATS: dict[_Format, tuple[str, str]] = {
    "markdown": (".md", "the table, for documents and issues"),
    "csv": (".csv", "the table, every digit"),
    "latex": (".tex", "the table as a tabular"),
    "html": (".html", "the table, for a page"),
    "svg": (".svg", "the plot, as a picture"),
}


class CompareScreen(BenchScreen[None]):
    """Opened by `c`."""

    HELP = TablePanel.HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r", "runtimes", "runtimes", id="compare.runtimes",
            tooltip="The runs, or what each runtime measured",
        ),
        Binding("e", "export", "export", id="compare.export", tooltip="Write table or plot"),
        Binding("a", "all", "marked/all", id="compare.all", tooltip="The marked runs, or all"),
        Binding(
            "b", "benchmark", "benchmark", id="compare.benchmark",
            tooltip="Measure runs without figures or changed since, else this one again",
        ),
        Binding(
            "v", "evaluate", "evaluate", id="compare.evaluate",
            tooltip="Evaluate with a cache or steps: the marked runs, or this one",
        ),
        Binding(
            "tab", "go(1)", "next panel", id="compare.next", show=False, tooltip="The next panel"
        ),
        Binding(
            "shift+tab", "go(-1)", "previous panel", id="compare.previous", show=False,
            tooltip="The panel before",
        ),
        Binding("x", "split", "test/valid", id="compare.split", tooltip="Test or valid perplexity"),
        Binding("y", "log", "log", id="compare.log", tooltip="Logarithmic or linear"),
        Binding("escape", "dismiss", "back", id="compare.back", tooltip="Back to the runs"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    CompareScreen #compare { height: 1fr; layout: vertical; }
    CompareScreen TablePanel { height: 2fr; }
    CompareScreen ScatterPanel { height: 3fr; }
    CompareScreen.-runtimes TablePanel { height: 3fr; }
    CompareScreen.-runtimes ScatterPanel { height: 2fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.compared = Compared()
        self._known: tuple[Any, ...] | None = None
        self._all = False

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="compare"):
            yield TablePanel(self.compared, id="table")
            yield ScatterPanel(self.compared, id="scatter")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        self.compared.recall(self.bench.recall("compare"))
        for name in ("snapshot", "marked"):
            self.watch(self.app, name, self._catch_up_in_front, init=False)
        self.query_one(Grid).cursor_key = self.bench.selected
        self.query_one(TablePanel).take_focus()

    def on_screen_resume(self, event: ScreenResume) -> None:
        self.refresh_if_stale()

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
            runs = tuple(view for view in runs if view.kind in _KINDS and view.has_model)
        return tuple(view for view in runs if view.record is not None)

    def _catch_up_in_front(self) -> None:
        if self.is_active:
            self.refresh_if_stale()

    def refresh_if_stale(self) -> None:
        """Read the runs anew, in a thread, where something is new."""
        known = tuple(view.record for view in self.views)
        known += tuple((v.record, v.status) for v in self._measurements)
        if known != self._known:
            self._known = known
            self.bench.start_work(self._read(), owner=self, group="compare", exclusive=True)
        if self.compared.reading != self._reading:
            self._show()

    async def _read(self) -> None:
        runs = [view.run for view in self.views]
        found = await self.bench.run_in_thread(_compare, runs, doing="while comparing runs")
        if found is not None:
            self.compared.runs, self.compared.runtimes = found
            self._show()

    def _show(self) -> None:
        self.compared.of_marked = self.of_marked
        self.compared.reading = self._reading
        self.compared.invitation = self._invitation()
        self.set_class(self.compared.table == "runtimes", "-runtimes")
        for panel in self.query(Panel):
            panel.refresh_view()
        self.refresh_bindings()

    @property
    def _reading(self) -> str:
        """How many of the session's runs are read; "" where all are."""
        snapshot = self.bench.snapshot
        if not snapshot.reading:
            return ""
        return f"reading {snapshot.count - snapshot.unread} of {plural(snapshot.count, 'run')}"

    def _invitation(self) -> str:
        if not self.compared.runs.rows:
            why = self._reading or self.bench.snapshot.problem
            return why or "No run has a model yet: Esc, then n starts one."
        if self._awaited:
            return "A benchmark is on its way: its lines come when it is done."
        if self.bench.demo:
            return "Nothing was benchmarked in this recording."
        if self._due:
            return "Nothing was benchmarked on this machine yet: b measures each in its runtimes."
        return "Only runs that were trained, pruned or packed are benchmarked: none is done here."

    @on(ComparePanel.Turned)
    def _turned(self) -> None:
        self.bench.remember("compare", self.compared.to_json())
        self._show()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "export" | "split" | "log":
                return bool(self.compared.runs.rows)
            case "runtimes":
                return bool(self.compared.runs.rows) or self.compared.table == "runtimes"
            case "all":
                return len(self.bench.marked) > 1
            case "benchmark" | "evaluate":
                return bool(self.compared.runs.rows) and not self.bench.demo
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action, where its words do not say so."""
        if action == "all":
            return "mark two runs or more first: space, in the list of runs"
        none = "" if self.compared.runs.rows else self._reading or "no run has a model yet"
        return none or (RECORDING if self.bench.demo else "")

    def action_all(self) -> None:
        self._all = not self._all
        self.refresh_if_stale()
        self._show()

    def action_runtimes(self) -> None:
        focused = self.query_one(TablePanel).has_focus_within
        self.compared.table = "runs" if self.compared.table == "runtimes" else "runtimes"
        self._turned()
        if focused:
            self.query_one(TablePanel).take_focus()

    @on(Grid.Moved)
    def _moved(self) -> None:
        # The run under the cursor may be one that can be measured.
        self.refresh_bindings()

    def action_split(self) -> None:
        self.compared.split = "valid" if self.compared.split == "test" else "test"
        # With one run the picture may look as before.
        self.bench.show_message(f"perplexity on {self.compared.split} in the plot", keep=False)
        self._turned()

    def action_log(self) -> None:
        self.compared.log_axis = not self.compared.log_axis
        axis = "logarithmic" if self.compared.log_axis else "linear"
        self.bench.show_message(f"{axis} axis in the plot", keep=False)
        self._turned()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        self.bench.select(folder_of(event.key))
        self.dismiss(None)

    @property
    def _measurements(self) -> list[RunView]:
        kinds = ("benchmark", "evaluate")
        return [view for view in self.bench.snapshot.runs if view.kind in kinds]

    @property
    def _awaited(self) -> set[str]:
        """The compared runs, by key, that a benchmark measures or is about to."""
        waiting = {
            v.parent
            for v in self._measurements
            if v.kind == "benchmark" and (v.live or v.status == "queued")
        }
        return {view.key for view in self.views if view.key in waiting}

    @property
    def _measurable(self) -> list[RunView]:
        """Runs with a model whose speed can be said, and that no benchmark is about to measure."""
        return [
            view
            for view in self.views
            if view.status == "finished"
            and view.kind in MEASURABLE
            and view.has_best
            and view.key not in self._awaited
        ]

    @property
    def _due(self) -> list[RunView]:
        """Those that no benchmark has measured as they are now."""
        # Of runs that were not read yet nobody knows.
        measured = {row["run"]: -math.inf for row in self.compared.runs.rows}
        measured |= {row["model"]: row["measured"] for row in self.compared.runtimes.rows}
        return [v for v in self._measurable if _ended(v) > measured.get(v.run.ref, math.inf)]

    @property
    def _chosen(self) -> RunView | None:
        """The run under the cursor."""
        key = folder_of(self.query_one(Grid).cursor_key)
        return next((view for view in self.views if view.key == key), None)

    @property
    def _here(self) -> list[RunView]:
        """The run under the cursor, where it can be measured."""
        return [view for view in self._measurable if view is self._chosen]

    @property
    def _simulated(self) -> list[RunView]:
        """Runs of which there is nothing to measure: their integers are simulated."""
        return [v for v in self.views if v.status == "finished" and v.kind not in MEASURABLE]

    def _why_not_here(self) -> str:
        """Why the run under the cursor is not measured."""
        view = self._chosen
        if view is None:
            return "no run to measure"
        if view.key in self._awaited:
            return f"{view.title} is being measured already, or waits for it"
        if view.kind == "quantize":
            return f"{view.title} only simulates integers: pack it to measure its speed"
        if view.kind not in MEASURABLE:
            return f"{view.title} has no model of its own"
        if view.status == "finished":
            lacks = "best checkpoint" if view.has_model else "model"
            return f"{view.title} has no {lacks}: there is nothing to measure"
        return f"{view.title} is {view.status}: a finished run is measured"

    async def action_benchmark(self) -> None:
        """Queue a benchmark of each run that is due; where none is, of the one under the cursor.
        Asks first where many are due that nobody marked."""
        due, here = self._due, self._here
        if not due and not here:
            self.bench.show_message(self._why_not_here())
        elif self.of_marked or len(due) <= _FEW:
            await self._queue_benchmarks(due or here)
        else:
            self._ask_how_many(due, here)

    def _ask_how_many(self, due: list[RunView], here: list[RunView]) -> None:
        answers = [Answer("due", "m", f"measure {len(due)} runs"), Answer("", "escape", "back")]
        if here:
            answers.insert(1, Answer("here", "o", f"only run {here[0].id}"))

        def chosen(answer: str | None) -> None:
            if answer:
                views = due if answer == "due" else here
                self.bench.start_work(self._queue_benchmarks(views), owner=self)

        question = f"Measure {len(due)} runs? They have no figures yet, or have changed since."
        self.app.push_screen(QuestionDialog("Benchmark", question, tuple(answers)), chosen)

    async def _queue_benchmarks(self, views: list[RunView]) -> None:
        due = self._due
        left_out = numbers_of(self._simulated) if views == due else ""
        done = await self.bench.run_in_thread(
            queue_benchmarks, views, doing="while queueing benchmarks"
        )
        if done:
            first = "" if due else f"measuring {done[0].title} again: "
            rest = f"; {left_out} must be packed first" if left_out else ""
            self.bench.show_message(
                f"{first}{queued_words(len(done), 'benchmark')}{rest}", keep=False
            )
            await self.bench.refresh_snapshot()

    def action_evaluate(self) -> None:
        """Ask how, then queue an evaluation of each marked run, or of the one under the cursor."""
        here = self._chosen
        views = list(self.views) if self.of_marked else [here] if here else []
        able, left_out = divide(views, "cache")
        if not able:
            none = "" if left_out else "no run is here"
            self._say_left_out(f"nothing to evaluate: {none}", left_out)
            return

        def chosen(way: str | None) -> None:
            if way is not None:
                self.bench.start_work(self._evaluate(views, way), owner=self)

        ways = [(way, about) for way, (_, about) in WAYS.items()]
        self.app.push_screen(ChoiceDialog("Evaluate on test, tuned on valid, with", ways), chosen)

    async def _evaluate(self, views: list[RunView], way: str) -> None:
        queued = await self.bench.run_in_thread(
            queue_evaluations, views, way, doing="while queueing evaluations"
        )
        if queued is None:
            return
        done, left_out = queued
        if not done:
            self._say_left_out("nothing to evaluate: ", left_out)
            return
        rest = "; left out: " if left_out else ""
        self._say_left_out(f"{queued_words(len(done), 'evaluation')}{rest}", left_out)
        await self.bench.refresh_snapshot()

    def _say_left_out(self, words: str, left_out: LeftOut) -> None:
        room = self.size.width - 1 - len(words)
        self.bench.show_message(f"{words}{reasons(left_out, room)}", keep=False)

    def action_export(self) -> None:
        offered = [(form, about) for form, (_, about) in _FORMATS.items()]
        self.app.push_screen(ChoiceDialog("Export as", offered), self._ask_path)

    def _ask_path(self, chosen: str | None) -> None:
        known: dict[str, _Format] = {form: form for form in _FORMATS}
        form = known.get(chosen or "")
        if form is None:
            return
        suffix = _FORMATS[form][0]
        name = self.bench.session.name if self.bench.session else "session"
        what = "compared" if self.compared.table == "runs" or form == "svg" else "runtimes"
        value = f"{name.replace(' ', '-')}-{what}{suffix}"
        write = partial(self._write, form)
        ask_for_file(self.bench, "Write it to this file:", value, (suffix,), write)

    def _write(self, form: _Format, path: Path) -> None:
        from lmbench.report.plots.export import export

        compared = self.compared
        if form == "svg":
            title = f"{compared.split.capitalize()} perplexity against size"
            export(compared.plot(self.bench.colour_on_white), path, title)
        else:
            write_atomic(path, compared.in_order.write(form).encode())


def _compare(runs: list[Run]) -> tuple[Comparison, Comparison]:
    """In a thread: a line for each run, and one for each runtime that it was measured in."""
    return compare_runs(runs), compare_runtimes(runs)


def _ended(view: RunView) -> float:
    """When the run last wrote its model."""
    return (view.record.ended if view.record else None) or 0.0
