"""Recurrent layers built of modular cells: what `nn.LSTM`, `nn.GRU` and `nn.RNN` do, opened up.

Sequences are walked a layer at a time, a step at a time; each step's tensor stays an object of
its own between the layers, because quantized tensors carry their scale along as an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmbench.distiller.modules.cells import (
    DistillerGRUCell,
    DistillerLSTMCell,
    DistillerRNNCell,
    LikeTorch,
    ModularCell,
    State,
    a_weight,
    alone,
)

__all__ = ["DistillerGRU", "DistillerLSTM", "DistillerRNN", "ModularRecurrent"]

LayerRunner = Callable[[ModularCell, Sequence[Tensor], State, bool], tuple[list[Tensor], State]]
Change = Callable[[Tensor], Tensor]


def run_cell(
    cell: ModularCell, steps: Sequence[Tensor], initial: State, reverse: bool
) -> tuple[list[Tensor], State]:
    """Walks one direction of one layer.

    Args:
        cell: the layer's cell.
        steps: for each time step its (batch_t, features); batch_t never grows with t (sequences
            are sorted by length, as in a `PackedSequence`).
        initial: the state, each (batch_0, hidden).
        reverse: walk from the last step to the first.

    Returns:
        For each time step its (batch_t, hidden), in the order of time, and the state after each
        sequence's own last step, each (batch_0, hidden).
    """
    batch = steps[0].shape[0]
    ragged = steps[-1].shape[0] != batch
    outputs: list[Tensor | None] = [None] * len(steps)
    state = initial
    finished: list[State] = []
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        if ragged:
            state = _fit(state, initial, steps[t].shape[0], finished)
        new = cell(steps[t], state)
        new = new if isinstance(new, tuple) else (new,)
        outputs[t] = new[0]
        # a view carries no quantization grid: as in the original, the next step takes the state
        # as its own statistics say, while the layer above takes it as it was made
        state = tuple(part.view_as(part) for part in new)
    for tail in reversed(finished):
        state = tuple(torch.cat(pair) for pair in zip(state, tail, strict=True))
    return [step for step in outputs if step is not None], state


def _fit(state: State, initial: State, rows: int, finished: list[State]) -> State:
    """Makes the state as tall as the step: shorter sequences end, or (in reverse) begin."""
    held = state[0].shape[0]
    if held > rows and state is initial and not finished:
        # the first step seen in reverse: the shorter sequences have not begun yet
        return tuple(part[:rows] for part in state)
    if held > rows:
        finished.append(tuple(part[rows:] for part in state))
        return tuple(part[:rows] for part in state)
    if held < rows:
        return tuple(
            torch.cat([part, start[held:rows]]) for part, start in zip(state, initial, strict=True)
        )
    return state


class ModularRecurrent(LikeTorch):
    """A stack of modular cells with the interface of its `torch.nn` counterpart.

    Args:
        input_size: features of the input.
        hidden_size: features of the hidden state, in each direction.
        num_layers: cells above each other.
        bias: whether the projections have biases.
        batch_first: inputs and outputs are (batch, time, features) in place of
            (time, batch, features).
        dropout: probability with which each layer's output but the last's is dropped in training.
        bidirectional: a second stack reads the sequence backwards.
        bidirectional_type: 2 (PyTorch's): each layer reads both directions of the layer below.
            1: the two directions are stacks of their own, joined at the top.

    Raises:
        ValueError: no layer, or an unknown bidirectional type.
    """

    CELL: ClassVar[type[ModularCell]]
    OPTIONS: ClassVar[tuple[str, ...]] = (
        *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"),
        "bidirectional",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        bidirectional_type: int = 2,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers} is less than 1")
        if bidirectional_type not in (1, 2):
            raise ValueError(f"bidirectional_type: {bidirectional_type} is neither 1 nor 2")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout_factor = dropout
        self.bidirectional = bidirectional
        self.bidirectional_type = bidirectional_type
        self.num_directions = 2 if bidirectional else 1
        above = hidden_size * (2 if bidirectional and bidirectional_type == 2 else 1)

        def stack() -> nn.ModuleList:
            return nn.ModuleList(
                self.CELL(input_size if i == 0 else above, hidden_size, bias, **cell_options)
                for i in range(num_layers)
            )

        self.cells = stack()
        if bidirectional:
            self.cells_reverse = stack()
        self.dropout = nn.Dropout(dropout)
        # a quantizer puts a faster, equal walk here (see quantization.fused)
        self._runner: LayerRunner = run_cell
        self._masks: tuple[Change, Change, LayerRunner | None] | None = None

    def forward(
        self, x: Tensor | PackedSequence, h: Tensor | State | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        """Runs the sequence.

        Args:
            x: (time, batch, input), (batch, time, input) when `batch_first`, (time, input) for a
                single sequence, or a `PackedSequence`.
            h: (layers * directions, batch, hidden), a pair of them for an LSTM, or None for
                zeros. Order: layer 0 forward, layer 0 backward, layer 1 forward, …

        Returns:
            (time, batch, hidden * directions) of the top layer in the layout of `x`, and the
            state after the last step in the layout of `h`.

        Raises:
            ValueError: an empty sequence.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, h)
        single = x.dim() == 2
        if single:
            x = x.unsqueeze(1)
            h = _each(h, lambda part: part.unsqueeze(1))
        elif self.batch_first:
            x = x.transpose(0, 1)
        if x.shape[0] == 0:
            raise ValueError("the sequence is empty: it has no time step")
        steps, state = self._run(x.unbind(0), self._unpack_state(h, x.shape[1], x))
        output = torch.stack(steps)
        if single:
            return output.squeeze(1), self._pack_state([_squeeze(part) for part in state])
        if self.batch_first:
            output = output.transpose(0, 1)
        return output, self._pack_state(state)

    def _forward_packed(
        self, x: PackedSequence, hidden: Tensor | State | None
    ) -> tuple[PackedSequence, Tensor | State]:
        sizes = x.batch_sizes.tolist()
        if x.sorted_indices is not None:
            order = x.sorted_indices
            hidden = _each(hidden, lambda part: part.index_select(1, order))
        steps, state = self._run(x.data.split(sizes), self._unpack_state(hidden, sizes[0], x.data))
        output = PackedSequence(
            torch.cat(steps), x.batch_sizes, x.sorted_indices, x.unsorted_indices
        )
        packed: Tensor | State | None = self._pack_state(state)
        if x.unsorted_indices is not None:
            back = x.unsorted_indices
            packed = _each(packed, lambda part: part.index_select(1, back))
        assert packed is not None
        return output, packed

    def _run(
        self, steps: Sequence[Tensor], states: list[State]
    ) -> tuple[list[Tensor], list[State]]:
        """(batch_t, input) a step → (batch_t, hidden * directions) a step, and final states."""
        if not self.bidirectional:
            return self._run_stack(self.cells, steps, states, reverse=False)
        if self.bidirectional_type == 1:
            forth, ends = self._run_stack(self.cells, steps, states[0::2], reverse=False)
            back, back_ends = self._run_stack(self.cells_reverse, steps, states[1::2], reverse=True)
            joined = [torch.cat(pair, dim=1) for pair in zip(forth, back, strict=True)]
            return joined, [end for pair in zip(ends, back_ends, strict=True) for end in pair]
        final: list[State] = []
        outputs = list(steps)
        for layer in range(self.num_layers):
            forth, end = self._run_layer(self.cells[layer], outputs, states[2 * layer], False)
            back, back_end = self._run_layer(
                self.cells_reverse[layer], outputs, states[2 * layer + 1], True
            )
            outputs = [torch.cat(pair, dim=1) for pair in zip(forth, back, strict=True)]
            final += [end, back_end]
            outputs = self._drop(outputs, layer)
        return outputs, final

    def _run_stack(
        self, cells: nn.ModuleList, steps: Sequence[Tensor], states: list[State], reverse: bool
    ) -> tuple[list[Tensor], list[State]]:
        outputs, final = list(steps), []
        for layer, (cell, initial) in enumerate(zip(cells, states, strict=True)):
            outputs, end = self._run_layer(cell, outputs, initial, reverse)
            outputs = self._drop(outputs, layer)
            final.append(end)
        return outputs, final

    def _run_layer(
        self, cell: nn.Module, steps: Sequence[Tensor], initial: State, reverse: bool
    ) -> tuple[list[Tensor], State]:
        assert isinstance(cell, ModularCell)
        if self._masks is None:
            return self._runner(cell, steps, initial, reverse)
        recurrent, _, runner = self._masks
        with _changed_weight(cell.fc_gate_h, recurrent):
            return (runner or self._runner)(cell, steps, initial, reverse)

    def _drop(self, steps: list[Tensor], layer: int) -> list[Tensor]:
        if layer + 1 == self.num_layers:
            return steps
        if self._masks:
            return list(self._masks[1](torch.stack(steps)).unbind(0))
        return [self.dropout(step) for step in steps]

    @contextmanager
    def masked(
        self, recurrent: Change, between: Change, runner: LayerRunner | None = None
    ) -> Iterator[None]:
        """Within, sequences of one length are walked under masks.

        Args:
            recurrent: what it makes of a layer's recurrent weights is computed with in their place.
                It is given them when the walk comes to the layer: after a quantizer has made their
                image.
            between: in the place of `dropout`; of a layer's whole output, (time, batch, hidden).
            runner: walks the layers in the place of what does so else.
        """
        self._masks = recurrent, between, runner
        try:
            yield
        finally:
            self._masks = None

    def _unpack_state(self, hidden: Tensor | State | None, batch: int, like: Tensor) -> list[State]:
        """The state as one tuple a layer and direction, each (batch, hidden)."""
        count = self.num_layers * self.num_directions
        if hidden is None:
            zeros = (like.new_zeros(batch, self.hidden_size),) * self.CELL.STATES
            return [zeros] * count
        parts = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
        return [tuple(part[i] for part in parts) for i in range(count)]

    def _pack_state(self, states: list[State]) -> Tensor | State:
        return alone(tuple(torch.stack(parts) for parts in zip(*states, strict=True)))

    def init_hidden(self, batch_size: int) -> Tensor | State:
        """Zeros for `forward`, (layers * directions, batch, hidden); a pair of them for an LSTM."""
        like = a_weight(self)
        return self._pack_state(self._unpack_state(None, batch_size, like))

    def flatten_parameters(self) -> None:
        """Nothing to do: the weights are not one buffer here. Kept for `nn.RNNBase`'s callers."""

    def init_weights(self, initrange: float | None = None) -> None:
        """Draws all weights of all cells uniformly in ±initrange."""
        for cell in self._ordered_cells():
            cell.init_weights(initrange)

    def by_torch_names(self) -> dict[str, Tensor]:
        """Those of all cells."""
        if self.bidirectional and self.bidirectional_type == 1:
            raise ValueError("bidirectional_type 1 has no counterpart in torch.nn")
        found: dict[str, Tensor] = {}
        for index, cell in enumerate(self._ordered_cells()):
            layer, direction = divmod(index, self.num_directions)
            tail = f"_l{layer}" + ("_reverse" if direction else "")
            found |= {name + tail: weight for name, weight in cell.by_torch_names().items()}
        return found

    def _ordered_cells(self) -> list[ModularCell]:
        """Layer 0 forward, layer 0 backward, layer 1 forward, …"""
        stacks = (self.cells, self.cells_reverse) if self.bidirectional else (self.cells,)
        cells = (cell for layer in zip(*stacks, strict=True) for cell in layer)
        return [cell for cell in cells if isinstance(cell, ModularCell)]


