"""What training minimises: from a window of ids to gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.model.device import widest
from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training.cuda_graph import GraphedGradients
from lmbench.training.loss import DecoderLoss, add_rows, sum_nll
from lmbench.training.lstm import in_bf16
from lmbench.training.regularisation import OFF, Regularisation
from lmbench.training.step import as_fp32, compute_gradients, features, minimised

__all__ = [
    "Adjust",
    "CrossEntropy",
    "ExactCrossEntropy",
    "Objective",
    "is_quantized_in_training",
    "window_nll",
]

Adjust = Callable[[Tensor], Tensor]
"""Makes of a loss what is minimised: a schedule's callback before the backward pass."""


class Objective:
    """A loss over one bptt window; one that carries a state from window to window overrides all."""

    def start_epoch(self, batch_size: int) -> None:
        """The text begins again: forget what is carried."""

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        """Leave the gradients of one window in ``.grad``, which must be None before.

        Args:
            model: in train mode.
            input: ids [T, B].
            target: ids [T * B].
            hidden: the state before the window, detached.
            adjust: applied to the loss before the backward pass.

        Returns:
            The mean cross-entropy in nats a token and the next state, both detached.
        """
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What an exact resume needs of the carried state."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take it up again."""


class CrossEntropy(Objective):
    """The mean cross-entropy in the loss's precision, fused with the decoder where no post-training
    wrapper holds it.

    On CUDA, windows without an `adjust` are replayed from a captured graph, unless something is
    regularised or `replay` says otherwise: windows that differ in length would seldom fit it.
    """

    def __init__(
        self, loss: DecoderLoss, regularisation: Regularisation = OFF, *, replay: bool = True
    ) -> None:
        self._loss = loss
        self._regularisation = regularisation
        self._replay = replay and regularisation == OFF
        self._graph: GraphedGradients | None = None

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        if is_quantized_in_training(model.decoder):
            return _backward_of_image(
                model, self._loss, input, target, hidden, adjust, self._regularisation
            )
        if not _can_fuse(model):
            return _backward(model, input, target, hidden, adjust, self._regularisation, self._loss)
        if input.device.type == "cuda" and adjust is None and self._replay and _can_replay(model):
            if self._graph is None:
                self._graph = GraphedGradients(compute_gradients, model, self._loss)
            return self._graph(input, target, hidden)
        return compute_gradients(
            model, self._loss, input, target, hidden, adjust, self._regularisation
        )


class ExactCrossEntropy(Objective):
    """The original's own operations in their order: log-softmax, NLL, autograd.

    Training at a learning rate of 20 is chaotic: whatever sums in another order is another run
    after some thirty batches. This one is the original's, bit for bit.
    """

    def __init__(self, regularisation: Regularisation = OFF) -> None:
        self._regularisation = regularisation

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        return _backward(model, input, target, hidden, adjust, self._regularisation)


def _backward(
    model: RNNModel,
    input: Tensor,
    target: Tensor,
    hidden: Hidden,
    adjust: Adjust | None,
    regularisation: Regularisation,
    fused: DecoderLoss | None = None,
) -> tuple[Tensor, Hidden]:
    half = fused is not None and fused.precision == "bf16"
    decoder = model.decoder
    with in_bf16(input.device, half):
        words = model.encoder(input)  # [T, B, E]
        output, hidden, penalty = features(
            model, input, words, hidden, regularisation, exact=fused is None
        )
        if fused is not None and type(decoder) is nn.Linear:
            loss = fused(output.flatten(0, 1), decoder.weight, decoder.bias, target)
        else:
            logits = decoder(output).flatten(0, 1)  # [T * B, V]
            logits = logits.float() if half else logits
            loss = F.nll_loss(F.log_softmax(logits, dim=1), target)
    minimised(loss, adjust, penalty).backward()
    return loss.detach(), detach(as_fp32(hidden) if half else hidden)


def _backward_of_image(
    model: RNNModel,
    loss: DecoderLoss,
    input: Tensor,
    target: Tensor,
    hidden: Hidden,
    adjust: Adjust | None,
    regularisation: Regularisation,
) -> tuple[Tensor, Hidden]:
    """As `compute_gradients`, of quantized images: what they get goes on to the floats.

    In fp32 all through, unless the loss is in bf16, which is for images that it does not round.
    """
    # The quantizer makes the images anew before a call.
    model.encoder(input[:1])
    words, decoder = model.encoder.weight, model.decoder
    embedded = F.embedding(input, words.detach()).requires_grad_()  # [T, B, E]
    output, hidden, penalty = features(
        model, input, embedded, hidden, regularisation, loss.precision
    )
    flat = output.flatten(0, 1)
    decoder(flat[:1].detach())
    image = decoder.weight.detach().requires_grad_()
    value = loss(flat, image, decoder.bias, target)
    minimised(value, adjust, penalty).backward()
    assert embedded.grad is not None
    assert image.grad is not None
    tied = words.data_ptr() == image.data_ptr()
    of_words = image.grad if tied else torch.zeros_like(words)
    add_rows(of_words, input.reshape(-1), embedded.grad.flatten(0, 1))
    torch.autograd.backward(decoder.weight, image.grad)
    if not tied and words.requires_grad:
        torch.autograd.backward(words, of_words)
    return value.detach(), as_fp32(detach(hidden))


def is_quantized_in_training(decoder: nn.Module) -> bool:
    """Is the weight the image of a parameter, as training-time quantizers leave it?"""
    return type(decoder) is nn.Linear and not isinstance(decoder.weight, nn.Parameter)


def _can_replay(model: RNNModel) -> bool:
    """Are the layers torch's own? A quantizer's ask the device for values and keep what they made,
    which a graph would do at its capture alone."""
    return isinstance(model.rnn, nn.RNNBase)


def _can_fuse(model: RNNModel) -> bool:
    """Are encoder and decoder torch's own, with weights that are parameters without hooks?

    The fused step leaves gradients in ``.grad`` past autograd, where a hook would not see them.
    """
    return (
        type(model.encoder) is nn.Embedding
        and type(model.decoder) is nn.Linear
        and isinstance(model.encoder.weight, nn.Parameter)
        and isinstance(model.decoder.weight, nn.Parameter)
        and not any(
            p._backward_hooks  # torch has no public way to ask
            for p in (model.encoder.weight, model.decoder.weight, model.decoder.bias)
        )
    )


def window_nll(model: RNNModel, output: Tensor, target: Tensor) -> Tensor:
    """The summed negative log-likelihood of `target` [T * B] given `output` [T, B, H]."""
    flat, decoder = output.flatten(0, 1), model.decoder
    if type(decoder) is nn.Linear and not is_quantized_in_training(decoder):
        return sum_nll(flat, decoder.weight, decoder.bias, target)
    return F.cross_entropy(decoder(flat), target, reduction="sum").to(widest(flat.device))
