"""LSTM layers on CPU, faster than torch's: on AMX, and elsewhere in bf16 where they are wide.

On AMX (`lmbench.training.native`) in fp32 and bf16: the weights of the state stay in the cache over
a whole window, and the cell is one pass. At 2x650, two Xeon cores, the layers of a window of 700
tokens take 90 ms in fp32 (oneDNN: 116) and 50 in bf16 (80 by the way below).

Without it: oneDNN's bf16 LSTM is quick forward, but at a width of 650 its backward takes longer
than in fp32: on a Zen 5 core a window of 700 tokens through two layers takes 150 ms in fp32, 224 by
autocast and 117 here, with smaller errors (3e-3 to 5e-3 of a gradient's norm), since the cell stays
fp32. Here the products over the window (input gates, both weight gradients, the input's gradient)
are one each, so only the product with the state is made step by step. Products take bf16 operands;
gates, cell and the sums over time are fp32. The equations are those of `torch.nn.LSTM`.

Modular cells of which only the weights are quantized are walked by torch's own layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lmbench.distiller.modules import (
    DistillerGRUCell,
    DistillerLSTM,
    DistillerLSTMCell,
    DistillerRNNCell,
    ModularCell,
    ModularRecurrent,
)
from lmbench.training import native
from lmbench.training.precision import Precision
from lmbench.training.regularisation import OFF, Regularisation, torch_layer

__all__ = ["forward", "in_bf16", "layer_for", "onednn_lacks_bf16", "walk"]

State = tuple[Tensor, ...]
Layer = Callable[[Tensor, State, tuple[Tensor, Tensor, Tensor, Tensor]], tuple[Tensor, State]]
"""Of an input [T, B, E], a state [B, H] twice, and the weights: the output and the last state."""

# Below these widths torch's own layer is as fast, whole.
_WIDE, _WIDE_ON_AMX = 400, 64

# With fewer texts a batch, too: a step multiplies 32 lanes on AMX, however many are filled, and six
# times over in fp32. At 2x200 and windows of 35, two Xeon cores take as long as torch's with 4 to 8
# texts (one core with 12 to 20) and a third less with 20; in bf16 they gain from the first text on.
_LEAST_TEXTS: dict[Precision, int] = {"fp32": 8, "bf16": 1}


def layer_for(rnn: nn.Module, input: Tensor, precision: Precision) -> Layer | None:
    """What computes a layer of `rnn` faster than it does itself; None where nothing does.

    `rnn` may be one of modular cells of any kind, as training-time quantizers leave it, if only its
    weights are quantized: see `walk`.
    """
    if isinstance(rnn, ModularRecurrent):
        known = all(map(_is_plain, rnn.cells))
    else:
        known = type(rnn) is nn.LSTM and not rnn.proj_size
        known = known and rnn.weight_hh_l0.dtype == torch.float32
    if not (
        known
        and isinstance(rnn, ModularRecurrent | nn.LSTM)
        and input.device.type == "cpu"
        and input.dtype == torch.float32
        and rnn.bias
        and not (rnn.bidirectional or rnn.batch_first)
    ):
        return None
    if isinstance(rnn, DistillerLSTM | nn.LSTM):
        worth = rnn.hidden_size >= _WIDE_ON_AMX and input.size(1) >= _LEAST_TEXTS[precision]
        if worth and (library := native.lstm_library()) is not None:
            return partial(native.lstm_layer, library, precision)
        if precision == "bf16" and rnn.hidden_size >= _WIDE:
            return _in_bf16
    if isinstance(rnn, ModularRecurrent):
        # Cells go step by step.
        whole = partial(torch_layer, _mode(rnn.cells[0]), rnn.training)
        return whole if precision == "fp32" else partial(_by_autocast, whole)
    return None


def onednn_lacks_bf16() -> bool:
    """Would oneDNN's LSTM, which torch takes on CPU, refuse bf16? Without AVX-512 it does."""
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def in_bf16(device: torch.device, enabled: bool = True) -> Iterator[None]:
    """Torch's own operations with their products in bf16, on any processor."""
    lacking = enabled and device.type == "cpu" and onednn_lacks_bf16()
    # What is None is left as it is; setting TF32 to what it already was warns.
    without = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)  # pyright: ignore[reportArgumentType]
    casts = torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)
    with casts, without if lacking else nullcontext():
        yield


def _by_autocast(
    layer: Layer, x: Tensor, state: State, weights: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, State]:
    with in_bf16(x.device):
        output, last = layer(x, state, weights)
    return output.float(), tuple(part.float() for part in last)


def _mode(cell: nn.Module) -> str:
    """As `torch_layer` takes it."""
    if isinstance(cell, DistillerRNNCell):
        return f"RNN_{cell.nonlinearity.upper()}"
    return "GRU" if isinstance(cell, DistillerGRUCell) else "LSTM"


