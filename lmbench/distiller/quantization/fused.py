"""A quantized LSTM layer walked fast: the same integers as its wrappers give, fewer operations.

All input projections of a sequence are computed at once. Within a step values stay integers:
between two modules that share a grid nothing is dequantized, and each gate's chain (requantize,
sigmoid or tanh, quantize) is a table over the few values that the gate sum can take, made by
running the gate's own wrappers over all of them.

The walk applies when every module of the cell is calibrated and computes on integers, nobody
watches one of them with a hook, and all steps are equally tall. Else `run_cell` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmbench.distiller.modules import DistillerLSTMCell, ModularCell, ModularRecurrent
from lmbench.distiller.modules.cells import State
from lmbench.distiller.modules.recurrent import run_cell
from lmbench.distiller.quantization.integers import IntegerLinear
from lmbench.distiller.quantization.weights import RangeLinearQuantParamLayerWrapper
from lmbench.distiller.quantization.wrappers import (
    Grid,
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantWrapper,
    attach_grid,
    read_grid,
)

__all__ = ["install_fused", "run_fused"]

_TABLE_BITS = 12
_WIDE_ACCUM = 32  # products of 12-bit integers need 24: nothing element-wise can saturate
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
    """Lets every modular LSTM of a quantized model walk its sequences this way."""
    for module in model.modules():
        if isinstance(module, ModularRecurrent):
            module._runner = run_fused


def run_fused(
    cell: ModularCell, steps: Sequence[Tensor], initial: State, reverse: bool
) -> tuple[list[Tensor], State]:
    """As `run_cell`, by the fast walk where it applies."""
    if torch.is_grad_enabled() or cell.training or not _applies(cell):
        return run_cell(cell, steps, initial, reverse)
    assert isinstance(cell, DistillerLSTMCell)
    if steps[-1].shape[0] != steps[0].shape[0]:
        return run_cell(cell, steps, initial, reverse)
    holder = cell.get_submodule("fc_gate_h")
    assert isinstance(holder, RangeLinearQuantParamLayerWrapper)
    plan = holder.cached("plan", lambda: _LSTMPlan.of(cell))
    return plan.run(cell, steps, initial, reverse)


def _applies(cell: ModularCell) -> bool:
    if not isinstance(cell, DistillerLSTMCell):
        return False
    for name, kind in _KINDS.items():
        module = getattr(cell, name)
        if type(module) is not kind or module.output_grid is None or module._forward_hooks:
            return False
        if module._forward_pre_hooks or module.clip_half_range:
            return False
        bits = module.num_bits_acts
        if bits is None or bits > _TABLE_BITS or not module.inputs_quant_auto_fallback:
            return False
        if module.num_bits_accum < _WIDE_ACCUM:
            return False
    return True


@dataclass(frozen=True)
class _Requantize:
    """To another grid: round(x * factor), limited."""

    factor: float | Tensor
    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        return x.mul_(self.factor).round_().clamp_(self.low, self.high)


@dataclass(frozen=True)
class _LSTMPlan:
    """The constants of one cell's walk, read off its wrappers."""

    hidden_in: Grid
    product: IntegerLinear
    requant_h: _Requantize
    gate_factor_x: float
    gate_factor_h: float
    gates: Grid
    gate_offset: Tensor
    gate_table: Tensor
    cell_in: Grid
    forget: _Requantize
    forget_factor: float
    entry: _Requantize
    entry_factor: float
    cell_out: Grid
    cell_table: Tensor
    hidden: _Requantize
    hidden_out: Grid

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
            grid = out[name]
            return _Requantize(_number(w[name].requant_factor(grid, accum)), grid.low, grid.high)

        h_grid = out["fc_gate_h"]
        return cls(
            hidden_in,
            product,
            _Requantize(fc_h.requant_factor(h_grid, scale), h_grid.low, h_grid.high),
            add.operand_factor(gates.scale, out["fc_gate_x"].scale),
            add.operand_factor(gates.scale, h_grid.scale),
            gates,
            offset - round(gates.low),
            torch.cat(tables),
            cell_in,
            multiply("eltwisemult_cell_forget", out["act_f"].scale, cell_in.scale),
            add_cell.operand_factor(cells.scale, out["eltwisemult_cell_forget"].scale),
            multiply("eltwisemult_cell_input", out["act_i"].scale, out["act_g"].scale),
            add_cell.operand_factor(cells.scale, out["eltwisemult_cell_input"].scale),
            cells,
            _table(w["act_h"], cells, carried=True),
            multiply("eltwisemult_hidden", out["act_o"].scale, out["act_h"].scale),
            out["eltwisemult_hidden"],
        )

    def run(
        self, cell: DistillerLSTMCell, steps: Sequence[Tensor], initial: State, reverse: bool
    ) -> tuple[list[Tensor], State]:
        """Steps (batch, input) → hidden states (batch, hidden) a step, and the last state."""
        gates_x = self._project(cell, steps)  # (time, batch, 4 * hidden)
        hidden, memory = initial
        outputs: list[Tensor] = [hidden] * len(steps)
        for t in reversed(range(len(steps))) if reverse else range(len(steps)):
            hidden, memory = self._step(gates_x[t], hidden, memory)
            outputs[t] = attach_grid(hidden, self.hidden_out)
        return outputs, (hidden.view_as(hidden), memory)

    def _project(self, cell: DistillerLSTMCell, steps: Sequence[Tensor]) -> Tensor:
        """Every step's input projection, as integers at the gate sum's scale."""
        x = torch.stack(tuple(steps))
        carried = read_grid(steps[0])
        if carried is not None:
            attach_grid(x, carried)
        projected = cell.fc_gate_x(x)
        grid = read_grid(projected)
        assert grid is not None
        integers = grid.integers(projected)
        return integers.mul_(self.gate_factor_x).round_()

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
        hidden = self.hidden(squashed.mul_(out)).div_(self.hidden_out.scale)
        return hidden, memory.div_(self.cell_out.scale)


def _known(grid: Grid | None) -> Grid:
    assert grid is not None
    return grid


def _number(value: float | Tensor) -> float:
    return float(value)


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
