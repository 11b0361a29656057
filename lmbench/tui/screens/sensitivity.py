"""What pruning each tensor alone costs, and the schedule that follows from it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from lmbench.config import PruneConfig, SensitivityConfig, TrainConfig, changed_settings, validate
from lmbench.distiller.errors import DistillerError
from lmbench.distiller.suggest import Suggestion, suggest_targets, suggestion_to_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.prepare import check_training, command_for, inherited_settings, make_run
from lmbench.jobs.schedules import parameter_shapes
from lmbench.report.draw import Look, draw
from lmbench.report.plots import Plot
from lmbench.report.series import Series
from lmbench.session import Run
from lmbench.session.files import write_atomic
from lmbench.tui import choices, figures
from lmbench.tui.marks import MARKERS, SERIES_COLOURS, mark_of
from lmbench.tui.screens.base import BenchScreen
from lmbench.tui.subject import subject_of
from lmbench.tui.watch import RunView
from lmbench.tui.widgets.grid import Cell, Column, Grid
from lmbench.tui.widgets.panel import Panel, put
from lmbench.tui.widgets.status import KeyBar, StatusBar

__all__ = ["SensitivityScreen", "pruning_epochs"]

_TABLE = (
    Column("tensor", 18, left=True, grow=2),
    Column("prune to", 16, grow=2),
    Column("alone", 7),
    Column("weights left", 12, rank=1),
    Column("of", 10, rank=2),
)
_GOAL = 0.8
# Beyond this a perplexity says nothing but that the model is broken.
_BROKEN = 1e6


def pruning_epochs(epochs: int) -> tuple[int, int]:
    """Over which epochs a training of so many prunes: it has a third of them left to recover."""
    return 0, max(1, epochs - max(1, epochs // 3))


class CurvesPanel(Panel):
    """Perplexity against the level, a curve for each tensor."""

    TITLE = "Sensitivity"
    DEFAULT_CSS = "CurvesPanel { height: 3fr; }"

    def compose(self) -> ComposeResult:
        yield Static("", id="picture")

    def on_resize(self) -> None:
        self.refresh_view()

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, SensitivityScreen)
        screen.catch_up()
        size, picture = self.content_size, self.query_one(Static)
        curves = screen.curves
        if not curves:
            put(picture, Text(screen.invitation, "dim"))
            self.subtitle("")
            return
        series = []
        for turn, (name, points) in enumerate(curves.items()):
            y = np.array([ppl if ppl < _BROKEN else math.nan for _, ppl in points])
            x = np.array([100 * level for level, _ in points])
            series.append(
                Series(name, x, y, _sign(turn), self.bench.colour(_colour(turn)), "points")
            )
        look = Look(
            self.bench.colour("foreground-muted"),
            self.bench.colour("faint"),
            self.bench.colour("error"),
        )
        plot = Plot(tuple(series), x_axis="sparsity %", log=screen.log_axis, window=(0.0, 100.0))
        put(picture, Text("\n").join(draw(plot, size.width, size.height, look).lines))
        scale = "log " if screen.log_axis else ""
        self.subtitle(f"{scale}perplexity by sparsity in %, pruned alone, at once")


class SuggestionPanel(Panel):
    """How far each tensor should go for the goal, at the least predicted cost."""

    TITLE = "Suggested schedule"
    HELP = """
