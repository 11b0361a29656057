"""One tensor of a run's checkpoint: distribution, zeros, gates, and its sparsity over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Colour, Series
from lmbench.report.tensor_distribution import Part, TensorReport, inspect_tensor
from lmbench.tui.bench.float_model_run import checkpoint_of
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.bars import draw_histogram
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel, PicturePanel, update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar

__all__ = ["TensorScreen"]

_GATE_WORDS = {
    "i": "i input", "f": "f forget", "g": "g cell", "o": "o output",
    "r": "r reset", "z": "z update", "n": "n new",
}  # fmt: skip
# Shares of zeros that look alike.
_SAME = 0.0005
_PARTS = (
    Column("rows of", 10, left=True),
    Column("sparsity %", 12, grow=2),
    Column("distribution", 14, left=True, grow=3, rank=1),
    Column("mean ≠0", 9, rank=2),
    Column("|mean| ≠0", 9),
    Column("std ≠0", 8),
    Column("least", 8, rank=3),
    Column("most", 8, rank=3),
)


class DistributionPanel(PicturePanel):
    """The histogram of the whole tensor or of one gate."""

    TITLE = "Distribution"
    HELP = """
A histogram of the weights, of the whole tensor or of the gate under the cursor below. Zeros are
counted apart, in a bar at the foot: they would dwarf the rest. **y** changes to a logarithmic
scale, which shows the few weights far from zero, too.
"""
    DEFAULT_CSS = "DistributionPanel { width: 1fr; height: 1fr; }"

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, TensorScreen)
        picture = self.query_one(Static)
        report, part = screen.report, screen.part
        if report is None or part is None:
            update_static(picture, Text(screen.problem or "reading …", "dim"))
            self.set_subtitle("")
            return
        size = self.content_size
        style = self.bench.colour_style("primary")
        drawn = draw_histogram(
            part, report.limits, size.width, size.height - 1, log=screen.logarithmic, style=style
        )
        update_static(picture, Text("\n").join([drawn, self._zeros(part, size.width)]))
        name = "all rows" if part.name == "all" else f"gate {part.name}"
        self.set_subtitle(f"{name} · {'log ' if screen.logarithmic else ''}counts")

    def _zeros(self, part: Part, width: int) -> Text:
        """The zeros, apart from the columns: they would be higher than all of them."""
        said = f" {100 * part.sparsity:.1f}% of {part.elements:,}"
        room = max(width - len("zeros ") - len(said), 4)
        full = round(part.sparsity * room)
        line = Text("zeros ", "dim")
        line.append("█" * full, self.bench.colour_style("accent"))
        line.append("░" * (room - full), self.bench.colour_style("faint"))
        line.append(said)
        if part.bad:
            line.append(f", {part.bad:,} not finite", self.bench.colour_style("error"))
        line.truncate(width)
        return line


class CoursePanel(PicturePanel):
    """The tensor's sparsity over the run's steps, with the target."""

    TITLE = "Sparsity over time"
    HELP = """
The share of zeros in this tensor over the steps of the run, with the schedule's target as a thin
line. A run that prunes nothing has none.
"""
    DEFAULT_CSS = "CoursePanel { width: 1fr; height: 1fr; }"

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, TensorScreen)
        picture, view = self.query_one(Static), screen.view
        series = _course(view, screen.tensor, self.bench.colour) if view else ()
        if view is None or not series:
            none = "No sparsity of this tensor was written in this run."
            update_static(picture, Text(none if view else screen.problem, "dim"))
            self.set_subtitle("")
            return
        size = self.content_size
        drawing = draw(Plot(series, unit="share"), size.width, size.height, self.bench.plot_colours)
        update_static(picture, Text("\n").join(drawing.lines))
        newest = float(series[0].y[-1])
        self.set_subtitle(f"{100 * newest:.1f}% at step {series[0].x[-1]:,.0f}")


class TensorScreen(BenchScreen[None]):
    """Opened by Enter in the layers table."""

    HELP = """
