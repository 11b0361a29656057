"""The laboratory's draft: what each module would be quantized to, and the range of its outputs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from lmbench.jobs.hosts.laboratory_messages import Module
from lmbench.tui.bench.snapshots import short_module
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel
from lmbench.tui.laboratory.quantization_settings import InForce
from lmbench.tui.laboratory.state import LaboratoryState

__all__ = ["ModulesPanel"]

_COLUMNS = (
    Column("layer", 9, left=True),
    Column("module", 16, left=True, grow=2),
    Column("precision", 9, left=True),
    Column("clipping", 10, left=True, rank=1),
    Column("mode w/a", 8, left=True, rank=1),
    Column("channels", 8, left=True, rank=2),
    Column("min", 7, rank=4),
    Column("outputs", 12, left=True, grow=2, rank=3),
    Column("max", 7, rank=4),
    Column("std", 7, rank=5),
    Column("weights", 9, rank=6),
)
_IN_LAYER = re.compile(r"rnn\.cells\.(\d+)\.(.+)")


def _place_of(module: Module) -> tuple[str, str]:
    """The layer that a module is in, and its name there."""
    inside = _IN_LAYER.fullmatch(module.name)
    if inside:
        return f"layer {inside[1]}", inside[2]
    return "embedding" if module.type == "Embedding" else "output", short_module(module.name)


class ModulesPanel(Panel):
    """The modules by layer, with the draft's settings."""

    TITLE = "Modules"
    HELP = """
Each module of the model, by layer, with what the draft makes of it and the range of its outputs on
the calibration text. Some modules get other settings than the rest by themselves, such as the state
of an LSTM, or steps of a GRU that need 16 bits: the table shows what each will get.

- **precision**: bits of weights (w) and activations (a), or a float format; c3 and c2 are weights
  in codes, sums of three or two scaled signs. **b** changes it.
- **clipping**: how the range of the activations is chosen. **c** changes it.
- **mode**: symmetric or asymmetric ranges, of weights / activations where they differ. **m**
  changes it.
- **channels**: has each row of the weights a scale of its own? A number: one for so many weights.
  **h** changes it.

**a** makes these keys change all modules at once. **0** takes back what was changed for the module
alone, **p** starts from a preset. **Enter** evaluates the draft on the sample.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "evaluate", "evaluate", id="lab.evaluate",
            tooltip="Evaluate the draft on the sample",
        ),
        Binding("b", "next('precision')", "precision", id="lab.precision",
                tooltip="Next precision"),
        Binding("c", "next('clip')", "clipping", id="lab.clip", tooltip="Next way of clipping"),
        Binding("h", "next('channels')", "channels", id="lab.channels",
                tooltip="One scale for all weights, or one a channel"),
        Binding("m", "next('mode')", "mode", id="lab.mode", tooltip="Next quantization mode"),
        Binding("a", "everywhere", "one/all", id="lab.all", tooltip="Change one module or all"),
        Binding("0", "reset", "undo module", id="lab.reset",
                tooltip="Take back the module's changes"),
    ]  # fmt: skip

    def __init__(self, state: LaboratoryState, id: str) -> None:
        super().__init__(id=id)
        self.state = state

    def compose(self) -> ComposeResult:
        yield Grid()

    def refresh_view(self) -> None:
        state = self.state
        rows, before = [], ""
        for module in state.modules:
            layer, _ = _place_of(module)
            rows.append((module.name, self._cells(module, first=layer != before)))
            before = layer
        layer, name, *rest = _COLUMNS
        # Names are whole: columns with a rank make way.
        longest = max((cell_len(cells[1].text) for _, cells in rows), default=0)
        name = replace(name, width=max(name.width, longest))
        self.query_one(Grid).show((layer, name, *rest), tuple(rows))
        scope = "all modules" if state.everywhere else "one module"
        self.set_subtitle(f"draft: {state.draft_name} · keys change {scope}" if rows else "")
        self.refresh_bindings()

    def _cells(self, module: Module, first: bool) -> tuple[Cell, ...]:
        layer, name = _place_of(module)
        now = InForce(self.state.draft, module)
        return (
            # Muted below the first of a layer, so that layers stand apart.
            Cell(layer, "" if first else "foreground-muted"),
            Cell(name),
            Cell(now.precision),
            Cell(now.clip),
            Cell(now.mode),
            Cell(now.channels),
            Cell(f"{module.low:.2f}"),
            Cell(counts=module.counts),
            Cell(f"{module.high:.2f}"),
            Cell(f"{module.std:.3f}"),
            Cell(f"{module.weights:,}" if module.weights else ""),
        )

    @property
    def module(self) -> str:
        """The name of the module under the cursor."""
        return self.query_one(Grid).cursor_key

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "reset":
            return bool(self.state.modules) and self.state.has_own(self.module)
        return bool(self.state.modules)

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        return self.state.not_ready

    def action_next(self, what: str) -> None:
        self.state.change_setting(what, self.module)

    def action_everywhere(self) -> None:
        self.state.toggle_scope()

    def action_reset(self) -> None:
        self.state.reset(self.module)

    def action_evaluate(self) -> None:
        self.state.evaluate_draft()

    def on_grid_moved(self) -> None:
        self.refresh_bindings()