Each tensor was pruned alone, at once and without training, to each level, and the model scored:
the curves. **← →** move the goal, the sparsity of the whole model by five points (**[ ]** by one);
the table says how far each tensor goes so that the predicted perplexity is least. **s** starts a
pruning run from the model under this schedule, **f** puts it into the form to change settings
first. **r** measures anew.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right,l", "goal(0.05)", "goal", id="sensitivity.more", key_display="← →",
            tooltip="A higher goal",
        ),
        Binding(
            "left,h", "goal(-0.05)", "less", id="sensitivity.less", show=False,
            tooltip="A lower goal",
        ),
        Binding("right_square_bracket", "goal(0.01)", "more", show=False),
        Binding("left_square_bracket", "goal(-0.01)", "less", show=False),
    ]  # fmt: skip
    DEFAULT_CSS = """
    SuggestionPanel { height: 2fr; min-height: 8; }
    SuggestionPanel #words { height: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Static("", id="words", markup=False)
        yield Grid()

    def take_focus(self) -> None:
        self.query_one(Grid).focus()

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, SensitivityScreen)
        put(self.query_one("#words", Static), screen.words)
        suggestion, sizes = screen.suggestion, screen.sizes
        rows, left, total = [], 0, 0
        for turn, name in enumerate(screen.curves):
            target = suggestion.targets.get(name, 0.0) if suggestion else 0.0
            size = sizes.get(name, 0)
            kept = size - round(target * size)
            left, total = left + kept, total + size
            rows.append(
                (
                    name,
                    (
                        Cell(f"{_sign(turn)} {name}", _colour(turn)),
                        Cell(f"{100 * target:5.1f}%", share=target),
                        Cell(figures.perplexity(screen.cost(name, target))),
                        Cell(f"{kept:,}"),
                        Cell(f"{size:,}"),
                    ),
                )
            )
        sum_up: tuple[Cell, ...] = ()
        if suggestion is not None:
            share = suggestion.sparsity
            sum_up = (
                Cell("in all"),
                Cell(f"{100 * share:5.1f}%", share=share),
                Cell(figures.perplexity(suggestion.predicted)),
                Cell(f"{left:,}"),
                Cell(f"{total:,}"),
            )
        self.query_one(Grid).show(_TABLE, tuple(rows), sum_up)
        self.subtitle(f"goal {100 * screen.goal:.0f}% of the whole model" if rows else "")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        screen = self.screen
        return not isinstance(screen, SensitivityScreen) or bool(screen.curves)

    def action_goal(self, by: float) -> None:
        screen = self.screen
        assert isinstance(screen, SensitivityScreen)
        screen.set_goal(screen.goal + by)


class SensitivityScreen(BenchScreen[None]):
    """Opened by `v`."""

    HELP = SuggestionPanel.HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "start it", id="sensitivity.start", tooltip="Start the schedule"),
        Binding("f", "form", "form", id="sensitivity.form", tooltip="The schedule in the form"),
        Binding("r", "measure", "measure", id="sensitivity.measure", tooltip="Measure anew"),
        Binding("y", "log", "log", id="sensitivity.log", tooltip="Logarithmic or linear"),
        Binding("escape", "back", "back", id="sensitivity.back", tooltip="Back to the runs"),
    ]
    DEFAULT_CSS = """
    SensitivityScreen #head { height: 1; padding: 0 1; background: $panel; }
    SensitivityScreen #sensitivity { height: 1fr; layout: vertical; }
    SensitivityScreen.-wide #sensitivity { layout: horizontal; }
    SensitivityScreen.-wide CurvesPanel { width: 3fr; height: 1fr; }
    SensitivityScreen.-wide SuggestionPanel { width: 2fr; height: 1fr; }
    """

    def __init__(self, key: str | None = None) -> None:
        """`key` is a run's, or a sensitivity run's; left out, the selected one's."""
        super().__init__()
        self._key = key
        self.goal = _GOAL
        self.log_axis = True
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.sizes: dict[str, int] = {}
        self.suggestion: Suggestion | None = None
        self._problem = ""
        self._shown: Any = None
        self._starting = False

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Container(id="sensitivity"):
            yield CurvesPanel(id="curves")
            yield SuggestionPanel(id="suggestion")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        kept = self.bench.recall("sensitivity")
        if isinstance(kept, dict):
            if isinstance(kept.get("goal"), float):
                self.goal = min(max(kept["goal"], 0.01), 0.99)
            self.log_axis = kept.get("log") is not False
        self.query_one(SuggestionPanel).take_focus()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def measured(self) -> RunView | None:
        """The sensitivity run that is shown: the selected one, or the newest of the subject."""
        snapshot = self.bench.snapshot
        chosen = snapshot.run(self._key or self.bench.selected)
        if chosen is not None and chosen.kind == "sensitivity":
            return chosen
        subject = self.subject
        found = [
            view
            for view in snapshot.runs
            if subject and view.kind == "sensitivity" and view.parent == subject.key
        ]
        return max(found, key=lambda view: view.id, default=None)

    @property
    def subject(self) -> RunView | None:
        """The run whose model was pruned."""
        return subject_of(self.bench.snapshot.by_key, self._key or self.bench.selected)

    @property
    def invitation(self) -> str:
        subject, measured = self.subject, self.measured
        if subject is None:
            return "A trained run is needed: Esc, then n starts one."
        if measured is not None and measured.status in ("queued", "running"):
            return (
                f"{measured.id} {measured.name} is {measured.status}: curves come as it measures."
            )
        if measured is not None and measured.reason:
            return f"{measured.id} {measured.name} {measured.status}: {measured.reason}"
        return f"{subject.id} {subject.name} was not measured yet: r prunes each tensor alone."

    @property
    def words(self) -> str:
        if not self.curves:
            return ""
        if self.suggestion is None:
            return self._problem
        found = self.suggestion
        return (
            f"at once: {figures.perplexity(found.dense)} → "
            f"{figures.perplexity(found.predicted)}; training does better"
        )

    def catch_up(self) -> None:
        """Take over what was measured since."""
        measured, subject = self.measured, self.subject
        seen = (measured and measured.points, subject and subject.key)
        if seen != self._shown:
            self._shown = seen
            self.curves = _curves(measured) if measured else {}
            self.sizes = _sizes(subject) if subject else {}
            self._suggest()
            head = Text(no_wrap=True, overflow="ellipsis")
            if subject is not None:
                mark = mark_of(subject.id)
                head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
                head.append(f"{subject.id} {subject.name}", "bold")
            if measured is not None:
                head.append(f"  measured by {measured.id} {measured.name}, {measured.status}")
            put(self.query_one("#head", Static), head)
        self.refresh_bindings()

    def _suggest(self) -> None:
        self.suggestion, self._problem = None, ""
        if not self.curves:
            return
        try:
            self.suggestion = suggest_targets(self.curves, self.sizes, self.goal)
        except DistillerError as error:
            self._problem = str(error).removeprefix("suggest: ")

    def cost(self, name: str, level: float) -> float:
        """The perplexity that the tensor's own curve has at this level."""
        points = self.curves[name]
        return float(np.interp(level, [x for x, _ in points], [y for _, y in points]))

    def set_goal(self, goal: float) -> None:
        self.goal = round(min(max(goal, 0.01), 0.99), 2)
        self._remember()
        self._suggest()
        self.query_one(SuggestionPanel).refresh_view()

    def _remember(self) -> None:
        self.bench.remember("sensitivity", {"goal": self.goal, "log": self.log_axis})

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "start" | "form":
                measured = self.measured
                whole = measured is not None and measured.status == "finished"
                return whole and self.suggestion is not None and not self.bench.demo
            case "measure":
                measured = self.measured
                busy = measured is not None and measured.status in ("queued", "running", "paused")
                return self.subject is not None and not busy and not self.bench.demo
            case "log":
                return bool(self.curves)
        return True

    def action_back(self) -> None:
        self.dismiss(None)

    def action_log(self) -> None:
        self.log_axis = not self.log_axis
        self._remember()
        self.query_one(CurvesPanel).refresh_view()

    async def action_measure(self) -> None:
        """Queue a sensitivity run of the subject."""
        subject = self.subject
        if subject is None:
            return
        run = await self.bench.do(_measure, subject.run, doing="while starting a run")
        if isinstance(run, Run):
            self.bench.say(f"run {run.id} measures what pruning each tensor costs")
            await self.bench.look()

    async def action_start(self) -> None:
        """Write the schedule into the session and start a pruning run under it."""
        subject, suggestion = self.subject, self.suggestion
        if subject is None or suggestion is None or self._starting:
            return
        self._starting = True
        run = await self.bench.do(_prune, subject.run, suggestion, doing="while starting a run")
        self._starting = False
        if isinstance(run, Run):
            self.bench.select(run.path.name)
            self.bench.say(f"run {run.id} prunes {subject.id} {subject.name} as suggested")
            self.dismiss(None)
            await self.bench.look()

    async def action_form(self) -> None:
        subject, suggestion = self.subject, self.suggestion
        if subject is None or suggestion is None:
            return
        path = await self.bench.do(_write_schedule, subject.run, suggestion)
        if path is not None:
            self.bench.open(
                "new_run", kind="prune", settings={"compress": path}, parent=subject.key
            )


