"""Recurrent cells whose every operation is a module of its own.

A quantizer, a collector of statistics or an override in a YAML can then name each of them:
`rnn.cells.0.fc_gate_x`, `rnn.cells.0.act_f` and so on. The arithmetic is that of `torch.nn`'s
cells; the order of the gates inside the fused matrices is PyTorch's too, so weights can be moved
without being rearranged.

A cell's `step` takes the input's projection, so that a caller who holds a whole sequence can
compute all projections at once. `forward` is `step(fc_gate_x(x), state)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from lmbench.distiller.modules.eltwise import EltwiseAdd, EltwiseMult, EltwiseSub

__all__ = ["DistillerGRUCell", "DistillerLSTMCell", "DistillerRNNCell", "ModularCell", "State"]

State = tuple[Tensor, ...]


class LikeTorch(nn.Module, ABC):
    """A recurrent cell or layer with a counterpart in `torch.nn`.

    Attributes:
        TORCH: the counterpart's type.
        OPTIONS: arguments that the constructors of both take.
    """

    TORCH: ClassVar[Callable[..., nn.Module]]
    OPTIONS: ClassVar[tuple[str, ...]]

    @abstractmethod
    def by_torch_names(self) -> dict[str, Tensor]:
        """The weights, (GATES * hidden, input or hidden), and biases, (GATES * hidden,).

        Raises:
            ValueError: it has no counterpart.
        """

    @classmethod
    def from_pytorch_impl(cls, module: nn.Module) -> Self:
        """The same as separate modules. Weights are copied; dropout and mode are kept.

        Raises:
            ValueError: an LSTM with projections, which has no modular form.
        """
        if getattr(module, "proj_size", 0):
            raise ValueError("proj_size: an LSTM with projections has no modular form")
        ours = cls(**{name: getattr(module, name) for name in cls.OPTIONS})
        ours.to(a_weight(module))
        with torch.no_grad():
            for name, weight in ours.by_torch_names().items():
                weight.copy_(getattr(module, name))
        return ours.train(module.training)

    def to_pytorch_impl(self) -> nn.Module:
        """The same of `torch.nn`; the weights are copied.

        Raises:
            ValueError: bidirectional type 1, which `torch.nn` does not have.
        """
        weights, like = self.by_torch_names(), a_weight(self)
        own = {"dropout": "dropout_factor"}  # a layer's `dropout` is a module
        given = {name: getattr(self, own.get(name, name)) for name in self.OPTIONS}
        # No first values are drawn: a training that saves a copy goes on as if it had not.
        module = self.TORCH(**given, device="meta")
        module.to(like.dtype).to_empty(device=like.device)
        with torch.no_grad():
            for name, weight in weights.items():
                getattr(module, name).copy_(weight)
        return module.train(self.training)


class ModularCell(LikeTorch):
    """What the three kinds of cells share: two linear projections and a gate order.

    Args:
        input_size: features of the input.
        hidden_size: features of the hidden state.
        bias: whether both projections have a bias.

    Attributes:
        GATES: how many gates the projections hold.
        STATES: how many tensors the state has (2 for an LSTM: hidden and cell).
        FEEDS: for each gate sum, the activations that alone consume it; net-aware clipping
            reads this.
        STEPS: results that lead to the state and are never kept nor multiplied by weights; a
            net-aware quantizer leaves them as wide as an integer kernel holds them.
        WHOLE: results in which what is large is no outlier; a net-aware quantizer does not clip
            them.
        MEMORY: where an unbounded state is kept, for `QuantSettings.clip_state`.
    """

    GATES: ClassVar[int]
    STATES: ClassVar[int] = 1
    FEEDS: ClassVar[dict[str, tuple[str, ...]]]
    STEPS: ClassVar[tuple[str, ...]] = ()
    WHOLE: ClassVar[tuple[str, ...]] = ()
    MEMORY: ClassVar[tuple[str, ...]] = ()
    OPTIONS: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "bias")

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.fc_gate_x = nn.Linear(input_size, self.GATES * hidden_size, bias=bias)
        self.fc_gate_h = nn.Linear(hidden_size, self.GATES * hidden_size, bias=bias)

    @abstractmethod
    def step(self, gates_x: Tensor, state: State) -> State:
        """One time step.

        Args:
            gates_x: (batch, GATES * hidden), the output of `fc_gate_x`.
            state: each (batch, hidden).

        Returns:
            The new state, hidden first.
        """

    def forward(self, x: Tensor, h: State | Tensor | None = None) -> State | Tensor:
        """(batch, input) and the state, each (batch, hidden) → the new state: (hidden, cell) for an
        LSTM, else one tensor."""
        if h is None:
            h = self.initial_state(x.shape[0], x)
        return alone(self.step(self.fc_gate_x(x), (h,) if isinstance(h, Tensor) else h))

    def initial_state(self, batch: int, like: Tensor) -> State:
        """Zeros of (batch, hidden), of the dtype and device of `like`."""
        zeros = like.new_zeros(batch, self.hidden_size)
        return (zeros,) * self.STATES

    def init_hidden(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> State | Tensor:
        """Zeros for `forward`: (hidden, cell) for an LSTM.

        Args:
            device: None: where the weights are.
        """
        state = self.initial_state(batch_size, a_weight(self))
        return alone(tuple(part.to(device) for part in state))

    def init_weights(self, initrange: float | None = None) -> None:
        """Draws all weights uniformly in ±initrange (default: 1 / sqrt(hidden), as torch)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if initrange is None else initrange
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def by_torch_names(self) -> dict[str, Tensor]:
        """Those of the projections."""
        found = {"weight_ih": self.fc_gate_x.weight, "weight_hh": self.fc_gate_h.weight}
        if self.bias:
            found |= {"bias_ih": self.fc_gate_x.bias, "bias_hh": self.fc_gate_h.bias}
        return found


