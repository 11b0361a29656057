"""Quantized recurrent layers walked fast: the same integers as the wrappers give, fewer operations.

All input projections of a sequence are computed at once, where the projection is calibrated. An
LSTM whose modules are all calibrated goes further: within a step values stay integers, between two
modules that share a grid nothing is dequantized, and each gate's chain (requantize, sigmoid or
tanh, quantize) is a table over the values that the gate sum can take, made by running the gate's
own wrappers over all of them.

A module that a hook watches, and steps that are not equally tall, need `run_cell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmbench.distiller.modules import DistillerLSTMCell, ModularCell, ModularRecurrent
from lmbench.distiller.modules.cells import State
from lmbench.distiller.modules.recurrent import run_cell
from lmbench.distiller.quantization.integers import EXACT_FLOAT32, IntegerLinear, constant
from lmbench.distiller.quantization.operations import (
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
)
from lmbench.distiller.quantization.weights import RangeLinearQuantParamLayerWrapper
from lmbench.distiller.quantization.wrappers import (
    Grid,
    RangeLinearQuantWrapper,
    attach_grid,
    read_grid,
)

__all__ = ["install_fused", "run_fused"]

_KINDS: dict[str, type[RangeLinearQuantWrapper]] = {
    "fc_gate_x": RangeLinearQuantParamLayerWrapper,
    "fc_gate_h": RangeLinearQuantParamLayerWrapper,
    "eltwiseadd_gate": RangeLinearQuantEltwiseAddWrapper,
    "act_f": RangeLinearFakeQuantWrapper,
    "act_i": RangeLinearFakeQuantWrapper,
    "act_o": RangeLinearFakeQuantWrapper,
    "act_g": RangeLinearFakeQuantWrapper,
    "eltwisemult_cell_forget": RangeLinearQuantEltwiseMultWrapper,
    "eltwisemult_cell_input": RangeLinearQuantEltwiseMultWrapper,
    "eltwiseadd_cell": RangeLinearQuantEltwiseAddWrapper,
    "act_h": RangeLinearFakeQuantWrapper,
    "eltwisemult_hidden": RangeLinearQuantEltwiseMultWrapper,
}


def install_fused(model: nn.Module) -> None:
    """Lets every recurrent layer of a quantized model walk its sequences this way."""
    for module in model.modules():
        if isinstance(module, ModularRecurrent):
            module._runner = run_fused


def run_fused(
    cell: ModularCell, steps: Sequence[Tensor], initial: State, reverse: bool
) -> tuple[list[Tensor], State]:
    """As `run_cell`, by the fast walk where it applies."""
    equal = steps[-1].shape[0] == steps[0].shape[0]
    if torch.is_grad_enabled() or cell.training or not equal or not _projects_at_once(cell):
        return run_cell(cell, steps, initial, reverse)
    if isinstance(cell, DistillerLSTMCell) and _all_integers(cell):
        holder = cell.get_submodule("fc_gate_h")
        assert isinstance(holder, RangeLinearQuantParamLayerWrapper)
        changes = [getattr(cell, name).changes for name in _KINDS]
        plan = holder.cached("plan", lambda: _LSTMPlan.of(cell), changes)
        if not plan.saturates:
            return plan.run(cell, steps, initial, reverse)
    projected, grid = _project(cell, steps)
    outputs, state = list(steps), initial
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        new = cell.step(attach_grid(projected[t], grid), state)
        outputs[t] = new[0]
        # a view carries no grid, as in `run_cell`
        state = tuple(part.view_as(part) for part in new)
    return outputs, state


def _project(cell: ModularCell, steps: Sequence[Tensor]) -> tuple[Tensor, Grid]:
    """Every step's input projection: (time, batch, GATES * hidden), and its grid."""
    x = torch.stack(tuple(steps))
    carried = read_grid(steps[0])
    projected = cell.fc_gate_x(x if carried is None else attach_grid(x, carried))
    return projected, _known(read_grid(projected))


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _projects_at_once(cell: ModularCell) -> bool:
    """Is the input projection calibrated, so that steps do not depend on one another's ranges?"""
    module: nn.Module = cell.fc_gate_x
    return (
        type(module) is RangeLinearQuantParamLayerWrapper
        and module.output_grid is not None
        and not _watched(module)
        and not _watched(cell)
    )


