"""The three panels of the laboratory: modules, tries, and the pruning slider."""

from __future__ import annotations

import math
import textwrap
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from lmbench.report import numbers
from lmbench.report.plots.draw import Look, draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Series
from lmbench.tui.bench.snapshots import one_line, short_module
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.laboratory.candidates import Try, best_first
from lmbench.tui.laboratory.quantization_settings import InForce
from lmbench.tui.laboratory.saved_state import Pruned
from lmbench.tui.laboratory.state import Desk

__all__ = ["ModulesPanel", "PrunePanel", "TriesPanel"]

_MODULES = (
    Column("module", 17, left=True, grow=2),
    Column("bits", 6, left=True),
    Column("clip", 7, left=True, rank=1),
    Column("ch", 3, left=True, rank=2),
    Column("mode", 8, left=True, rank=1),
    Column("least", 7, rank=3),
    Column("output", 12, left=True, grow=2, rank=2),
    Column("most", 7, rank=3),
    Column("std", 7, rank=4),
    Column("weights", 9, rank=5),
)
_TRIES = (
    Column("try", 14, left=True, grow=1),
    Column("ppl", 7),
    Column("change", 7),
    Column("size", 8),
    Column("loss", 8, rank=2),
    Column("time", 6, rank=3),
    Column("settings", 14, left=True, grow=3, rank=1),
)
# Changes of the perplexity against the model as it is, in percent.
_GOOD, _POOR = 0.5, 5.0
# Narrower than this the slider says in a second line what is left.
_ONE_LINE = 72


def _short(clip: str) -> str:
    return "pctile" if clip == "percentile" else clip


class _LabPanel(Panel):
    def __init__(self, desk: Desk, id: str) -> None:
        super().__init__(id=id)
        self.desk = desk


class ModulesPanel(_LabPanel):
    """The draft: what each module would be quantized to, and the range of its outputs."""

    TITLE = "Modules"
    HELP = """
Each module of the model with the range of its outputs, as they were on the calibration text, and
what the draft makes of it: also where a cell asks for more than the settings of all, as an LSTM for
its state and a GRU for steps in 16 bits. **b** turns its precision, **c** how its activations are
clipped, **h** one scale or one for each channel, **m** the mode. **a** makes these keys change all
modules at once. **0** takes back what was changed for the module alone, **p** starts from a preset.
**Enter** prices the draft on the sample.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "price", "price it", id="lab.price", tooltip="Price the draft"),
        Binding(
            "b", "turn('precision')", "precision", id="lab.precision", tooltip="Next precision"
        ),
        Binding("c", "turn('clip')", "clip", id="lab.clip", tooltip="Next clip mode"),
        Binding(
            "h", "turn('channels')", "channels", id="lab.channels", tooltip="One scale or many"
        ),
        Binding("m", "turn('mode')", "mode", id="lab.mode", tooltip="Next quantization mode"),
        Binding("a", "everywhere", "one/all", id="lab.all", tooltip="Change one module or all"),
        Binding("0", "reset", "as all", id="lab.reset", tooltip="Take back the module's changes"),
    ]

    def compose(self) -> ComposeResult:
        yield Grid()

    def refresh_view(self) -> None:
        desk = self.desk
        settings = desk.draft
        rows = []
        for module in desk.modules:
            now = InForce(settings, module)
            rows.append(
                (
                    module.name,
                    (
                        Cell(short_module(module.name)),
                        Cell(now.precision),
                        Cell(_short(now.clip)),
                        Cell(now.channels),
                        Cell(now.mode),
                        Cell(f"{module.low:.2f}"),
                        Cell(counts=module.counts),
                        Cell(f"{module.high:.2f}"),
                        Cell(f"{module.std:.3f}"),
                        Cell(f"{module.weights:,}" if module.weights else ""),
                    ),
                )
            )
        self.query_one(Grid).show(_MODULES, tuple(rows))
        scope = "all modules" if desk.everywhere else "one module"
        self.set_subtitle(f"draft: {desk.draft_name} · keys change {scope}" if rows else "")
        self.refresh_bindings()

    @property
    def module(self) -> str:
        """The name of the module under the cursor."""
        return self.query_one(Grid).cursor_key

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "reset":
            return bool(self.desk.modules) and self.desk.has_own(self.module)
        return bool(self.desk.modules)

    def action_turn(self, what: str) -> None:
        self.desk.turn(what, self.module)

    def action_everywhere(self) -> None:
        self.desk.turn_scope()

    def action_reset(self) -> None:
        self.desk.reset(self.module)

    def action_price(self) -> None:
        self.desk.price_draft()

    def on_grid_moved(self) -> None:
        self.refresh_bindings()


class TriesPanel(_LabPanel):
    """What was tried, best first."""

    class Taken(Message):
        """A try was made the draft."""

    TITLE = "Tries"
    HELP = """
