"""The sweep of the session: its runs, their front, and which of its axes matter."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize, ScreenResume

from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.sweeps import control
from lmbench.jobs.sweeps.importance import FEWEST, ped_anova
from lmbench.report.numbers import plural
from lmbench.session import Session
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.dialog import Answer, QuestionDialog
from lmbench.tui.kit.grid import Grid
from lmbench.tui.kit.next_steps import RECORDING, next_steps, take_step, why_not_next
from lmbench.tui.kit.panel import Panel
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, TopBar
from lmbench.tui.sweeps.new_sweep import kinds_of
from lmbench.tui.sweeps.panels import (
    CHARTS,
    ChartPanel,
    FrontPanel,
    ImportancePanel,
    SlicePanel,
    SweepTable,
)
from lmbench.tui.sweeps.study import Study, SweepState, read_sweep

__all__ = ["SweepScreen"]

_UNFINISHED = ("stopped", "lost", "failed", "queued")


class SweepScreen(BenchScreen[None]):
    """Opened by `W`."""

    HELP = SweepTable.HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "pause", id="sweep.pause", tooltip="Pause what runs, or continue it"),
        Binding("s", "stop", "stop", id="sweep.stop", tooltip="Stop the whole sweep (asks)"),
        Binding("R", "resume", "resume", id="sweep.resume",
                tooltip="Go on with the sweep: what was stopped, lost or never made"),
        Binding("a", "means", "runs/means", id="sweep.means",
                tooltip="Each run, or mean and deviation over the seeds"),
        Binding("x", "split", "valid/test", id="sweep.split", tooltip="Valid or test perplexity"),
        Binding("b", "by", "size/zeros", id="sweep.by", tooltip="The front by size or by sparsity"),
        Binding("right", "axis(1)", "axis", id="sweep.next_axis", key_display="← →",
                tooltip="Slice by the next axis"),
        Binding("left", "axis(-1)", "axis", id="sweep.previous_axis", show=False,
                tooltip="Slice by the axis before"),
        Binding("i", "importance", "importance", id="sweep.importance",
                tooltip="Importance by PED-ANOVA, or by the spread of the means"),
        Binding("n", "new", "new sweep", id="sweep.new",
                tooltip="A new sweep that starts from the run"),
        Binding("y", "log", "log", id="sweep.log", show=False, tooltip="Logarithmic or linear"),
        Binding("P", "next('prune')", "prune", id="sweep.next_prune", show=False,
                tooltip="Go on with the run: prune it"),
        Binding("Q", "next('quantize')", "quantize", id="sweep.next_quantize", show=False,
                tooltip="Go on with the run: quantize it"),
        Binding("K", "next('pack')", "pack", id="sweep.next_pack", show=False,
                tooltip="Go on with the run: pack it into one small file"),
        Binding("right_square_bracket", "chart(1)", "plots", id="sweep.next_chart",
                key_display="[ ]", tooltip="The next plot, where they share a place"),
        Binding("left_square_bracket", "chart(-1)", "plots", id="sweep.previous_chart",
                show=False, tooltip="The plot before, where they share a place"),
        Binding("tab", "go(1)", "next panel", id="sweep.next", show=False,
                tooltip="The next panel"),
        Binding("shift+tab", "go(-1)", "previous panel", id="sweep.previous", show=False,
                tooltip="The panel before"),
        Binding("escape", "dismiss", "back", id="sweep.back", tooltip="Back to the runs"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    SweepScreen #sweep { height: 1fr; layout: vertical; }
    SweepScreen SweepTable { height: 4fr; }
    SweepScreen #charts { height: 3fr; layout: horizontal; }
    SweepScreen.-none #charts { display: none; }
    SweepScreen #front, SweepScreen #slice { width: 4fr; }
    SweepScreen #importance { width: 3fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.study = Study()
        self._known: tuple[Any, ...] | None = None
        self._chart = CHARTS[0]

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="sweep"):
            yield SweepTable(self.study, id="table")
            with Container(id="charts"):
                yield FrontPanel(self.study, id="front")
                yield ImportancePanel(self.study, id="importance")
                yield SlicePanel(self.study, id="slice")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        kept = self.bench.recall("sweep")
        self.study.recall(kept)
        if isinstance(kept, dict) and kept.get("chart") in CHARTS:
            self._chart = kept["chart"]
        self.add_class("-none")
        self.watch(self.app, "snapshot", self._catch_up_in_front, init=False)
        self._arrange()
        self._catch_up()
        self.query_one(SweepTable).take_focus()

    def on_resize(self, event: Resize) -> None:
        self._arrange()

    def on_screen_resume(self, event: ScreenResume) -> None:
        self._catch_up()

    # -- what is shown -------------------------------------------------------------------------

    def _catch_up_in_front(self) -> None:
        if self.is_active:
            self._catch_up()

    def _catch_up(self) -> None:
        """Look anew, in a thread, where a run has another record or status."""
        views = self.bench.snapshot.runs
        known = tuple((view.record, view.status) for view in views)
        if known != self._known and self.bench.session is not None:
            self._known = known
            work = self._read(self.bench.session, views)
            self.bench.start_work(work, owner=self, group="read", exclusive=True)

    async def _read(self, session: Session, views: tuple[RunView, ...]) -> None:
        found = await self.bench.run_in_thread(_read, session, views, self.study.state)
        self.study.state, self.study.problem = found or (None, "")
        self.study.known = True
        self._show()

    def _show(self) -> None:
        self.study.version += 1
        had_none = self.has_class("-none")
        self.set_class(self.study.state is None, "-none")
        table = self.query_one(SweepTable)
        focused = table.has_focus_within
        table.refresh_view()
        if had_none and focused:
            table.take_focus()
        self._draw_charts()
        self.refresh_bindings()

    @on(SweepTable.Chosen)
    def _draw_charts(self) -> None:
        for panel in self.query(ChartPanel):
            if panel.is_in_view:
                panel.refresh_view()

    @on(SweepTable.Turned)
    def _turned(self) -> None:
        self.bench.remember("sweep", {**self.study.to_json(), "chart": self._chart})
        self._show()

    def _arrange(self) -> None:
        """Where there is little room the plots share one place."""
        narrow = self.app.size.width < 110
        for name in CHARTS:
            panel = self.query_one(f"#{name}", ChartPanel)
            panel.display = not narrow or name == self._chart
            panel.show_tabs(CHARTS if narrow else ())
        self.refresh_bindings()

    @property
    def chosen(self) -> RunView | None:
        """The run under the cursor; of a setting the first that has finished."""
        line = self.study.cursor
        if line is None:
            return None
        return next((view for view in line.views if view.status == "finished"), line.view)

    @property
    def _statuses(self) -> Counter[str]:
        line_of = self.study.state.status.statuses if self.study.state else {}
        return Counter(line_of)

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("dismiss", "maximise"):
            return True
        if self.study.state is None and action != "new":
            return False
        if action == "chart":
            return self.has_class("-narrow")
        if action == "axis":
            return len(self.study.axes) > 1
        return not self.why_not(action, parameters)

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why an action is not possible now."""
        statuses, found = self._statuses, self.study.state
        if action in ("pause", "stop", "resume", "next", "new") and self.bench.demo:
            return RECORDING
        if action == "new":
            view = self.chosen or self.bench.selected_run
            fits = view is not None and kinds_of(view)
            return "" if fits else "a sweep starts from a training or a pruning: choose one"
        if found is None:
            return "this session has no sweep"
        live = statuses["running"] + statuses["paused"]
        if action == "pause" and not live:
            return "no run of the sweep is at work"
        if action == "stop" and not live + statuses["queued"]:
            return "no run of the sweep is at work or waits"
        if action == "resume":
            open_ = sum(statuses[status] for status in _UNFINISHED)
            if not open_ + found.status.missing + found.status.to_propose:
                return "all runs of the sweep have finished, or are at work"
        if action == "next":
            step, view = str(parameters[0]), self.chosen
            if step not in next_steps(view, self.bench.snapshot):
                return why_not_next(step, view)
        if action == "importance":
            if find_spec("optuna") is None:
                return "PED-ANOVA needs Optuna: pip install 'lmbench[optuna]'"
            known = len(self.study.observations())
            if known < FEWEST:
                return f"PED-ANOVA needs {FEWEST} settings with a perplexity; {known:,} have one"
        return ""

    def action_chart(self, step: int) -> None:
        self._show_chart(CHARTS[(CHARTS.index(self._chart) + step) % len(CHARTS)])

    def on_panel_tab_clicked(self, event: Panel.TabClicked) -> None:
        self._show_chart(event.name)

    def _show_chart(self, name: str) -> None:
        focused = self.query_one(f"#{self._chart}").has_focus_within
        self._chart = name
        self._arrange()
        if focused:
            self.query_one(f"#{name}", ChartPanel).take_focus()
        self._turned()

    def action_new(self) -> None:
        if view := self.chosen or self.bench.selected_run:
            self.bench.open("new_sweep", run=view.key)

    def action_means(self) -> None:
        self.study.means = not self.study.means
        self._turned()

    def action_split(self) -> None:
        self.study.split = "test" if self.study.split == "valid" else "valid"
        self._turned()

    def action_by(self) -> None:
        self.study.by = "sparsity" if self.study.by == "bytes" else "bytes"
        self._turned()

    def action_log(self) -> None:
        self.study.log_axis = not self.study.log_axis
        self._turned()

    def action_axis(self, step: int) -> None:
        self.study.next_axis(step)
        self._turned()

    async def action_importance(self) -> None:
        """Ask Optuna, which takes a moment to import; or go back to the spread of the means."""
        study = self.study
        if study.importances()[1]:
            study.importance = None
        else:
            state, axes, seen = study.importance_state, study.axes, study.observations()
            doing = "while judging the axes"
            found = await self.bench.run_in_thread(ped_anova, axes, seen, doing=doing)
            if found is None:
                return
            study.importance = (state, found)
        self._show()

    @on(Grid.Opened)
    def _open(self, event: Grid.Opened) -> None:
        self.bench.select(event.key)
        self.dismiss(None)

    async def action_next(self, step: str) -> None:
        if self.chosen is not None:
            await take_step(self.bench, step, self.chosen)

    # -- the whole sweep -----------------------------------------------------------------------

    async def action_pause(self) -> None:
        asked = await self.bench.run_in_thread(
            control.pause, self.bench.session, doing="while asking the runs"
        )
        if asked is not None:
            self.bench.show_message(f"{plural(asked[1], 'run')} asked to {asked[0]}")
            await self.bench.refresh_snapshot()

    def action_stop(self) -> None:
        statuses = self._statuses
        live = statuses["running"] + statuses["paused"]
        parts = [f"{plural(live, 'run')} at work will save and end"] * bool(live)
        parts += [f"{statuses['queued']:,} waiting will leave the queue"] * bool(statuses["queued"])
        question = f"Stop the sweep? {', '.join(parts)}. R goes on with it later."
        answers = (Answer("stop", "y", "stop it", danger=True), Answer("", "escape", "go on"))
        self.app.push_screen(QuestionDialog("Stop the sweep", question, answers), self._stop)

    async def _stop(self, answer: str | None) -> None:
        if answer == "stop":
            stopped = await self.bench.run_in_thread(
                control.stop, self.bench.session, doing="while stopping the sweep"
            )
            if stopped is not None:
                self.bench.show_message(f"{plural(stopped, 'run')} stopped or left the queue")
                await self.bench.refresh_snapshot()

    async def action_resume(self) -> None:
        failed = self._statuses["failed"]
        if not failed:
            await self._resume("resume")
            return
        question = f"{plural(failed, 'run')} failed. Work on them again, too?"
        answers = (
            Answer("resume", "l", "leave them"),
            Answer("retry", "f", "failed ones, too"),
            Answer("", "escape", "back"),
        )
        self.app.push_screen(QuestionDialog("Resume the sweep", question, answers), self._resume)

    async def _resume(self, answer: str | None) -> None:
        if answer and self.bench.session is not None:
            runs = await self.bench.run_in_thread(
                _resume, self.bench.session, answer == "retry", doing="while resuming the sweep"
            )
            if runs is not None:
                self.bench.show_message(f"{plural(runs, 'run')} in the queue or at work")
                await self.bench.refresh_snapshot()


def _read(
    session: Session, views: tuple[RunView, ...], before: SweepState | None
) -> tuple[SweepState | None, str]:
    """In a thread: where the sweep stands, or why that cannot be said."""
    try:
        return read_sweep(session, views, before), ""
    except LmbenchError as error:
        return None, error.message


def _resume(session: Session, failed: bool) -> int:
    """In a thread: as ``lmbench sweep resume --detach``; how many runs are not at their end."""
    runs = control.resume(session, failed=failed)
    launch.start_all(runs)
    return sum(run.status() in ("queued", "running", "paused") for run in runs)