def _sign(turn: int) -> str:
    return MARKERS[turn % len(MARKERS)]


def _colour(turn: int) -> str:
    return f"series-{turn % SERIES_COLOURS + 1}"


def _curves(view: RunView) -> dict[str, list[tuple[float, float]]]:
    """Of each tensor its (level, perplexity), from the dense model on."""
    dense = next((point.ppl for point in view.points if point.level == 0), None)
    found: dict[str, list[tuple[float, float]]] = {}
    for point in view.points:
        if dense is not None and point.part == "tensor" and point.level > 0:
            found.setdefault(point.tensor, [(0.0, dense)]).append((point.level, point.ppl))
    return {name: sorted(curve) for name, curve in found.items()}


def _sizes(view: RunView) -> dict[str, int]:
    """The weights of each matrix of the run's model, tied ones once."""
    try:
        config = view.run.config()
    except LmbenchError:
        return {}
    shape = view.record.shape if view.record else {}
    if not isinstance(config, TrainConfig) or not isinstance(shape.get("ntoken"), int):
        return {}
    known = {k: v for k, v in shape.items() if k in TrainConfig.model_fields}
    shapes = parameter_shapes(config.model_copy(update=known), shape["ntoken"])
    return {name: math.prod(sides) for name, sides in shapes.items() if len(sides) == 2}