Each setting that was tried, the best first: perplexity on the sample, its change against the model
as it is, the size of the packed model. Below stand the settings of the one under the cursor.
**Enter** takes a try back into the draft, **K** keeps it: that makes a quantize run of it, scored
on all of valid and test. **x** forgets it.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "to draft", id="lab.take", tooltip="Take the try into the draft"),
        Binding("x", "forget", "forget", id="lab.forget", tooltip="Forget the try"),
    ]
    DEFAULT_CSS = """
    TriesPanel #nothing { display: none; height: 1fr; padding: 0 1; color: $text-muted; }
    TriesPanel.-empty #nothing { display: block; }
    TriesPanel.-empty Grid, TriesPanel.-empty #settings { display: none; }
    TriesPanel #settings { height: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("", id="settings", markup=False)
        yield Static(
            "Nothing was tried yet: Enter prices the draft, u the published rows.",
            id="nothing",
            markup=False,
        )

    def refresh_view(self) -> None:
        tries = best_first(self.desk.tries)
        empty = not tries
        self.set_class(empty, "-empty")
        self.can_focus = empty
        self.query_one(Grid).show(_TRIES, tuple((str(t.number), self._cells(t)) for t in tries))
        waiting = sum(t.state in ("waiting", "working") for t in tries)
        self.set_subtitle(f"{waiting} to be priced" if waiting else "")
        self._show_settings()
        self.refresh_bindings()

    def on_resize(self) -> None:
        self._show_settings()

    def _show_settings(self) -> None:
        """In full words what the grid may have no room for, of the try under the cursor."""
        line, chosen = self.query_one("#settings", Static), self.chosen
        said = "" if chosen is None else one_line(chosen.problem or chosen.words)
        # As many lines as the screen's styles give it.
        room = 2 if self.screen.has_class("-wide") else 1
        width = max(self.content_size.width, 1)
        lines = textwrap.wrap(said, width, max_lines=room, placeholder=" …")
        update_static(line, "\n".join(lines))

    def _cells(self, entry: Try) -> tuple[Cell, ...]:
        name = Cell(entry.name)
        words = Cell(entry.words)
        if entry.state == "failed":
            return (name, Cell("failed", "error"), *(Cell(),) * 4, Cell(one_line(entry.problem)))
        if entry.state != "priced":
            sign = "…" if entry.state == "waiting" else "▶"
            return (name, Cell(sign), *(Cell(),) * 4, words)
        change = self.desk.change(entry.ppl)
        return (
            name,
            Cell(numbers.perplexity(entry.ppl)),
            _percent(change),
            Cell(numbers.size(entry.bytes)),
            Cell(f"{entry.loss:.4f}"),
            Cell(f"{entry.seconds:.1f} s"),
            words,
        )

    @property
    def chosen(self) -> Try | None:
        """The try under the cursor."""
        key = self.query_one(Grid).cursor_key
        return next((t for t in self.desk.tries if str(t.number) == key), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        chosen = self.chosen
        if action == "take":
            return chosen is not None and bool(chosen.settings)
        return chosen is not None and chosen.state in ("priced", "failed")

    def action_take(self) -> None:
        if self.chosen is not None:
            self.desk.take(self.chosen)
            self.post_message(self.Taken())

    def action_forget(self) -> None:
        if self.chosen is not None:
            self.desk.forget(self.chosen)

    def on_grid_moved(self) -> None:
        self._show_settings()
        self.refresh_bindings()


def _percent(change: float | None) -> Cell:
    if change is None:
        return Cell()
    tint = "success" if change <= _GOOD else "error" if change > _POOR else "warning"
    return Cell(f"{change:+z.1f}%" if abs(change) < 1000 else ">999%", tint)


def _left(price: Pruned) -> str:
    return f"{price.left:,} weights left, {numbers.size(price.bytes)} packed"


class PrunePanel(_LabPanel, can_focus=True):
    """The slider: what would taking so much away at once cost?"""

    TITLE = "Prune at once"
    HELP = """
