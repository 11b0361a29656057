"""The parts of a training step, with no pass too many: gradients, their norm, clipping, update.

`lmbench.training.trainer.Trainer.batch` puts them together, with the schedule's part between them.

What this saves beside the fused loss: the tied weight's gradient (27 MB at the default size) is
not zeroed, not added up from two dense halves and not scaled before it is used. On CPU these are
6% of a bf16 step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import (  # the passes over all parameters that torch's own optimizers are made of
    Tensor,
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    _fused_sgd_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)
from torch.autograd.graph import increment_version

from lmbench.distiller.modules import ModularRecurrent
from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training import lstm
from lmbench.training.loss import DecoderLoss, add_rows
from lmbench.training.precision import Precision
from lmbench.training.regularisation import OFF, Regularisation, at_least_fp32, torch_layer

__all__ = [
    "as_fp32",
    "clipped_update",
    "clipping_factor",
    "compute_gradients",
    "features",
    "gradient_norm",
    "is_plain_sgd",
    "minimised",
    "run_layers",
    "scaled_rates",
]


def run_layers(
    rnn: nn.Module,
    embedded: Tensor,
    hidden: Hidden,
    precision: Precision | None,
    regularisation: Regularisation = OFF,
    *,
    exact: bool = False,
) -> tuple[Tensor, Hidden]:
    """The recurrent layers: [T, B, E] and a state to ([T, B, H], the next state), in `precision`.

    In bf16 the layers' products and their backward are bf16; weights and their gradients stay
    fp32. The casts are not cached across calls, which a captured CUDA graph could not bear. None
    is torch's own layers, in whatever the caller has cast to; `exact` all of them in one call where
    nothing is regularised, as the original has it.
    """
    layer = lstm.layer_for(rnn, embedded, precision) if precision else None
    if layer is None and precision == "bf16":
        with lstm.in_bf16(embedded.device):
            return run_layers(rnn, embedded, hidden, None, regularisation)
    apart = regularisation.inside_layers or (not exact and _drops_by_cudnn(rnn, embedded))
    if layer is None and not apart:
        return rnn(embedded, hidden)
    if isinstance(rnn, ModularRecurrent):
        # A quantizer has taken the layers apart, and makes its images as the call begins.
        between = partial(regularisation.between, dropout=rnn.dropout)
        runner = layer and partial(lstm.walk, layer)
        with rnn.masked(regularisation.recurrent, between, runner):
            return rnn(embedded, hidden)
    assert isinstance(rnn, nn.RNNBase)
    layer = layer or partial(torch_layer, rnn.mode, rnn.training)
    if isinstance(hidden, tuple):
        output, (h, c) = lstm.forward(layer, rnn, embedded, hidden, regularisation)
        return output, (h, c)
    output, (h,) = lstm.forward(layer, rnn, embedded, (hidden,), regularisation)
    return output, h


def _drops_by_cudnn(rnn: nn.Module, embedded: Tensor) -> bool:
    """Would cuDNN drop between the layers? The random state that it keeps for that is in no
    checkpoint, and cannot begin while a graph is captured."""
    return embedded.is_cuda and isinstance(rnn, nn.RNNBase) and rnn.training and rnn.dropout > 0


def features(
    model: RNNModel,
    input: Tensor,
    embedded: Tensor,
    hidden: Hidden,
    regularisation: Regularisation,
    precision: Precision | None = None,
    *,
    exact: bool = False,
) -> tuple[Tensor, Hidden, Tensor | None]:
    """`RNNModel.features` of ids [T, B] and their embedding [T, B, E], regularised; `precision` and
    `exact` as `run_layers` takes them.

    Returns:
        What the decoder sees [T, B, H], or [T, B, E] behind a projection, the next state, and what
        is to be added to the loss, a scalar; None for nothing.
    """
    embedded = regularisation.embedded(model, embedded, input)
    raw, state = run_layers(model.rnn, embedded, hidden, precision, regularisation, exact=exact)
    output, penalty = regularisation.output(model, raw)
    if model.projection is not None:
        # The layers may have put out bf16.
        output = model.projected(at_least_fp32(output))
    return output, state, penalty


def minimised(
    loss: Tensor, adjust: Callable[[Tensor], Tensor] | None, penalty: Tensor | None
) -> Tensor:
    """What is minimised of a window's loss: with a schedule's part, and that of `features`."""
    adjusted = loss if adjust is None else adjust(loss)
    return adjusted if penalty is None else adjusted + penalty


def compute_gradients(
    model: RNNModel,
    loss: DecoderLoss,
    input: Tensor,
    target: Tensor,
    hidden: Hidden,
    adjust: Callable[[Tensor], Tensor] | None = None,
    regularisation: Regularisation = OFF,
) -> tuple[Tensor, Hidden]:
    """The gradients of one window, left in the parameters' ``.grad``, which must be None before.

    Args:
        model: in train mode, unwrapped (its encoder and decoder the plain modules).
        loss: best with ``into_grad=True``.
        input: ids [T, B].
        target: ids [T * B].
        hidden: the state before the window; no gradient goes into it.
        adjust: makes of the loss what is minimised, such as the loss with a regularizer's part.
        regularisation: what is dropped, and what is added to the loss besides.

    Returns:
        The mean cross-entropy, detached, and the next state, detached, fp32.
    """
    encoder = model.encoder.weight
    # The embedded words are a leaf, so that their gradient comes out by itself and is added to
    # the few rows it belongs to; autograd would make a dense V x E gradient of it first.
    embedded = F.embedding(input, encoder.detach()).requires_grad_()  # [T, B, E]
    output, state, penalty = features(
        model, input, embedded, hidden, regularisation, loss.precision
    )
    flat = output.reshape(-1, output.size(-1))
    value = loss(flat, model.decoder.weight, model.decoder.bias, target)
    minimised(value, adjust, penalty).backward()
    assert embedded.grad is not None
    if encoder.requires_grad:
        if encoder.grad is None:
            encoder.grad = torch.zeros_like(encoder)
        add_rows(encoder.grad, input.reshape(-1), embedded.grad.flatten(0, 1))
    return value.detach(), as_fp32(detach(state))


def as_fp32(hidden: Hidden) -> Hidden:
    """A state in fp32, in which it goes on to the next window."""
    if isinstance(hidden, Tensor):
        return hidden.float()
    return hidden[0].float(), hidden[1].float()


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, a scalar on their device, which is not waited for."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(_foreach_norm(gradients)))


def clipped_update(optimizer: torch.optim.Optimizer, norm: Tensor, clip: float) -> None:
    """Clip the gradients to the norm `clip` (0: never) and let the optimizer step.

    The same as ``clip_grad_norm_`` and ``optimizer.step()``, to rounding. Plain SGD on CPU takes
    the clipping into its learning rate and out of its decay, so that weights and gradients are read
    once and the gradients stay as they are in ``.grad``; at a factor of 0 nothing decays either.
    """
    factor = clipping_factor(norm, clip)
    if norm.device.type == "cpu" and is_plain_sgd(optimizer) and _can_be_fused(optimizer):
        scale = 1.0 if factor is None else factor.item()
        for group in optimizer.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in moved]
            if not moved:
                continue
            rate, decay = float(group["lr"]), float(group["weight_decay"])
            with torch.no_grad():
                _fused_sgd_(
                    moved, gradients, [], lr=rate * scale, weight_decay=decay / (scale or 1.0),
                    momentum=0.0, dampening=0.0, nesterov=False, maximize=False,
                    is_first_step=False,
                )  # fmt: skip
                increment_version(moved)
        return
    if factor is not None:
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        _foreach_mul_(gradients, factor)
    optimizer.step()


def _can_be_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Are weights and gradients such that `_fused_sgd_` is right on CPU: it passes over memory
    without regard to strides, and leaves numbers of 16 bits as they are (torch 2.13)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moved = [t for p in parameters if p.grad is not None for t in (p, p.grad)]
    return all(t.is_contiguous() and t.element_size() >= 4 for t in moved)


def clipping_factor(norm: Tensor, clip: float) -> Tensor | None:
    """What brings gradients of this norm down to `clip`; None where that is 0, for never."""
    return (clip / (norm + 1e-6)).clamp(max=1.0) if clip else None


@contextmanager
def scaled_rates(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Within, each learning rate is `factor` times what it was and is again afterwards."""
    rates = [group["lr"] for group in optimizer.param_groups]
    if factor != 1.0:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Does an update depend on nothing but gradient, weight, learning rate and decay?"""
    extras = ("momentum", "nesterov", "maximize")
    return type(optimizer) is torch.optim.SGD and not any(
        group[name] for group in optimizer.param_groups for name in extras
    )
