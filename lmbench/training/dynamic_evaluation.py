"""Dynamic evaluation (Krause, Kahembwe, Murray and Renals 2018, arXiv 1709.07432): a model that
learns from the text it is scored on, as it goes.

Each segment is scored first; then the weights take one step down the gradient of its loss, and a
little of the way back to where training left them. So no word is scored by weights that have seen
it. With several columns a step is of all of them: a word is then scored by weights that have seen
the other columns' earlier segments as well, which may stand later in the text.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lmbench.corpus.batches import count_windows, windows
from lmbench.deploy.runtimes.interface import Progress, Score
from lmbench.generation.cache import CachedPast, NeuralCache, log_probability
from lmbench.model.device import in_float64
from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy

__all__ = ["Dynamic", "evaluate_dynamically", "gradient_rms"]

_EPSILON = 2e-5  # of the authors' code


@dataclass(frozen=True)
class Dynamic:
    """How the weights follow the text, from the trained ones, W0.

    ``sgd``: W += -lr g + decay (W0 - W). ``rms``: W += -lr g / (R + 2e-5) + d (W0 - W), R being the
    root of each weight's mean squared gradient on the training split, and d the smaller of 1 and
    decay R / (the mean over the tensors of R's mean), as the authors' code has it. Here g is the
    gradient of the segment's mean loss in nats a token.
    """

    form: Literal["sgd", "rms"]
    lr: float
    decay: float


class _Adapted:
    """A copy of a model whose weights follow a text; those that were pruned stay zero."""

    def __init__(self, model: RNNModel) -> None:
        self.model = _trainable_copy(model)
        self.parameters = list(self.model.parameters())  # tied ones once
        self._trained = [p.detach().clone() for p in self.parameters]
        # A weight of a trained matrix is zero where it was pruned, and nowhere else.
        self._kept = [
            p != 0 if p.dim() > 1 and bool((p == 0).any()) else None for p in self._trained
        ]
        self._objective = CrossEntropy(DecoderLoss("fp32", into_grad=True))

    def gradients(self, input: Tensor, target: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Leave those of a segment [T, B] in ``.grad``; its mean loss, and the next state."""
        self.model.zero_grad(set_to_none=True)
        loss, hidden = self._objective.gradients(self.model, input, target, hidden, None)
        for parameter, kept in zip(self.parameters, self._kept, strict=True):
            if kept is not None and parameter.grad is not None:
                parameter.grad.mul_(kept)
        return loss, hidden

    @torch.no_grad()
    def step(self, settings: Dynamic, scales: _Scales | None) -> None:
        for number, (p, trained) in enumerate(zip(self.parameters, self._trained, strict=True)):
            assert p.grad is not None
            if scales is None:
                p.mul_(1 - settings.decay).add_(trained, alpha=settings.decay)
                p.add_(p.grad, alpha=-settings.lr)
            else:
                p.addcmul_(scales.decay[number], trained - p)
                p.addcdiv_(p.grad, scales.divisor[number], value=-settings.lr)


def _trainable_copy(model: RNNModel) -> RNNModel:
    own = copy.deepcopy(model).requires_grad_(True)
    for module in own.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    # Without dropout it computes the same; cuDNN has no backward in eval mode.
    return own.train()


class _Scales:
    """What `rms` multiplies and divides by, for each parameter."""

    def __init__(self, rms: Sequence[Tensor], decay: float) -> None:
        mean = torch.stack([r.mean() for r in rms]).mean()
        self.divisor = [r + _EPSILON for r in rms]
        self.decay = [(decay / mean * r).clamp_(max=1.0) for r in rms]


def gradient_rms(
    model: RNNModel, data: Tensor, bptt: int, progress: Progress | None = None
) -> list[Tensor]:
    """The root of the mean, over the segments of a text, of each weight's squared gradient.

    Args:
        data: ids int64 [rows, B] of the training split, in as many columns as will be scored: the
            gradients of longer segments, or of more columns, are smaller.
    """
    adapted, rows = _Adapted(model), len(data)
    squares = [torch.zeros_like(p) for p in adapted.parameters]
    hidden = model.init_hidden(data.shape[1])
    for input, target in windows(data, bptt, progress):
        _, hidden = adapted.gradients(input, target, hidden)
        for square, parameter in zip(squares, adapted.parameters, strict=True):
            assert parameter.grad is not None
            square.addcmul_(parameter.grad, parameter.grad)
    return [square.div_(count_windows(rows, bptt)).sqrt_() for square in squares]


def evaluate_dynamically(
    model: RNNModel,
    data: Tensor,
    bptt: int,
    settings: Dynamic,
    rms: Sequence[Tensor] | None = None,
    caches: Sequence[NeuralCache] = (),
    progress: Progress | None = None,
) -> tuple[Score, list[Score]]:
    """Score every token after the first row once, by weights that follow the text.

    Args:
        model: stays as it is.
        data: ids int64 [rows, B].
        bptt: rows T a segment; the weights take a step after each, so it changes the result.
        rms: of `gradient_rms`, for the form ``rms``.
        caches: of one size, over what the model so adapted made of the past.

    Returns:
        The score without a cache, and that with each of them.
    """
    assert (rms is None) == (settings.form == "sgd")
    rows, batch = data.shape
    adapted = _Adapted(model)
    past = CachedPast(caches, model.decoder.bias.new_empty(batch, model.decoder_width))
    scales = None if rms is None else _Scales(rms, settings.decay)
    total = in_float64(torch.zeros((), device=data.device))
    hidden = model.init_hidden(batch)
    for input, target in windows(data, bptt, progress):
        if caches:
            with torch.no_grad():
                features, _ = adapted.model.features(input, hidden)  # [T, B, H]
                log_p = log_probability(adapted.model, features, target)
                past.read(features, target.view_as(input), log_p)
        loss, hidden = adapted.gradients(input, target, hidden)
        total = total + in_float64(loss) * len(target)
        adapted.step(settings, scales)
    tokens = (rows - 1) * batch
    return Score(float(total), tokens), past.scores(tokens)[1]