class DistillerLSTM(ModularRecurrent):
    """`nn.LSTM` as separate modules; made anew it drops half, as the original does."""

    CELL = DistillerLSTMCell
    TORCH = nn.LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.5,
        bidirectional: bool = False,
        bidirectional_type: int = 2,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            bidirectional_type,
        )


class DistillerGRU(ModularRecurrent):
    """`nn.GRU` as separate modules."""

    CELL = DistillerGRUCell
    TORCH = nn.GRU


class DistillerRNN(ModularRecurrent):
    """`nn.RNN` as separate modules; `nonlinearity="tanh"` or `"relu"`."""

    CELL = DistillerRNNCell
    TORCH = nn.RNN
    OPTIONS = (*ModularRecurrent.OPTIONS, "nonlinearity")

    @property
    def nonlinearity(self) -> str:
        """Of all its cells."""
        return str(self.cells[0].nonlinearity)


@contextmanager
def _changed_weight(linear: nn.Linear, change: Change) -> Iterator[None]:
    """Within, its weight is what `change` makes of it. That is no parameter, as which torch would
    refuse it; a parameter's place among the others is kept."""
    held: dict[str, Any] = linear._parameters if "weight" in linear._parameters else vars(linear)
    weight = held["weight"]
    held["weight"] = change(weight)
    try:
        yield
    finally:
        held["weight"] = weight


def _each(
    hidden: Tensor | State | None, change: Callable[[Tensor], Tensor]
) -> Tensor | State | None:
    if hidden is None:
        return None
    if isinstance(hidden, Tensor):
        return change(hidden)
    return tuple(change(part) for part in hidden)


def _squeeze(state: State) -> State:
    return tuple(part.squeeze(0) for part in state)
