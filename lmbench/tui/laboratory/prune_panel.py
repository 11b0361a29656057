"""The laboratory's slider: what pruning so much at once, without training on, would cost."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Static

from lmbench.report import numbers
from lmbench.report.plots.draw_in_terminal import PlotColours, draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Series
from lmbench.tui.kit.panel import PicturePanel, update_static
from lmbench.tui.laboratory.saved_state import PrunedScore
from lmbench.tui.laboratory.state import LaboratoryState

__all__ = ["PrunePanel"]

# Narrower than this, a second line says what is left.
_ONE_LINE = 72


def _left(score: PrunedScore) -> str:
    return f"{score.left:,} weights left, {numbers.size(score.bytes)} packed"


class PrunePanel(PicturePanel, can_focus=True):
    """A level, its perplexity and size, and the curve of those that were evaluated."""

    TITLE = "Prune at once"
    HELP = """
Perplexity and packed size (nothing rounded, zeros left out) of the model when all of it, or one
tensor, is pruned to this level at once, by magnitude, without further training. **← →** move the
level by five points (**[ ]** by one), **digits** go to 10% … 90%, **t** chooses what is pruned.
A level is evaluated as soon as the slider rests there; the evaluated levels make a curve. **K**
opens the form for a run that prunes to this level at once, and then trains for an epoch or more:
what it makes is not the model that was evaluated here.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right,l", "slide(0.05)", "level", id="lab.more", key_display="← →",
            tooltip="Prune more",
        ),
        Binding("left,h", "slide(-0.05)", "less", id="lab.less", show=False, tooltip="Prune less"),
        Binding(
            "right_square_bracket", "slide(0.01)", "more", id="lab.more_1", show=False,
            tooltip="Prune one point more",
        ),
        Binding(
            "left_square_bracket", "slide(-0.01)", "less", id="lab.less_1", show=False,
            tooltip="Prune one point less",
        ),
        Binding("t", "target", "tensor", id="lab.target", tooltip="What is pruned"),
        *(
            Binding(
                str(digit), f"go({digit / 10})", f"{digit}0%", id=f"lab.prune_{digit}", show=False,
                tooltip=f"Prune {10 * digit}%",
            )
            for digit in range(10)
        ),
    ]  # fmt: skip

    def __init__(self, state: LaboratoryState, id: str) -> None:
        super().__init__(id=id)
        self.state = state

    def refresh_view(self) -> None:
        state, size = self.state, self.content_size
        wide = size.width >= _ONE_LINE
        lines = [self._line(size.width, wide)]
        scores = state.pruned.get(state.target, {})
        score = scores.get(state.level)
        if score is not None and not wide:
            lines.append(Text(_left(score)))
        points = sorted(scores.items())
        if size.height >= 7 and len(points) > 1:
            lines += self._curve(points, size.width, size.height - len(lines))
        elif size.height > len(lines):
            words = [f"{100 * level:.0f}% {numbers.perplexity(p.ppl)}" for level, p in points]
            lines.append(Text("evaluated: " + " · ".join(words) if words else "", "dim"))
        for line in lines:
            line.truncate(size.width, overflow="ellipsis")
        update_static(self.query_one(Static), Text("\n").join(lines))
        self.set_subtitle("all matrices" if state.target == "model" else state.target)

    def _line(self, width: int, wide: bool) -> Text:
        state = self.state
        score = state.pruned.get(state.target, {}).get(state.level)
        line = Text(f"{100 * state.level:3.0f}% ", "bold", no_wrap=True)
        if not state.modules:
            words = "the model is being loaded"
        elif score is None:
            words = "evaluating …" if state.level_pending else "← → choose a level"
        else:
            change = state.change(score.ppl)
            words = f"perplexity {numbers.perplexity(score.ppl)}"
            words += f" ({change:+z.1f}%)" if change is not None and change < 1000 else ""
            words += f"  {_left(score)}" if wide else ""
        room = min(max(width - len(words) - 7, 0), 40)
        full = round(state.level * room)
        line.append("━" * full, self.bench.colour_style("accent"))
        line.append("●" if room else "", self.bench.colour_style("accent"))
        line.append("─" * (room - full) + " ", self.bench.colour_style("faint"))
        line.append(words, "not bold")
        return line

    def _curve(
        self, points: list[tuple[float, PrunedScore]], width: int, height: int
    ) -> list[Text]:
        x = np.array([100 * level for level, _ in points])
        y = np.array([score.ppl for _, score in points])
        y[y > 1e6] = math.nan
        series = Series("ppl", x, y, "●", self.bench.colour("primary"), "points")
        plot = Plot((series,), x_axis="sparsity %", log=True, window=(0.0, 100.0))
        look = PlotColours(self.bench.colour("foreground-muted"), self.bench.colour("faint"))
        return draw(plot, width, height, look).lines

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.state.modules)

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        return self.state.not_ready

    def action_slide(self, by: float) -> None:
        self.state.slide_to(self.state.level + by)

    def action_go(self, level: float) -> None:
        self.state.slide_to(level)

    def action_target(self) -> None:
        self.state.next_target()
