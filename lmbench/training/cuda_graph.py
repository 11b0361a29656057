"""A training step as two CUDA graphs: forward and backward, and clipping with the update.

At width 200 a window is several hundred kernels of a few microseconds each, and launching them
takes longer than running them. A graph launches them all at once. It holds addresses, not tensors:
it works on inputs of one shape, in memory of its own, and is captured anew when a parameter has
moved. Two graphs and not one, since a schedule's part of the step stands between them: under a
schedule the first is replayed alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import (
    Tensor,
    _foreach_add_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
)

from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training.loss import DecoderLoss
from lmbench.training.step import clipping_factor, gradient_norm, is_plain_sgd

__all__ = ["GraphedGradients", "GraphedUpdate"]

Compute = Callable[[RNNModel, DecoderLoss, Tensor, Tensor, Hidden], tuple[Tensor, Hidden]]

# Runs before the capture: cuDNN, cuBLAS and the allocator allocate in the first ones.
_WARM_UP = 3

# A thread of NCCL's asks now and then how far its work is, which must not end a capture here.
_ERROR_MODE = "thread_local"


class GraphedGradients:
    """`compute` (that is `step.compute_gradients`) on CUDA, replayed from a graph where it can be.

    The gradients lie in memory of the graph: after a replay the parameters' ``.grad`` are put
    back to it, whatever ``zero_grad`` or another window did meanwhile.
    """

    def __init__(self, compute: Compute, model: RNNModel, loss: DecoderLoss) -> None:
        self._compute, self._model, self._loss = compute, model, loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # A loss of its own: windows that run outside the graph must not resize its buffers.
        self._captured_loss = DecoderLoss(loss.precision, into_grad=True)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._addresses: list[int] = []
        self._gradients: list[Tensor | None] = []
        self._input = self._target = self._value = torch.empty(0)
        self._before: tuple[Tensor, ...] = ()
        self._after: tuple[Tensor, ...] = ()

    def __call__(self, input: Tensor, target: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """ids [T, B], ids [T * B], the state; gives the loss and the next state, gradients left."""
        if self._graph is not None and len(input) < len(self._input):
            return self._eagerly(self._loss, input, target, hidden)
        if not self._replays(input):
            # Of the card that is not the current one the wrong generator would be captured.
            with torch.cuda.device(input.device):
                self._capture(input, target, hidden)
        assert self._graph is not None
        self._input.copy_(input)
        self._target.copy_(target)
        for kept, given in zip(self._before, _as_tuple(hidden), strict=True):
            kept.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._value.clone(), _like(hidden, tuple(state.clone() for state in self._after))

    def _eagerly(
        self, loss: DecoderLoss, input: Tensor, target: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Hidden]:
        for parameter in self._parameters:
            parameter.grad = None
        return self._compute(self._model, loss, input, target, hidden)

    def _replays(self, input: Tensor) -> bool:
        """Is there a graph of this shape and of the parameters where they are now?

        Only the last window of an epoch is shorter than the others. A run that is resumed there
        captures that one, which the next, longer one replaces.
        """
        return (
            self._graph is not None
            and input.shape == self._input.shape
            and self._addresses == self._current_addresses()
        )

    def _current_addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._parameters]

    def _capture(self, input: Tensor, target: Tensor, hidden: Hidden) -> None:
        """Capture a window of this shape; the current device is the one that it lies on."""
        self._graph = None
        self._input, self._target = input.clone(), target.clone()
        self._before = tuple(state.clone() for state in _as_tuple(hidden))
        state = _like(hidden, self._before)
        arguments = (self._captured_loss, self._input, self._target, state)
        # Warming up draws dropout; the run's random stream must not notice.
        generator_state = torch.cuda.get_rng_state(input.device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._eagerly(*arguments)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.set_rng_state(generator_state, input.device)
        for parameter in self._parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        # torch's own stream for captures is made once, on the card that is current then.
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode=_ERROR_MODE):
            self._value, after = self._compute(self._model, *arguments)
        self._after = _as_tuple(after)
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._addresses = self._current_addresses()
        self._graph = graph


class GraphedUpdate:
    """Clipping and plain SGD on CUDA, replayed from a graph where the gradients lie still.

    The learning rates lie on the device, so that they may change between replays. Eager or
    replayed it is the same operations, so a resumed run, whose first updates are eager, computes
    what the uninterrupted one does.

    Args:
        optimizer: one that `fits`.
        clip: the norm to clip to; 0: none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip: float) -> None:
        self._optimizer, self._clip = optimizer, clip
        self._graph: torch.cuda.CUDAGraph | None = None
        self._rates: list[Tensor] = []
        self._known: list[float] = []
        # Where parameters and gradients lay when the graph was captured, and at the last update.
        self._captured: list[tuple[int, int]] = []
        self._last: list[tuple[int, int]] = []
        self._seen = 0
        self._norm = torch.empty(0)

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer) -> bool:
        """Is it SGD without momentum, of parameters that lie on one CUDA device?"""
        devices = {p.device for group in optimizer.param_groups for p in group["params"]}
        return is_plain_sgd(optimizer) and [d.type for d in devices] == ["cuda"]

    def __call__(self) -> Tensor:
        """Update the parameters that have gradients; gives the gradients' norm before clipping."""
        moved = [p for params in self._moved() for p in params]
        if not self._rates:
            self._rates = [moved[0].new_zeros(()) for _ in self._optimizer.param_groups]
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        if rates != self._known:
            for kept, rate in zip(self._rates, rates, strict=True):
                kept.fill_(rate)
            self._known = rates
        places = [(p.data_ptr(), p.grad.data_ptr()) for p in moved if p.grad is not None]
        if self._graph is None or places != self._captured:
            self._seen = self._seen + 1 if places == self._last else 0
            self._last = places
            # The first ones load the kernels, and an epoch's short last window has gradients
            # elsewhere, once.
            if self._seen < _WARM_UP:
                return self._compute()
            with torch.cuda.device(moved[0].device):
                self._capture()
            self._captured = places
        assert self._graph is not None
        self._graph.replay()
        return self._norm.clone()

    def _moved(self) -> list[list[Tensor]]:
        groups = self._optimizer.param_groups
        return [[p for p in group["params"] if p.grad is not None] for group in groups]

    @torch.no_grad()
    def _compute(self) -> Tensor:
        groups = self._moved()
        norm = gradient_norm(p for params in groups for p in params)
        factor = clipping_factor(norm, self._clip)
        decays = [float(group["weight_decay"]) for group in self._optimizer.param_groups]
        for rate, decay, params in zip(self._rates, decays, groups, strict=True):
            gradients = [p.grad for p in params if p.grad is not None]
            if decay:
                _foreach_mul_(params, 1.0 - rate * decay)
            _foreach_mul_(gradients, -rate if factor is None else -rate * factor)
            _foreach_add_(params, gradients)
        return norm

    def _capture(self) -> None:
        """Nothing is computed while it is captured."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode=_ERROR_MODE):
            self._norm = self._compute()
        self._graph = graph


def _as_tuple(hidden: Hidden) -> tuple[Tensor, ...]:
    return (hidden,) if isinstance(hidden, Tensor) else hidden


def _like(hidden: Hidden, states: tuple[Tensor, ...]) -> Hidden:
    """`states` in the form that `hidden` has."""
    return states[0] if isinstance(hidden, Tensor) else (states[0], states[1])