One tensor of a run, read from its checkpoint. **← →** go to the next tensor, **b** changes between
the best checkpoint and the last one, **F5** reads the file again while the run goes on. Below
stands a line for all rows and one for each gate of a recurrent layer: zeros, a small histogram,
minimum and maximum, and mean, mean magnitude and standard deviation of the weights that are not
zero (≠0; the table of layers has them of all weights). **↑ ↓** choose which is drawn large.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "back", id="tensor.back", tooltip="Back to the main screen"),
        Binding("right_square_bracket,right", "turn(1)", "next tensor", id="tensor.next",
                key_display="← →", tooltip="The next tensor"),
        Binding("left_square_bracket,left", "turn(-1)", "previous tensor", id="tensor.previous",
                show=False, tooltip="The previous tensor"),
        Binding("y", "log", "log", id="tensor.log", tooltip="Logarithmic or linear counts"),
        Binding("b", "checkpoint", "best/last", id="tensor.checkpoint",
                tooltip="The best checkpoint or the last"),
        Binding("f5", "reload", "read again", id="tensor.reload", tooltip="Read the file again"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    TensorScreen #head { height: 2; padding: 0 1; background: $panel; }
    TensorScreen #upper { height: 1fr; }
    TensorScreen #parts {
        height: auto; max-height: 8; border: round $border-blurred; padding: 0;
    }
    TensorScreen #parts:focus-within { border: heavy $accent; }
    TensorScreen Grid { height: auto; max-height: 6; }
    """

    def __init__(self, key: str, tensor: str) -> None:
        """`key` is the run's; `tensor` the name of a tensor, or of a module with a ``weight``."""
        super().__init__()
        self.key = key
        self.tensor = tensor
        self.report: TensorReport | None = None
        self.problem = ""
        self.logarithmic = False
        self._which = ""
        # All tensors of the file that was read last: one of them may be unreadable.
        self._names: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Horizontal(id="upper"):
            yield DistributionPanel(id="distribution")
            yield CoursePanel(id="course")
        with Vertical(id="parts"):
            yield Grid()
        yield KeyBar()

    def on_mount(self) -> None:
        self.logarithmic = self.bench.recall("tensor") == "log"
        self.query_one(Grid).focus()
        self._which = checkpoint_of(self.view) if self.view else "best"
        self.read()
        self.watch(self.app, "snapshot", self._read_if_gone, init=False)

    @property
    def view(self) -> RunView | None:
        return self.bench.snapshot.run(self.key)

    @property
    def part(self) -> Part | None:
        """The whole tensor or the gate under the cursor."""
        if self.report is None:
            return None
        chosen = self.query_one(Grid).cursor_key
        return next((p for p in self.report.parts if p.name == chosen), self.report.parts[0])

    # -- reading -------------------------------------------------------------------------------

    def read(self) -> None:
        """Read the tensor, in a thread."""
        self.bench.start_work(self._read(), owner=self, group="tensor", exclusive=True)

    def _read_if_gone(self) -> None:
        known = self.view is not None or self.problem == self._gone_words
        if not known and self.bench.snapshot.complete:
            self.read()

    @property
    def _gone_words(self) -> str:
        return f"run {self.key} is gone: its folder is not there"

    async def _read(self) -> None:
        view = self.view
        folder = view.run.checkpoint(self._which) if view is not None else None
        self.problem = ""
        if view is None:
            self.report, self.problem = None, self._gone_words
            self.bench.show_message(self.problem, keep=False)
        elif folder is None:
            self.report = None
            self.problem = f"{view.title} has no checkpoint '{self._which}' yet"
        else:
            model = str(view.record.shape.get("model", "")) if view.record else ""
            await self._inspect(folder / "model.safetensors", model)
        self._show()

    async def _inspect(self, path: Path, model: str) -> None:
        report = await self.bench.run_in_thread(
            inspect_tensor, path, self.tensor, model, doing="while reading a tensor"
        )
        if report is not None:
            self.report, self.tensor, self._names = report, report.name, report.names
        else:
            self.report, self.problem = None, "it cannot be read"

    # -- what is shown -------------------------------------------------------------------------

    def _show(self) -> None:
        view, report = self.view, self.report
        head = Text(no_wrap=True, overflow="ellipsis")
        if view is not None:
            mark = mark_of(view.id)
            head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
            head.append(f"{view.title}  ")
        head.append(one_line(self.tensor), "bold")
        if report is not None:
            shape = "×".join(str(side) for side in report.shape)
            head.append(f"  {shape}  {report.dtype.lower()}")
        head.append(f"\n{self._origin() if view else self.problem}", "dim")
        self.query_one("#head", Static).update(head)
        parts = report.parts if report is not None else ()
        self.query_one(Grid).show(_PARTS, tuple((part.name, _cells(part)) for part in parts))
        for panel in self.query(Panel):
            panel.refresh_view()

    def _origin(self) -> str:
        view = self.view
        step = view.checkpoint.step if view and view.checkpoint else None
        words = f"{self._which} checkpoint"
        if self._which == "last" and step is not None:
            words += f", step {step:,}{self._pruned_since(step)}"
        if self.report is not None:
            names = self.report.names
            here = names.index(self.report.name) + 1
            words += f" · {here} of {len(names)}"
            words += f" · {numbers.short(self.report.parts[0].elements)} elements"
        return words

    def _pruned_since(self, step: int) -> str:
        """A checkpoint may be of the very step at which the next pruning then came."""
        view, report = self.view, self.report
        reached = view.curves.sparsity.get(report.name) if view and report else None
        if report is None or reached is None or not len(reached):
            return ""
        last, share = int(reached["step"][-1]), float(reached["value"][-1])
        if last < step or abs(share - report.parts[0].sparsity) < _SAME:
            return ""
        return f", before pruning to {100 * share:.1f}%"

    # -- keys ----------------------------------------------------------------------------------

    def action_turn(self, by: int) -> None:
        if self.tensor in self._names:
            place = self._names.index(self.tensor) + by
            self.tensor = self._names[place % len(self._names)]
            self.query_one(Grid).cursor_key = ""
        self.read()

    def action_log(self) -> None:
        self.logarithmic = not self.logarithmic
        self.bench.remember("tensor", "log" if self.logarithmic else "linear")
        self.query_one(DistributionPanel).refresh_view()

    def action_checkpoint(self) -> None:
        self._which = "last" if self._which == "best" else "best"
        self.read()

    def action_reload(self) -> None:
        self.read()

    def on_grid_moved(self) -> None:
        self.query_one(DistributionPanel).refresh_view()


def _course(view: RunView, tensor: str, colour: Callable[[str], Colour]) -> tuple[Series, ...]:
    """What was reached over the steps, and the target where there was one."""
    reached, target = view.curves.sparsity.get(tensor), view.curves.targets.get(tensor)
    found = []
    if reached is not None and len(reached):
        mark = mark_of(view.id)
        x, y, tint = reached["step"], reached["value"], colour(mark.variable)
        found.append(Series("reached", x, y, mark.marker, tint))
    if target is not None and len(target):
        found.append(Series("target", target["step"], target["value"], style="thin"))
    return tuple(found)


def _cells(part: Part) -> tuple[Cell, ...]:
    figures_of = [part.mean, part.abs_mean, part.std, part.low, part.high]
    return (
        Cell(_GATE_WORDS.get(part.name, part.name)),
        Cell(f"{100 * part.sparsity:5.1f}", share=part.sparsity),
        Cell(counts=tuple(part.counts.tolist())),
        *(Cell(f"{value:.4f}" if math.isfinite(value) else "–") for value in figures_of),
    )
