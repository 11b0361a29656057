"""The neural cache of Grave, Joulin and Usunier (2016, arXiv 1612.04426), for scoring a text and
for writing one.

Each past word is kept with the hidden state that came before it. What follows a state like them
is likely their word again: a distribution over the past words, blended with the model's own. It
needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.config.scoring import CacheConfig
from lmbench.corpus.batches import windows
from lmbench.deploy.runtimes.interface import Progress, Runtime, Score
from lmbench.model.device import in_float64, widest
from lmbench.model.rnn import RNNModel

__all__ = [
    "CachedPast",
    "NeuralCache",
    "Past",
    "evaluate_with_caches",
    "log_probability",
    "step_with_caches",
]

Past = tuple[tuple[Tensor, int], ...]
"""Words of one text that were read, oldest first, each with the hidden state [H] before it."""


@dataclass(frozen=True)
class NeuralCache:
    """The cache's settings."""

    size: int
    """Past words that are looked at."""

    theta: float = 0.6
    """How sharply: past words weigh exp(theta times the product of the two states)."""

    share: float = 0.1
    """What the cache has in the prediction, lambda in the paper."""

    @classmethod
    def of(cls, config: CacheConfig) -> NeuralCache | None:
        """As the settings say; None where they have none."""
        if not config.cache:
            return None
        return cls(config.cache, config.cache_theta, config.cache_lambda)

    def remember(self, past: Past, hidden: Tensor, word: int) -> Past:
        """The past with one more word, and as many as the cache looks at."""
        return (*past, (hidden, word))[-self.size :]

    def blend(self, logits: Tensor, hidden: Tensor, past: Past) -> Tensor:
        """Logits [V] of the next word where the model gives `logits` [V] after `hidden` [H]: their
        softmax is the blended distribution."""
        if not past:
            return logits
        keys = torch.stack([key for key, _ in past])  # [P, H]
        words = torch.tensor([word for _, word in past], device=logits.device)
        weights = (self.theta * (keys @ hidden)).softmax(0)
        recalled = torch.zeros_like(logits).index_add_(0, words, weights)
        return _mixed(logits.log_softmax(0), recalled, self.share)


class CachedPast:
    """The past of each column of a text, and its score so far: the model's own, and under each of
    some caches. Several cost little more than one, since what was read is kept once.

    Args:
        caches: all of one size; may be empty.
        like: what the decoder sees of one row is of these sizes [B, H], this type and device.
    """

    def __init__(self, caches: Sequence[NeuralCache], like: Tensor) -> None:
        self.caches = tuple(caches)
        self._keys = like.new_zeros(0, *like.shape)  # [P, B, H], oldest first
        self._words = torch.zeros(0, len(like), dtype=torch.int64, device=like.device)  # [P, B]
        sums = in_float64(torch.zeros(1 + len(self.caches), device=like.device))
        self._own, *self._blended = sums.unbind()

    def read(self, features: Tensor, target: Tensor, log_p: Tensor) -> None:
        """Score the words of a window [T, B] by their `log_p` [T, B], and remember them.

        Args:
            features: what the decoder saw before each, [T, B, H].
        """
        self._own.sub_(in_float64(log_p.sum(dtype=widest(log_p.device))))
        if not self.caches:
            return
        size = self.caches[0].size
        keys, words = torch.cat([self._keys, features]), torch.cat([self._words, target])
        likeness = torch.einsum("tbh,pbh->tpb", features, keys)  # [T, P + T, B]
        recalled: dict[float, Tensor] = {}
        for cache, total in zip(self.caches, self._blended, strict=True):
            if cache.theta not in recalled:
                recalled[cache.theta] = _recalled(cache.theta * likeness, words, size)
            blended = _blend(log_p, recalled[cache.theta], cache.share)
            total.sub_(in_float64(blended.sum()))
        self._keys, self._words = keys[-size:], words[-size:]

    def scores(self, tokens: int) -> tuple[Score, list[Score]]:
        """The model's own score and that under each cache, of the `tokens` that were read."""
        return Score(float(self._own), tokens), [Score(float(b), tokens) for b in self._blended]


@torch.inference_mode()
def evaluate_with_caches(
    model: RNNModel,
    data: Tensor,
    bptt: int,
    caches: Sequence[NeuralCache],
    progress: Progress | None = None,
) -> tuple[Score, list[Score]]:
    """Score every token after the first row once, each column with a cache of its own past.

    Args:
        model: in eval mode.
        data: ids int64 [rows, B]. Fewer columns give each a longer past.
        bptt: rows a window; changes speed and memory, not the result.
        caches: of one size.

    Returns:
        The score without a cache, and that with each of them.
    """
    rows, batch = data.shape
    past = CachedPast(caches, model.decoder.bias.new_empty(batch, model.decoder_width))
    hidden = model.init_hidden(batch)
    for input, target in windows(data, bptt, progress):
        features, hidden = model.features(input, hidden)  # [T, B, H]
        past.read(features, target.view_as(input), log_probability(model, features, target))
    return past.scores((rows - 1) * batch)


@torch.inference_mode()
def step_with_caches(
    runtime: Runtime,
    data: Tensor,
    bptt: int,
    caches: Sequence[NeuralCache],
    progress: Progress | None = None,
) -> tuple[Score, list[Score]]:
    """As `evaluate_with_caches`, a word of each column at a time on what writes a text, too."""
    rows, batch = data.shape
    state = runtime.initial_state(batch)
    past = CachedPast(caches, runtime.hidden(state))
    for input, target in windows(data, bptt, progress):
        features, log_p = [], []
        for ids, words in zip(input, target.view_as(input), strict=True):
            logits, state = runtime.step(ids, state)
            features.append(runtime.hidden(state))
            log_p.append(-F.cross_entropy(logits, words, reduction="none"))
        past.read(torch.stack(features), target.view_as(input), torch.stack(log_p))
    return past.scores((rows - 1) * batch)


def log_probability(model: RNNModel, features: Tensor, target: Tensor) -> Tensor:
    """What the model itself gives each word of `target` [T * B], given `features` [T, B, H]:
    [T, B], in nats."""
    logits = model.decoder(features.flatten(0, 1))  # [T * B, V]
    return -F.cross_entropy(logits, target, reduction="none").view(features.shape[:2])


def _recalled(scores: Tensor, words: Tensor, size: int) -> Tensor:
    """What the cache gives each word that came, [T, B]; NaN where there is no past.

    `scores` [T, P + T, B] are of the window's words against the past's and its own; the last T of
    `words` [P + T, B] are the window's.
    """
    steps, known = scores.shape[:2]
    past = known - steps
    age = past + torch.arange(steps)[:, None] - torch.arange(known)  # [T, P + T]
    visible = ((age > 0) & (age <= size)).to(scores.device)
    weights = scores.masked_fill(~visible[..., None], -torch.inf).softmax(1)
    target = words[past:]
    return (weights * (words[None] == target[:, None])).sum(1)


def _blend(log_p: Tensor, recalled: Tensor, share: float) -> Tensor:
    """log((1 - share) p + share recalled); log p alone where nothing can be recalled."""
    wide = widest(log_p.device)
    own, recalled = log_p.to(wide), recalled.to(wide)
    return torch.where(recalled.isnan(), own, _mixed(own, recalled, share))


def _mixed(log_p: Tensor, recalled: Tensor, share: float) -> Tensor:
    others = math.log1p(-share) if share < 1 else -math.inf
    return torch.logaddexp(log_p + others, (share * recalled).log())