def _measure(parent: Run) -> Run:
    """In a thread."""
    from lmbench.jobs import launch

    config = SensitivityConfig()
    command = command_for("sensitivity", {}, parent=parent.ref)
    run = parent.session.new_run(
        config, "sensitivity", name="sensitivity", parent=parent, command=command
    )
    launch.start(run)
    return run


def _settings(parent: Run) -> PruneConfig:
    return validate(PruneConfig, inherited_settings(parent))


def _write_schedule(parent: Run, suggestion: Suggestion) -> str:
    """In a thread: the suggested schedule as a file of the session; its path from the home."""
    start, end = pruning_epochs(_settings(parent).epochs)
    text = suggestion_to_schedule(suggestion, start, end)
    folder = choices.schedule_folder(parent.session)
    folder.mkdir(exist_ok=True)
    stem = f"suggested-{100 * suggestion.sparsity:.0f}"
    path = _free(folder, stem, text)
    write_atomic(path, text.encode())
    return str(path.relative_to(parent.home.path))


def _free(folder: Path, stem: str, text: str) -> Path:
    """A file of that folder that is not there yet, or holds the same."""
    for number in itertools.count(1):
        path = folder / (f"{stem}.yaml" if number == 1 else f"{stem}-{number}.yaml")
        if not path.exists() or path.read_text(encoding="utf-8") == text:
            return path
    raise AssertionError("unreachable")


def _prune(parent: Run, suggestion: Suggestion) -> Run:
    """In a thread: it may read a corpus, and starts a process."""
    from lmbench.jobs import launch

    path = _write_schedule(parent, suggestion)
    config = _settings(parent).model_copy(update={"compress": path})
    check_training(config, parent.home)
    given = {k: v for k, v in changed_settings(config).items() if k == "compress"}
    command = command_for("prune", given, parent=parent.ref)
    run = make_run(parent.session, "prune", config, parent=parent, command=command)
    launch.start(run)
    return run
