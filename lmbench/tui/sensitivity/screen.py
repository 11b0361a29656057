"""What pruning each tensor alone costs, and the schedule that follows from it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from lmbench.config import PruneConfig, SensitivityConfig, TrainConfig, changed_settings, validate
from lmbench.distiller.errors import DistillerError
from lmbench.distiller.schedules.suggest import (
    Suggestion,
    pruning_epochs,
    suggest_targets,
    suggestion_to_schedule,
)
from lmbench.errors import LmbenchError
from lmbench.jobs.prepare import command_for, inherited_settings
from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.session import Run
from lmbench.tui.bench.float_model_run import subject_of, with_float_model
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit import choices
from lmbench.tui.kit.background_task import BackgroundTask
from lmbench.tui.kit.make_and_launch import make_and_launch
from lmbench.tui.kit.panel import update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar
from lmbench.tui.sensitivity.panels import CurvesPanel, SuggestionPanel

__all__ = ["SensitivityScreen"]

_GOAL = 0.8
_ELEMENT = "element"
# What a run may measure in place of tensors.
_ALONE = {"gate": "each gate alone", "model": "the whole model"}
_GONE = "The measured model is not in this session."
_BUSY = ("queued", "running", "paused")


class SensitivityScreen(BenchScreen[None]):
    """Opened by `v`."""

    HELP = SuggestionPanel.HELP
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+s", "start", "start it", id="sensitivity.start", tooltip="Start the schedule"
        ),
        Binding("f", "form", "form", id="sensitivity.form", tooltip="The schedule in the form"),
        Binding("r", "measure", "measure", id="sensitivity.measure", tooltip="Measure anew"),
        Binding("y", "log", "log", id="sensitivity.log", tooltip="Logarithmic or linear"),
        Binding("escape", "dismiss", "back", id="sensitivity.back", tooltip="Back to the runs"),
    ]
    DEFAULT_CSS = """
    SensitivityScreen #head { height: 1; padding: 0 1; background: $panel; }
    SensitivityScreen #sensitivity { height: 1fr; layout: vertical; }
    SensitivityScreen.-wide #sensitivity { layout: horizontal; }
    SensitivityScreen.-wide CurvesPanel { width: 3fr; height: 1fr; }
    SensitivityScreen.-wide SuggestionPanel { width: 2fr; height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.goal = _GOAL
        self.log_axis = True
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.sizes: dict[str, int] = {}
        self.group = _ELEMENT
        self.suggestion: Suggestion | None = None
        self._problem = ""
        self._shown: Any = None

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Container(id="sensitivity"):
            yield CurvesPanel(self, id="curves")
            yield SuggestionPanel(self, id="suggestion")
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
        """The sensitivity run that is shown: the selected one, or the newest of the subject; one
        that has no tensors only where there is no other."""
        snapshot = self.bench.snapshot
        chosen = snapshot.run(self.bench.selected)
        if chosen is not None and chosen.kind != "sensitivity":
            chosen = None
        if chosen is not None and not _alone(chosen):
            return chosen
        subject = self.subject
        found = [
            view
            for view in snapshot.runs
            if subject and view.kind == "sensitivity" and view.parent == subject.key
        ]
        return max(found, key=lambda v: (not _alone(v), v is chosen, v.id), default=chosen)

    @property
    def subject(self) -> RunView | None:
        """The run whose model was pruned; None where it is gone, of another session, or not read
        yet."""
        snapshot, key = self.bench.snapshot, self.bench.selected
        if snapshot.reading and with_float_model(snapshot.by_key, key) is None:
            return None
        subject, chosen = subject_of(snapshot.by_key, key), snapshot.run(key)
        if chosen is None or chosen.kind != "sensitivity" or subject is None:
            return subject
        # Its curves are of no other model.
        return subject if subject.key == chosen.parent else None

    @property
    def invitation(self) -> str:
        subject, measured = self.subject, self.measured
        if subject is None and self.bench.snapshot.reading:
            return "The session is still being read …"
        if subject is None:
            return _GONE if measured else "A trained run is needed: Esc, then n starts one."
        if measured is not None:
            run, alone = measured.title, _alone(measured)
            if measured.status in ("queued", "running") and not alone:
                return f"{run} is {measured.status}: curves come as it measures."
            if measured.reason:
                return f"{run} {measured.status}: {measured.reason}"
            if alone:
                verb = "measures" if measured.status in _BUSY else "measured"
                return f"{run} {verb} {alone}: r prunes each tensor alone, as a schedule needs."
        return f"{subject.title} was not measured yet: r prunes each tensor alone."

    @property
    def words(self) -> str:
        if not self.curves:
            return ""
        if self.suggestion is None:
            return self._problem
        found = self.suggestion
        return (
            f"at once: {numbers.perplexity(found.dense)} → "
            f"{numbers.perplexity(found.predicted)}; training does better"
        )

    def refresh_if_stale(self) -> None:
        """Take over what was measured since."""
        measured, subject = self.measured, self.subject
        seen = (measured and measured.points, subject and subject.key)
        if seen != self._shown:
            self._shown = seen
            self.curves = _curves(measured) if measured else {}
            self.group = _group(measured) if measured else _ELEMENT
            self.sizes = _sizes(subject) if subject else {}
            self._suggest()
        # How the run stands changes without a new point, too: when it ends or is stopped.
        update_static(self.query_one("#head", Static), self._head(measured, subject))
        self.refresh_bindings()

    def _head(self, measured: RunView | None, subject: RunView | None) -> Text:
        head = Text(no_wrap=True, overflow="ellipsis")
        if subject is not None:
            mark = mark_of(subject.id)
            head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
            head.append(subject.title, "bold")
        if measured is not None:
            group = "" if self.group == _ELEMENT else f" in {self.group}"
            head.append(f"  measured by {measured.title}{group}, {measured.status}")
            began, trained = (v.record if v else None for v in (measured, subject))
            if began and trained and (trained.ended or 0) > (began.started or math.inf):
                head.append(", before the model was trained on")
            if measured.status in ("failed", "lost") and measured.reason:
                head.append(f": {one_line(measured.reason)}")
        return head

    def _suggest(self) -> None:
        self.suggestion, self._problem = None, ""
        if not self.curves:
            return
        if self.subject is None:
            self._problem = _GONE
            return
        if not self.curves.keys() <= self.sizes.keys():
            self._problem = f"The settings of {self.subject.title} cannot be read."
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
                busy = measured is not None and measured.status in _BUSY and not _alone(measured)
                return self.subject is not None and not busy and not self.bench.demo
            case "log":
                return bool(self.curves)
        return True

    def action_log(self) -> None:
        self.log_axis = not self.log_axis
        self._remember()
        self.query_one(CurvesPanel).refresh_view()

    async def action_measure(self) -> None:
        """Queue a sensitivity run of the subject."""
        subject = self.subject
        if subject is None:
            return
        run = await self.bench.run_in_thread(_measure, subject.run, doing="while starting a run")
        if isinstance(run, Run):
            self.bench.show_message(f"run {run.id} measures what pruning each tensor costs")
            await self.bench.refresh_snapshot()
            if self.measured is not None and self.measured.key == self.bench.selected:
                self.bench.select(run.path.name)

    async def action_start(self) -> None:
        """Write the schedule into the session and start a pruning run under it."""
        subject, suggestion = self.subject, self.suggestion
        if subject is None or suggestion is None or self._background is not None:
            return
        self.bench.show_message("starting …")
        task = self._background = BackgroundTask(self.bench)
        self.bench.start_work(self._start(task, subject, suggestion))

    async def _start(self, task: BackgroundTask, subject: RunView, suggestion: Suggestion) -> None:
        run = await task.run(
            _prune, subject.run, suggestion, self.group, task, doing="while starting a run"
        )
        self._background = None
        if not isinstance(run, Run):
            self.bench.show_message("not started")
            return
        if self.bench.session == run.session:
            self.bench.select(run.path.name)
        self.bench.show_message(f"run {run.id} prunes {subject.title} as suggested")
        self.finish()
        await self.bench.refresh_snapshot()

    async def action_form(self) -> None:
        subject, suggestion = self.subject, self.suggestion
        if subject is None or suggestion is None:
            return
        write = partial(_write_schedule, subject.run, suggestion, self.group)
        await choices.open_prune_form(self.bench, subject, write)


def _alone(view: RunView) -> str:
    """What a sensitivity run measures, where that is no tensor; else ""."""
    return _ALONE.get(str(view.record.config.get("per")), "") if view.record else ""


def _group(view: RunView) -> str:
    """What was pruned together for the curves."""
    return next((point.granularity for point in view.points), _ELEMENT)


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
    shapes = config.model_copy(update=known).parameter_shapes(shape["ntoken"])
    return {name: math.prod(sides) for name, sides in shapes.items() if len(sides) == 2}


def _measure(parent: Run) -> Run:
    """In a thread."""
    from lmbench.jobs import launch

    command, new_run = command_for("sensitivity", {}, parent=parent.ref), parent.session.new_run
    make = partial(new_run, SensitivityConfig(), "sensitivity", name="sensitivity")
    return launch.start_new(partial(make, parent=parent, command=command))


def _settings(parent: Run) -> PruneConfig:
    return validate(PruneConfig, inherited_settings(parent))


def _write_schedule(parent: Run, suggestion: Suggestion, group: str) -> tuple[str, str]:
    """In a thread: the suggested schedule as a file of the session; its path from the home, and
    its text."""
    start, end = pruning_epochs(_settings(parent).epochs)
    text = suggestion_to_schedule(suggestion, start, end, group=group)
    stem = f"suggested-{100 * suggestion.sparsity:.0f}"
    return choices.save_schedule(parent.session, stem, text), text


def _prune(parent: Run, suggestion: Suggestion, group: str, task: BackgroundTask) -> Run:
    """In a thread: it may fetch a corpus, and starts a process."""
    path, _ = _write_schedule(parent, suggestion, group)
    config = _settings(parent).model_copy(update={"compress": path})
    given = {k: v for k, v in changed_settings(config).items() if k == "compress"}
    command = command_for("prune", given, parent=parent.ref)
    return make_and_launch(parent.session, "prune", config, parent, None, command, task)
