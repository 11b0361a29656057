"""The two panels of sensitivity: the curves, and the schedule that is suggested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from lmbench.distiller.schedules.suggest import Suggestion
from lmbench.report import numbers
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Series
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel, PicturePanel, update_static

__all__ = ["CurvesPanel", "Sensitivity", "SuggestionPanel"]

_TABLE = (
    Column("tensor", 18, left=True, grow=2),
    Column("prune to", 16, grow=2),
    Column("alone", 7),
    Column("weights left", 12, rank=1),
    Column("of", 10, rank=2),
)
# Beyond this a perplexity says nothing but that the model is broken.
_BROKEN = 1e6


class Sensitivity(Protocol):
    """What was measured and what follows from it, as the panels see it."""

    goal: float
    log_axis: bool
    suggestion: Suggestion | None

    @property
    def curves(self) -> Mapping[str, Sequence[tuple[float, float]]]: ...
    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def invitation(self) -> str: ...
    @property
    def words(self) -> str: ...
    def refresh_if_stale(self) -> None: ...
    def cost(self, name: str, level: float) -> float: ...
    def set_goal(self, goal: float) -> None: ...


class _SensitivityPanel(Panel):
    def __init__(self, sensitivity: Sensitivity, id: str) -> None:
        super().__init__(id=id)
        self.sensitivity = sensitivity


class CurvesPanel(_SensitivityPanel, PicturePanel):
    """Perplexity against the level, a curve for each tensor."""

    TITLE = "Sensitivity"
    DEFAULT_CSS = "CurvesPanel { height: 3fr; }"

    def refresh_view(self) -> None:
        screen = self.sensitivity
        screen.refresh_if_stale()
        size, picture = self.content_size, self.query_one(Static)
        curves = screen.curves
        if not curves:
            update_static(picture, Text(screen.invitation, "dim"))
            self.set_subtitle("")
            return
        series = []
        for turn, (name, points) in enumerate(curves.items(), start=1):
            y = np.array([ppl if ppl < _BROKEN else math.nan for _, ppl in points])
            x = np.array([100 * level for level, _ in points])
            mark = mark_of(turn)
            colour = self.bench.colour(mark.variable)
            series.append(Series(name, x, y, mark.marker, colour, "points"))
        look = self.bench.plot_colours
        plot = Plot(tuple(series), x_axis="sparsity %", log=screen.log_axis, window=(0.0, 100.0))
        update_static(picture, Text("\n").join(draw(plot, size.width, size.height, look).lines))
        scale = "log " if screen.log_axis else ""
        self.set_subtitle(f"{scale}perplexity by sparsity in %, pruned alone, at once")


class SuggestionPanel(_SensitivityPanel):
    """How far each tensor should go for the goal, at the least predicted cost."""

    TITLE = "Suggested schedule"
    HELP = """
Each curve shows one tensor: it was pruned alone to several levels, at once and without training,
and the model evaluated at each. **← →** change the goal, the sparsity of the whole model, by five
points (**[ ]** by one). The table shows the sparsity of each tensor at which the predicted
perplexity is lowest for that goal. **Ctrl+S** starts a pruning run under this schedule; **f** opens
it in the form first. Tensors that were measured by rows or blocks are pruned by them. **r**
measures again.
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
        Binding(
            "right_square_bracket", "goal(0.01)", "more", id="sensitivity.more_1", show=False,
            tooltip="A goal one point higher",
        ),
        Binding(
            "left_square_bracket", "goal(-0.01)", "less", id="sensitivity.less_1", show=False,
            tooltip="A goal one point lower",
        ),
    ]  # fmt: skip
    DEFAULT_CSS = """
    SuggestionPanel { height: 2fr; min-height: 8; }
    SuggestionPanel #words { height: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Static("", id="words", markup=False)
        yield Grid()

    def refresh_view(self) -> None:
        screen = self.sensitivity
        # Where this panel is maximised, the other is not refreshed.
        screen.refresh_if_stale()
        update_static(self.query_one("#words", Static), screen.words)
        suggestion, sizes = screen.suggestion, screen.sizes
        rows, left, total = [], 0, 0
        for turn, name in enumerate(screen.curves, start=1):
            target = suggestion.targets.get(name, 0.0) if suggestion else 0.0
            size, mark = sizes.get(name, 0), mark_of(turn)
            kept = size - round(target * size)
            left, total = left + kept, total + size
            rows.append(
                (
                    name,
                    (
                        Cell(f"{mark.marker} {name}", mark.variable),
                        Cell(f"{100 * target:5.1f}%", share=target),
                        Cell(numbers.perplexity(screen.cost(name, target))),
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
                Cell(numbers.perplexity(suggestion.predicted)),
                Cell(f"{left:,}"),
                Cell(f"{total:,}"),
            )
        self.query_one(Grid).show(_TABLE, tuple(rows), sum_up)
        self.set_subtitle(f"goal {100 * screen.goal:.0f}% of the whole model" if rows else "")
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.sensitivity.curves)

    def action_goal(self, by: float) -> None:
        screen = self.sensitivity
        screen.set_goal(screen.goal + by)
