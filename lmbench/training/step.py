"""The parts of a training step, with no pass too many: gradients, their norm, clipping, update.

`lmbench.training.trainer.Trainer.batch` puts them together, with the schedule's part between them.

What this saves beside the fused loss: the tied weight's gradient (27 MB at the default size) is
not zeroed, not added up from two dense halves and not scaled before it is used. On CPU these are
6% of a bf16 step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import (  # the passes over all parameters that torch's own optimizers are made of
    Tensor,
    _foreach_add_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training import lstm
from lmbench.training.loss import DecoderLoss
from lmbench.training.precision import Precision

__all__ = [
    "as_fp32",
    "clipped_update",
    "clipping_factor",
    "compute_gradients",
    "gradient_norm",
    "is_plain_sgd",
    "run_layers",
]


def run_layers(
    rnn: nn.Module, embedded: Tensor, hidden: Hidden, precision: Precision
) -> tuple[Tensor, Hidden]:
    """The recurrent layers: [T, B, E] and a state to ([T, B, H], the next state), in `precision`.

    In bf16 the layers' products and their backward are bf16; weights and their gradients stay
    fp32. The casts are not cached across calls, which a captured CUDA graph could not bear.
    """
    layer = lstm.layer_for(rnn, embedded, precision)
    if layer is not None:
        assert isinstance(rnn, nn.LSTM)
        assert isinstance(hidden, tuple)
        return lstm.forward(layer, rnn, embedded, hidden)
    if precision == "fp32":
        return rnn(embedded, hidden)
    with torch.autocast(embedded.device.type, torch.bfloat16, cache_enabled=False):
        return rnn(embedded, hidden)


def compute_gradients(
    model: RNNModel,
    loss: DecoderLoss,
    input: Tensor,
    target: Tensor,
    hidden: Hidden,
    adjust: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Hidden]:
    """The gradients of one window, left in the parameters' ``.grad``, which must be None before.

    Args:
        model: in train mode, unwrapped (its encoder and decoder the plain modules).
        loss: best with ``into_grad=True``.
        input: ids [T, B].
        target: ids [T * B].
        hidden: the state before the window; no gradient goes into it.
        adjust: makes of the loss what is minimised, such as the loss with a regularizer's part.

    Returns:
        The mean cross-entropy, detached, and the next state, detached, fp32.
    """
    encoder = model.encoder.weight
    # The embedded words are a leaf, so that their gradient comes out by itself and is added to
    # the few rows it belongs to; autograd would make a dense V x E gradient of it first.
    embedded = F.embedding(input, encoder.detach()).requires_grad_()  # [T, B, E]
    output, state = run_layers(model.rnn, model.drop(embedded), hidden, loss.precision)
    flat = model.drop(output).reshape(-1, output.size(-1))
    value = loss(flat, model.decoder.weight, model.decoder.bias, target)
    (value if adjust is None else adjust(value)).backward()
    assert embedded.grad is not None
    if encoder.requires_grad:
        if encoder.grad is None:
            encoder.grad = torch.zeros_like(encoder)
        _add_rows(encoder.grad, input.reshape(-1), embedded.grad.flatten(0, 1))
    return value.detach(), as_fp32(detach(state))


def _add_rows(into: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values [N, E] to the rows [N] of `into` [V, E], in the same order on every run."""
    if into.device.type == "cuda":
        # index_add_ there adds in whatever order the threads come; this one sorts first.
        into.index_put_((rows,), values, accumulate=True)
    else:
        into.index_add_(0, rows, values)


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
    the clipping into its learning rate and the decay into the weights, so the gradients are read
    once and stay as they are in ``.grad``.
    """
    factor = clipping_factor(norm, clip)
    if norm.device.type == "cpu" and is_plain_sgd(optimizer):
        scale = 1.0 if factor is None else factor.item()
        for group in optimizer.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in moved]
            rate, decay = float(group["lr"]), float(group["weight_decay"])
            with torch.no_grad():
                if decay:
                    _foreach_mul_(moved, 1.0 - rate * decay)
                _foreach_add_(moved, gradients, alpha=-rate * scale)
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


def clipping_factor(norm: Tensor, clip: float) -> Tensor | None:
    """What brings gradients of this norm down to `clip`; None where that is 0, for never."""
    return (clip / (norm + 1e-6)).clamp(max=1.0) if clip else None


def is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Does an update depend on nothing but gradient, weight, learning rate and decay?"""
    extras = ("momentum", "nesterov", "maximize")
    return type(optimizer) is torch.optim.SGD and not any(
        group[name] for group in optimizer.param_groups for name in extras
    )
