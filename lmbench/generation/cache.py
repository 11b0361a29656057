"""The neural cache of Grave, Joulin and Usunier (2016, arXiv 1612.04426), for scoring a text.

Each past word is kept with the hidden state that came before it. What follows a state like them
is likely their word again: a distribution over the past words, blended with the model's own. It
needs no training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.corpus.batches import windows
from lmbench.deploy.runtimes.interface import Progress, Score
from lmbench.errors import LmbenchError
from lmbench.model.device import in_float64, widest
from lmbench.model.rnn import RNNModel

__all__ = ["NeuralCache", "evaluate_with_cache"]


@dataclass(frozen=True)
class NeuralCache:
    """The cache's settings.

    Raises:
        LmbenchError: a value out of its bounds.
    """

    size: int
    """Past words that are looked at."""

    theta: float = 0.6
    """How sharply: past words weigh exp(theta times the product of the two states)."""

    share: float = 0.1
    """What the cache has in the prediction, lambda in the paper."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise LmbenchError(f"--cache {self.size}: use 1 or more past words")
        if not self.theta > 0:
            raise LmbenchError(f"--cache-theta {self.theta}: use more than 0")
        if not 0 <= self.share <= 1:
            raise LmbenchError(f"--cache-lambda {self.share}: use 0 to 1")


@torch.inference_mode()
def evaluate_with_cache(
    model: RNNModel,
    data: Tensor,
    bptt: int,
    cache: NeuralCache,
    progress: Progress | None = None,
) -> Score:
    """Score every token after the first row once, each column with a cache of its own past.

    Args:
        model: in eval mode.
        data: ids int64 [rows, B]. Fewer columns give each a longer past.
        bptt: rows a window; changes speed and memory, not the result.
    """
    rows, batch = data.shape
    hidden = model.init_hidden(batch)
    keys = torch.zeros(0, batch, model.nhid, device=data.device)  # [P, B, H], oldest first
    words = data.new_zeros(0, batch)  # [P, B]
    total = in_float64(torch.zeros((), device=data.device))
    done = 0
    for input, target in windows(data, bptt):
        features, hidden = model.features(input, hidden)  # [T, B, H]
        target = target.view_as(input)
        logits = model.decoder(features)  # [T, B, V]
        nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        keys, words = torch.cat([keys, features]), torch.cat([words, target])
        recalled = _recalled(features, keys, words, cache)
        total -= in_float64(_blend(-nll.view_as(target), recalled, cache.share).sum())
        keys, words = keys[-cache.size :], words[-cache.size :]
        done += len(input)
        if progress:
            progress(done, rows - 1)
    return Score(float(total), (rows - 1) * batch)


def _recalled(features: Tensor, keys: Tensor, words: Tensor, cache: NeuralCache) -> Tensor:
    """What the cache gives each word that came, [T, B]; NaN where there is no past.

    The last T of `keys` [P + T, B, H] and `words` [P + T, B] are the window's own.
    """
    steps, past = len(features), len(keys) - len(features)
    scores = cache.theta * torch.einsum("tbh,pbh->tpb", features, keys)  # [T, P + T, B]
    age = past + torch.arange(steps)[:, None] - torch.arange(len(keys))  # [T, P + T]
    visible = ((age > 0) & (age <= cache.size)).to(features.device)
    weights = scores.masked_fill(~visible[..., None], -torch.inf).softmax(1)
    target = words[past:]
    return (weights * (words[None] == target[:, None])).sum(1)


def _blend(log_p: Tensor, recalled: Tensor, share: float) -> Tensor:
    """log((1 - share) p + share recalled); log p alone where nothing can be recalled."""
    wide = widest(log_p.device)
    own, recalled = log_p.to(wide), recalled.to(wide)
    others = math.log1p(-share) if share < 1 else -math.inf
    blended = torch.logaddexp(own + others, (share * recalled).log())
    return torch.where(recalled.isnan(), own, blended)