class DistillerLSTMCell(ModularCell):
    """An LSTM cell as twelve modules, under the original's names."""

    GATES = 4
    STATES = 2
    FEEDS: ClassVar = {"eltwiseadd_gate": ("act_f", "act_i", "act_o", "act_g")}
    MEMORY: ClassVar = ("eltwisemult_cell_forget", "eltwiseadd_cell")
    TORCH = nn.LSTMCell

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_f = nn.Sigmoid()
        self.act_i = nn.Sigmoid()
        self.act_o = nn.Sigmoid()
        self.act_g = nn.Tanh()
        self.eltwisemult_cell_forget = EltwiseMult()
        self.eltwisemult_cell_input = EltwiseMult()
        self.eltwiseadd_cell = EltwiseAdd()
        self.act_h = nn.Tanh()
        self.eltwisemult_hidden = EltwiseMult()

    def step(self, gates_x: Tensor, state: State) -> State:
        """(batch, 4 * hidden) projections and (hidden, cell) → (hidden, cell)."""
        hidden, cell = state
        gates = self.eltwiseadd_gate(gates_x, self.fc_gate_h(hidden))
        in_gate, forget, candidate, out_gate = gates.chunk(4, dim=1)  # PyTorch's order: i f g o
        in_gate = self.act_i(in_gate)
        forget = self.act_f(forget)
        candidate = self.act_g(candidate)
        out_gate = self.act_o(out_gate)
        cell = self.eltwiseadd_cell(
            self.eltwisemult_cell_forget(forget, cell),
            self.eltwisemult_cell_input(in_gate, candidate),
        )
        hidden = self.eltwisemult_hidden(out_gate, self.act_h(cell))
        return hidden, cell


class DistillerGRUCell(ModularCell):
    """A GRU cell as modules.

    The new hidden state is written n + z (h - n), which equals (1 - z) n + z h and needs one
    multiplication less to quantize.
    """

    GATES = 3
    FEEDS: ClassVar = {"eltwiseadd_gate": ("act_r", "act_z"), "eltwiseadd_new": ("act_n",)}
    # Rounded to 8 bits, two of these would err by as much as the state itself, at every word that
    # it remembers, and the update gate could not come near enough to 1 to remember for long.
    STEPS: ClassVar = ("act_z", "eltwisesub_hidden", "eltwisemult_update")
    WHOLE: ClassVar = ("eltwiseadd_gate", "act_r", "act_n", "eltwiseadd_hidden")
    TORCH = nn.GRUCell

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_r = nn.Sigmoid()
        self.act_z = nn.Sigmoid()
        self.eltwisemult_reset = EltwiseMult()
        self.eltwiseadd_new = EltwiseAdd()
        self.act_n = nn.Tanh()
        self.eltwisesub_hidden = EltwiseSub()
        self.eltwisemult_update = EltwiseMult()
        self.eltwiseadd_hidden = EltwiseAdd()

    def step(self, gates_x: Tensor, state: State) -> State:
        """(batch, 3 * hidden) projections and (hidden,) → (hidden,)."""
        (hidden,) = state
        width = self.hidden_size
        gates_h = self.fc_gate_h(hidden)
        # PyTorch's order: r z n; the reset gate acts on the projected hidden state only
        gates = self.eltwiseadd_gate(gates_x[:, : 2 * width], gates_h[:, : 2 * width])
        reset, update = gates.chunk(2, dim=1)
        reset = self.act_r(reset)
        update = self.act_z(update)
        new = self.act_n(
            self.eltwiseadd_new(
                gates_x[:, 2 * width :], self.eltwisemult_reset(reset, gates_h[:, 2 * width :])
            )
        )
        kept = self.eltwisemult_update(update, self.eltwisesub_hidden(hidden, new))
        return (self.eltwiseadd_hidden(new, kept),)


class DistillerRNNCell(ModularCell):
    """An Elman cell as modules.

    Args:
        nonlinearity: "tanh" or "relu".

    Raises:
        ValueError: for another nonlinearity.
    """

    GATES = 1
    FEEDS: ClassVar = {"eltwiseadd_gate": ("act_h",)}
    # Both are large where they cancel.
    WHOLE: ClassVar = ("fc_gate_x", "fc_gate_h")
    TORCH = nn.RNNCell
    OPTIONS = (*ModularCell.OPTIONS, "nonlinearity")

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: {nonlinearity!r} is neither 'tanh' nor 'relu'")
        self.nonlinearity = nonlinearity
        self.eltwiseadd_gate = EltwiseAdd()
        self.act_h = nn.Tanh() if nonlinearity == "tanh" else nn.ReLU()

    def step(self, gates_x: Tensor, state: State) -> State:
        """(batch, hidden) projections and (hidden,) → (hidden,)."""
        (hidden,) = state
        return (self.act_h(self.eltwiseadd_gate(gates_x, self.fc_gate_h(hidden))),)


def a_weight(module: nn.Module) -> Tensor:
    """A floating-point tensor of the module, quantized or not."""
    tensors = (*module.parameters(), *module.buffers())
    return next(tensor for tensor in tensors if tensor.is_floating_point())


def alone(state: State) -> State | Tensor:
    """A state as torch's modules take and give it: a single tensor by itself."""
    first, *more = state
    return state if more else first