def _all_integers(cell: DistillerLSTMCell) -> bool:
    for name, kind in _KINDS.items():
        module = getattr(cell, name)
        grid = module.output_grid if type(module) is kind else None
        # A zero point that was set may lie between two integers.
        if grid is None or not grid.zero_point.is_integer() or _watched(module):
            return False
        if module.clip_half_range or not module.inputs_quant_auto_fallback:
            return False
    projection = cell.get_submodule("fc_gate_h")
    # Products with grouped weights are summed in floats.
    return isinstance(projection, RangeLinearQuantParamLayerWrapper) and not projection.grouped


@dataclass(frozen=True)
class _Requantize:
    """To the shifted integers of another grid, in place."""

    factor: Tensor
    grid: Grid

    def __call__(self, x: Tensor) -> Tensor:
        return self.grid.round_(x.mul_(self.factor))


@dataclass(frozen=True)
class _LSTMPlan:
    """The constants of one cell's walk, read off its wrappers.

    Attributes:
        saturates: an element-wise result can exceed its accumulator, which the walk does not limit,
            or what float32, in which the walk computes, holds exactly.
    """

    hidden_in: Grid
    product: IntegerLinear
    requant_h: _Requantize
    gate_factor_x: Tensor
    gate_factor_h: Tensor
    gates: Grid
    gate_offset: Tensor
    gate_table: Tensor
    cell_in: Grid
    forget: _Requantize
    forget_factor: Tensor
    entry: _Requantize
    entry_factor: Tensor
    cell_out: Grid
    cell_table: Tensor
    hidden: _Requantize
    hidden_out: Grid
    saturates: bool

    @classmethod
    def of(cls, cell: DistillerLSTMCell) -> _LSTMPlan:
        """Prepares the walk of a cell."""
        w: dict[str, RangeLinearQuantWrapper] = {n: getattr(cell, n) for n in _KINDS}
        out = {name: _known(wrapper.output_grid) for name, wrapper in w.items()}
        fc_h, add, add_cell = w["fc_gate_h"], w["eltwiseadd_gate"], w["eltwiseadd_cell"]
        assert isinstance(fc_h, RangeLinearQuantParamLayerWrapper)
        assert isinstance(add, RangeLinearQuantEltwiseAddWrapper)
        assert isinstance(add_cell, RangeLinearQuantEltwiseAddWrapper)
        hidden_in = _known(fc_h.input_grid(0))
        cell_in = _known(w["eltwisemult_cell_forget"].input_grid(1))
        product, scale = fc_h.product(hidden_in)
        assert isinstance(product, IntegerLinear)
        gates, cells = out["eltwiseadd_gate"], out["eltwiseadd_cell"]
        tables = [
            _table(w[name], gates, carried=False) for name in ("act_i", "act_f", "act_g", "act_o")
        ]
        width = len(tables[0])
        device = fc_h.w_scale.device
        # where each gate's table begins, for every column; the lowest gate sum is its entry 0
        offset = torch.arange(4, device=device).repeat_interleave(cell.hidden_size) * width

        def multiply(name: str, a: float, b: float) -> _Requantize:
            accum = float(torch.tensor(1.0) * a * b)
            return _requantize(w[name], out[name], accum)

        h_grid = out["fc_gate_h"]
        x_factor = add.operand_factor(gates.scale, out["fc_gate_x"].scale)
        h_factor = add.operand_factor(gates.scale, h_grid.scale)
        kept, new = out["eltwisemult_cell_forget"], out["eltwisemult_cell_input"]
        kept_factor = add_cell.operand_factor(cells.scale, kept.scale)
        new_factor = add_cell.operand_factor(cells.scale, new.scale)
        largest = {
            "eltwiseadd_gate": _sum((out["fc_gate_x"], x_factor), (h_grid, h_factor)),
            "eltwisemult_cell_forget": out["act_f"].magnitude * cell_in.magnitude,
            "eltwisemult_cell_input": out["act_i"].magnitude * out["act_g"].magnitude,
            "eltwiseadd_cell": _sum((kept, kept_factor), (new, new_factor)),
            "eltwisemult_hidden": out["act_o"].magnitude * out["act_h"].magnitude,
        }
        return cls(
            hidden_in,
            product,
            _requantize(fc_h, h_grid, scale),
            constant(x_factor),
            constant(h_factor),
            gates,
            offset - round(gates.low),
            torch.cat(tables),
            cell_in,
            multiply("eltwisemult_cell_forget", out["act_f"].scale, cell_in.scale),
            constant(kept_factor),
            multiply("eltwisemult_cell_input", out["act_i"].scale, out["act_g"].scale),
            constant(new_factor),
            cells,
            _table(w["act_h"], cells, carried=True),
            multiply("eltwisemult_hidden", out["act_o"].scale, out["act_h"].scale),
            out["eltwisemult_hidden"],
            any(
                size >= min(2 ** (w[name].num_bits_accum - 1), EXACT_FLOAT32)
                for name, size in largest.items()
            ),
        )

    def run(
        self, cell: DistillerLSTMCell, steps: Sequence[Tensor], initial: State, reverse: bool
    ) -> tuple[list[Tensor], State]:
        """Steps (batch, input) → hidden states (batch, hidden) a step, and the last state."""
        projected, grid = _project(cell, steps)  # (time, batch, 4 * hidden)
        gates_x = grid.integers(projected).mul_(self.gate_factor_x).round_()
        hidden, memory = initial
        outputs: list[Tensor] = [hidden] * len(steps)
        for t in reversed(range(len(steps))) if reverse else range(len(steps)):
            hidden, memory = self._step(gates_x[t], hidden, memory)
            outputs[t] = attach_grid(hidden, self.hidden_out)
        return outputs, (hidden.view_as(hidden), memory)

    def _step(self, gates_x: Tensor, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        accum = self.product(self.hidden_in.integers(hidden))
        if accum.dtype != torch.float32:
            accum = self.requant_h(accum).float()
        else:
            self.requant_h(accum)
        total = accum.mul_(self.gate_factor_h).round_().add_(gates_x)
        total.clamp_(self.gates.low, self.gates.high)
        index = total.long().add_(self.gate_offset)
        entry, forget, candidate, out = self.gate_table.take(index).chunk(4, dim=1)  # i f g o
        kept = self.forget(self.cell_in.integers(memory).mul_(forget))
        new = self.entry(entry * candidate)
        kept.mul_(self.forget_factor).round_()
        new.mul_(self.entry_factor).round_()
        memory = kept.add_(new).clamp_(self.cell_out.low, self.cell_out.high)
        squashed = self.cell_table.take(memory.long().sub_(round(self.cell_out.low)))
        hidden = self.hidden_out.values_(self.hidden(squashed.mul_(out)))
        return hidden, self.cell_out.values_(memory)


def _known(grid: Grid | None) -> Grid:
    assert grid is not None
    return grid


def _sum(*operands: tuple[Grid, float]) -> float:
    """The largest magnitude of a sum of rescaled operands."""
    return sum(grid.magnitude * factor + 1 for grid, factor in operands)


def _requantize(
    wrapper: RangeLinearQuantWrapper, grid: Grid, accum_scale: float | Tensor
) -> _Requantize:
    factor = wrapper.requant_factor(grid, accum_scale)
    return _Requantize(factor if isinstance(factor, Tensor) else constant(factor), grid)


def _table(wrapper: RangeLinearQuantWrapper, grid: Grid, carried: bool) -> Tensor:
    """The output integers of an activation for each integer of its input's grid.

    Args:
        carried: whether the input comes with its grid, or is quantized anew by the wrapper.
    """
    device = wrapper.get_buffer("output_scale").device
    values = torch.arange(round(grid.low), round(grid.high) + 1, device=device).float()
    x = values / grid.scale
    out = wrapper(attach_grid(x, grid) if carried else x)
    return _known(wrapper.output_grid).integers(out)
