"""The sparsity that a schedule will produce, drawn epoch by epoch."""

from __future__ import annotations

from rich.text import Text

from lmbench.report import numbers
from lmbench.report.plots.draw_in_terminal import PlotColours, draw
from lmbench.report.plots.layout import Plot
from lmbench.tui.kit.form import shortened
from lmbench.tui.kit.panel import GuardedWidget
from lmbench.tui.schedule.check import Checked, curves

__all__ = ["ScheduleCurves"]

_COLOURS = 8


class ScheduleCurves(GuardedWidget):
    """The plan of a schedule, drawn; what is wrong with it stands under the editor."""

    DEFAULT_CSS = """
    ScheduleCurves { width: 1fr; height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked = Checked(())

    def show(self, checked: Checked) -> None:
        self.checked = checked
        self.refresh()

    def render(self) -> Text:
        plan = self.checked.plan
        if plan is None:
            return Text("The curves come back when the schedule is in order.", "dim")
        bench = self.bench
        width, height = self.content_size
        series = curves(plan, [bench.colour(f"series-{n}") for n in range(1, _COLOURS + 1)])
        legend = Text()
        numbered = list(enumerate(series))
        room = max(height // 2, 3)
        left_out = len(series) - room + 1 if len(series) > room else 0
        if left_out:
            # The last of them is the whole model.
            del numbered[room - 2 : -1]
        for number, one in numbered:
            if left_out and one is series[-1]:
                legend.append(f"\n  … {left_out} more", "dim")
            last = numbers.percent(float(one.y[-1])).rjust(6)
            style = bench.colour_style(f"series-{number % _COLOURS + 1}")
            legend.append(f"\n{one.marker} ", style)
            legend.append(f"{last}  {shortened(one.label, width - 10)}")
        outcome = _outcome(self.checked)
        outcome.append_text(legend)
        lines = outcome.wrap(bench.console, max(width, 1))
        rows = height - len(lines)
        look = PlotColours(axes=bench.colour("faint"), faint=bench.colour("faint"))
        picture = draw(Plot(series, x_axis="epoch", unit="share"), width, rows, look)
        return Text("\n").join([*picture.lines, *lines]) if rows > 0 else outcome


def _outcome(checked: Checked) -> Text:
    plan = checked.plan
    assert plan is not None
    if plan.final_sparsity is None:
        return Text("thresholds decide, so the total depends on the weights", "bold")
    about = "about " if plan.estimated else ""
    epochs = numbers.plural(plan.epochs, "epoch")
    return Text.assemble(
        (f"{about}{100 * plan.final_sparsity:.1f}% zero", "bold"),
        f" after {epochs}: {plan.final_nonzero:,} of {plan.total:,} stay",
    )