def _is_plain(cell: nn.Module) -> bool:
    """Is each part of a modular cell what it was made as, with nobody watching it?"""
    if type(cell) not in (DistillerLSTMCell, DistillerGRUCell, DistillerRNNCell):
        return False
    parts = list(cell.children())
    nonlinearity = (cell.nonlinearity,) if isinstance(cell, DistillerRNNCell) else ()
    made = _parts_of(type(cell), *nonlinearity)
    watched = any(part._forward_hooks or part._forward_pre_hooks for part in (cell, *parts))
    return [type(part) for part in parts] == made and not watched


@cache
def _parts_of(cell: type[nn.Module], *nonlinearity: str) -> list[type[nn.Module]]:
    # There are no weights there to draw, which the random numbers of a training would show.
    with torch.device("meta"):
        return [type(part) for part in cell(1, 1, True, *nonlinearity).children()]


def walk(
    layer: Layer, cell: ModularCell, steps: Sequence[Tensor], initial: State, reverse: bool
) -> tuple[list[Tensor], State]:
    """A `LayerRunner` for a layer of modular cells, of which `layer_for` has found `layer`."""
    x, h = cell.fc_gate_x, cell.fc_gate_h
    weights = (x.weight, h.weight, x.bias, h.bias)
    output, last = layer(torch.stack(list(steps)), initial, weights)
    return list(output.unbind(0)), last


def forward(
    layer: Layer,
    rnn: nn.RNNBase,
    input: Tensor,
    hidden: State,
    regularisation: Regularisation = OFF,
) -> tuple[Tensor, State]:
    """What `rnn(input, hidden)` gives: [T, B, E] and two [L, B, H] to [T, B, H] and two [L, B, H].

    Of a net with one state, `hidden` and what comes back are tuples of one. No gradient goes into
    `hidden` or comes from the states that are returned. By the layers of this file all is fp32.
    """
    states: list[State] = []
    output, dropout = input, partial(F.dropout, p=rnn.dropout, training=rnn.training)
    for at, state in enumerate(zip(*hidden, strict=True)):
        if at:
            output = regularisation.between(output, dropout)
        w_ih, w_hh, b_ih, b_hh = (
            getattr(rnn, f"{name}_l{at}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        weights = (w_ih, regularisation.recurrent(w_hh), b_ih, b_hh)
        output, last = layer(output, state, weights)
        states.append(last)
    return output, tuple(map(torch.stack, zip(*states, strict=True)))


def _in_bf16(
    x: Tensor, state: State, weights: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, State]:
    output, last_h, last_c = _Layer.apply(x, *state, *weights)  # pyright: ignore[reportGeneralTypeIssues]
    return output, (last_h, last_c)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, width = len(x), *h.shape
        x = x.flatten(0, 1).bfloat16()  # [T * B, E]
        w_ih, w_hh = w_ih.bfloat16(), w_hh.bfloat16()  # [4H, E], [4H, H]
        gates = torch.mm(x, w_ih.t()).float().add_(b_ih + b_hh).view(steps, batch, 4 * width)
        before = torch.empty(steps, batch, width, dtype=torch.bfloat16)  # h of the step before
        cells = torch.empty(steps + 1, batch, width)
        output = torch.empty(steps, batch, width)
        cells[0] = c
        state = h
        for t in range(steps):
            before[t] = state
            gate = gates[t]
            gate += torch.mm(before[t], w_hh.t())
            gate[:, : 2 * width].sigmoid_()
            gate[:, 2 * width : 3 * width].tanh_()
            gate[:, 3 * width :].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            cell = torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            state = torch.mul(o, cell.tanh(), out=output[t])
        ctx.save_for_backward(x, w_ih, w_hh, gates, before, cells)
        last_h, last_c = output[-1].clone(), cells[-1].clone()
        ctx.mark_non_differentiable(last_h, last_c)
        return output, last_h, last_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w_ih, w_hh, gates, before, cells = ctx.saved_tensors
        steps, batch, width = before.shape
        # The slopes of all gates at once; the loop below only multiplies.
        squashed = cells[1:].tanh()  # [T, B, H]
        i, f, g, o = gates.chunk(4, 2)
        into_cell = o * (1 - squashed * squashed)
        slopes = torch.cat(
            (g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)), 2
        )
        deltas = torch.empty(steps, batch, 4 * width, dtype=torch.bfloat16)
        d_cell = torch.zeros(batch, width)
        d_state = torch.zeros(batch, width)
        for t in reversed(range(steps)):
            d_state = d_state + grad[t]
            d_cell.addcmul_(d_state, into_cell[t])
            slope = slopes[t].view(batch, 4, width)
            slope[:, :3] *= d_cell.unsqueeze(1)
            slope[:, 3] *= d_state
            deltas[t] = slopes[t]
            d_state = torch.mm(deltas[t], w_hh)
            d_cell *= f[t]
        flat = deltas.flatten(0, 1)  # [T * B, 4H]
        d_bias = slopes.sum((0, 1))
        return (
            torch.mm(flat, w_ih).float().view(steps, batch, -1),
            None,
            None,
            torch.mm(flat.t(), x).float(),
            torch.mm(flat.t(), before.flatten(0, 1)).float(),
            d_bias,
            d_bias,
        )
