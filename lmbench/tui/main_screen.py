"""The main screen: runs, plots, layers, generation and log, wide or narrow.

One grid holds the five panels. Wide, it is three columns: runs | plots over layers or log |
generation. Narrow, it is two rows: runs | plots, and under them one of layers, generation and
log. Which of the lower panels is shown is `lower`; nothing is ever mounted twice or moved.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize, ScreenResume
from textual.reactive import var

from lmbench.tui.bench.float_model_run import subject_of
from lmbench.tui.generate.panel import GeneratePanel
from lmbench.tui.kit.next_steps import RECORDING
from lmbench.tui.kit.panel import Panel
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, TopBar
from lmbench.tui.layers.panel import LayersPanel
from lmbench.tui.plots.panel import PlotPanel
from lmbench.tui.runs import actions
from lmbench.tui.runs.log_panel import LogPanel
from lmbench.tui.runs.panel import RunsPanel

__all__ = ["MainScreen"]

_RUN_ACTIONS = {
    "pause": actions.pause_or_continue,
    "stop": actions.stop,
    "resume": actions.resume,
}
LOWER = ("layers", "generate", "log")
# Screens about runs that are there.
_OF_RUNS = ("compare", "lab", "sensitivity")
# Screens about the model of the selected run.
_OF_A_MODEL = ("lab", "sensitivity")
# Screens that start or change runs.
_NOT_OF_A_RECORDING = ("new_run", "lab", "schedule", "chains")


class MainScreen(BenchScreen[None]):
    """The session's runs and all that is known of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "screen('new_run')", "new", id="main.new", tooltip="New run"),
        Binding("p", "run('pause')", "pause", id="main.pause", tooltip="Pause or continue the run"),
        Binding("s", "run('stop')", "stop", id="main.stop",
                tooltip="Stop the run cleanly, or take it out of the queue"),
        Binding("R", "run('resume')", "resume", id="main.resume",
                tooltip="Resume the run from its last checkpoint"),
        Binding("g", "generate", "generate", id="main.generate", tooltip="Generate text"),
        Binding("c", "screen('compare')", "compare", id="main.compare", tooltip="Compare runs"),
        Binding("l", "screen('lab')", "lab", id="main.lab", tooltip="Quantization laboratory"),
        Binding("v", "screen('sensitivity')", "sensitivity", id="main.sensitivity", show=False,
                tooltip="Sensitivity of tensors"),
        Binding("W", "screen('sweep')", "sweep", id="main.sweep", tooltip="The session's sweep"),
        Binding("N", "screen('chains')", "chains", id="main.chains", show=False,
                tooltip="Queue published commands as a chain"),
        Binding("o", "screen('sessions')", "sessions", id="main.sessions", show=False,
                tooltip="Sessions: open, save as, pack"),
        Binding("S", "screen('schedule')", "schedule", id="main.schedule", show=False,
                tooltip="Edit a pruning schedule"),
        Binding("1", "panel('runs')", "runs", id="main.panel_runs", show=False,
                tooltip="Go to the runs"),
        Binding("2", "panel('plots')", "plots", id="main.panel_plots", show=False,
                tooltip="Go to the plots"),
        Binding("3", "panel('layers')", "layers", id="main.panel_layers", show=False,
                tooltip="Go to the layers"),
        Binding("4", "panel('generate')", "generate", id="main.panel_generate", show=False,
                tooltip="Go to generation"),
        Binding("5", "panel('log')", "log", id="main.panel_log", show=False,
                tooltip="Go to the log"),
        Binding("tab", "go(1)", "next panel", id="main.next_panel", show=False,
                tooltip="The next panel"),
        Binding("shift+tab", "go(-1)", "previous panel", id="main.previous_panel", show=False,
                tooltip="The panel before"),
        Binding("escape", "panel('runs')", "back to the runs", id="main.back", show=False,
                tooltip="Back to the runs"),
    ]  # fmt: skip

    # One's own panel is given the focus.
    AUTO_FOCUS = ""

    lower: var[str] = var("layers", init=False)

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="body"):
            yield RunsPanel(id="runs")
            yield PlotPanel(id="plots")
            yield GeneratePanel(id="generate")
            yield LayersPanel(id="layers")
            yield LogPanel(id="log")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        recalled = self.bench.recall("lower", "layers")
        self.set_reactive(MainScreen.lower, recalled if recalled in LOWER else "layers")
        focus = self.bench.recall("focus", "runs")
        if focus in LOWER and self.app.size.width < 110:
            # Wide, generation is never one of the lower panels; it may have been left like that.
            self.set_reactive(MainScreen.lower, focus)
        self._arrange()
        self.panel(focus if focus in ("runs", "plots", *LOWER) else "runs").take_focus()
        # What can be done with a run changes with it, also where its list is not on the screen.
        self.watch(self.bench, "snapshot", self.refresh_bindings, init=False)

    def on_screen_resume(self, event: ScreenResume) -> None:
        # Not where another screen was opened over this one at once.
        if self.app.screen is self:
            self.bench.remember("screen", "main")

    def on_resize(self, event: Resize) -> None:
        narrow = self.app.size.width < 110
        focused = next((name for name in LOWER if self.panel(name).has_focus_within), None)
        if focused is not None and focused != self.lower and (narrow or focused != "generate"):
            # Below 110 columns it has no place of its own any more, but it keeps the focus.
            self.set_reactive(MainScreen.lower, focused)
            self.bench.remember("lower", focused)
        self._arrange()

    @property
    def narrow(self) -> bool:
        return self.has_class("-narrow")

    def watch_lower(self) -> None:
        self.bench.remember("lower", self.lower)
        self._arrange()

    def _arrange(self) -> None:
        """Show the lower panel that is asked for; wide, generation has a place of its own."""
        narrow = self.app.size.width < 110
        lower = self.lower if narrow or self.lower != "generate" else "layers"
        for name in LOWER:
            panel = self.panel(name)
            panel.display = name == lower or (name == "generate" and not narrow)
        tabs = LOWER if narrow else ("layers", "log")
        for name in tabs:
            self.panel(name).show_tabs(tabs)
        if not narrow:
            self.panel("generate").show_tabs(())

    def action_panel(self, name: str) -> None:
        """Bring a panel on display and give it the focus."""
        if name in LOWER and (self.narrow or name != "generate"):
            self.lower = name
        self.focus_panel(self.panel(name))
        self.bench.remember("focus", name)

    def on_panel_tab_clicked(self, event: Panel.TabClicked) -> None:
        self.action_panel(event.name)

    def action_generate(self) -> None:
        self.action_panel("generate")

    def action_go(self, step: int) -> None:
        """The next panel in reading order, round and round."""
        order = ["runs", "plots", *([self.lower] if self.narrow else ["layers", "generate"])]
        if not self.narrow and self.lower == "log":
            order[2] = "log"
        here = next((i for i, name in enumerate(order) if self.panel(name).has_focus_within), -1)
        self.action_panel(order[(here + step) % len(order)])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "screen":
            return self._possible(str(parameters[0]))
        if action == "generate":
            return bool(self.bench.snapshot.runs)
        if action == "run":
            asked = actions.is_possible(str(parameters[0]), self.bench.selected_run)
            return asked and not self.bench.demo
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        screen = str(parameters[0]) if parameters else ""
        if self.bench.demo and (action == "run" or screen in _NOT_OF_A_RECORDING):
            return RECORDING
        if action == "run" or (screen in _OF_A_MODEL and self.bench.snapshot.runs):
            return actions.why_not(screen, self.bench.selected_run)
        if self.bench.snapshot.reading:
            return "the runs are still being read"
        return self.bench.snapshot.problem or "there is no run yet: n starts one"

    def _possible(self, screen: str) -> bool:
        """Is there anything to do on a screen?"""
        if self.bench.demo and screen in _NOT_OF_A_RECORDING:
            return False
        view = self.bench.selected_run
        if view is not None and screen in _OF_A_MODEL:
            return actions.is_possible(screen, view)
        return bool(self.bench.snapshot.runs) or screen not in _OF_RUNS

    def action_screen(self, name: str) -> None:
        self.bench.open(name)
        view = self.bench.selected_run
        # A sensitivity run has curves of its own to show.
        if name not in _OF_A_MODEL or view is None or view.kind == name:
            return
        subject = subject_of(self.bench.snapshot.by_key, view.key)
        if subject not in (None, view):
            shown = subject.title
            self.bench.show_message(f"{view.title} has no float model: here is that of {shown}")

    async def action_run(self, what: str) -> None:
        """Pause or continue, stop or resume the selected run."""
        view = self.bench.selected_run
        if view is not None:
            await _RUN_ACTIONS[what](self.bench, view)