What would it cost to prune the whole model, or one tensor, to this level at once, by magnitude,
without training on, and how small would it get when packed (fp32, zeros left out)? **← →** move the
level by five points (**[ ]** by one), **digits** go to 10% … 90%, **t** chooses what is pruned. The
price comes by itself; levels that were priced make a curve.
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

    def compose(self) -> ComposeResult:
        yield Static("", id="slider")

    def on_resize(self) -> None:
        self.refresh_view()

    def refresh_view(self) -> None:
        desk, size = self.desk, self.content_size
        wide = size.width >= _ONE_LINE
        lines = [self._line(size.width, wide)]
        price = desk.pruned.get(desk.target, {}).get(desk.level)
        if price is not None and not wide:
            lines.append(Text(_left(price)))
        points = sorted(desk.pruned.get(desk.target, {}).items())
        if size.height >= 7 and len(points) > 1:
            lines += self._curve(points, size.width, size.height - len(lines))
        elif size.height > len(lines):
            said = [f"{100 * level:.0f}% {numbers.perplexity(p.ppl)}" for level, p in points]
            lines.append(Text("priced: " + " · ".join(said) if said else "", "dim"))
        for line in lines:
            line.truncate(size.width, overflow="ellipsis")
        update_static(self.query_one(Static), Text("\n").join(lines))
        self.set_subtitle("all matrices" if desk.target == "model" else desk.target)

    def _line(self, width: int, wide: bool) -> Text:
        desk = self.desk
        price = desk.pruned.get(desk.target, {}).get(desk.level)
        line = Text(f"{100 * desk.level:3.0f}% ", "bold", no_wrap=True)
        if not desk.modules:
            said = "when the model is loaded, its levels can be priced"
        elif price is None:
            said = "…" if desk.level_asked else "← → price a level"
        else:
            change = desk.change(price.ppl)
            said = f"ppl {numbers.perplexity(price.ppl)}"
            said += f" ({change:+z.1f}%)" if change is not None and change < 1000 else ""
            said += f"  {_left(price)}" if wide else ""
        room = min(max(width - len(said) - 7, 0), 40)
        full = round(desk.level * room)
        line.append("━" * full, self.bench.colour_style("accent"))
        line.append("●" if room else "", self.bench.colour_style("accent"))
        line.append("─" * (room - full) + " ", self.bench.colour_style("faint"))
        line.append(said, "not bold")
        return line

    def _curve(self, points: list[tuple[float, Pruned]], width: int, height: int) -> list[Text]:
        x = np.array([100 * level for level, _ in points])
        y = np.array([price.ppl for _, price in points])
        y[y > 1e6] = math.nan
        series = Series("ppl", x, y, "●", self.bench.colour("primary"), "points")
        plot = Plot((series,), x_axis="sparsity %", log=True, window=(0.0, 100.0))
        look = Look(self.bench.colour("foreground-muted"), self.bench.colour("faint"))
        return draw(plot, width, height, look).lines

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self.desk.modules)

    def action_slide(self, by: float) -> None:
        self.desk.slide_to(self.desk.level + by)

    def action_go(self, level: float) -> None:
        self.desk.slide_to(level)

    def action_target(self) -> None:
        self.desk.next_target()
