"""From logits to the next word: temperature, top-k, top-p, words that are ruled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmbench.config import GenerateConfig
from lmbench.corpus.ids import UNK
from lmbench.errors import NOT_FINITE, LmbenchError

__all__ = ["Candidates", "Sampling", "candidates", "draw"]

# Below it a temperature leaves nothing but the likeliest word, and dividing by it overflows.
_GREEDY_BELOW = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How the next word is chosen. The settings act in the order of the fields."""

    banned: tuple[int, ...] = ()
    """Ids that are never chosen."""

    temperature: float = 1.0
    """Logits are divided by it; 0 always takes the likeliest word."""

    top_k: int = 0
    """Only so many of the likeliest words; 0 takes all."""

    top_p: float = 1.0
    """Only the smallest set of likeliest words that holds this much of what `top_k` left
    (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751)."""

    @classmethod
    def of(cls, config: GenerateConfig, vocabulary: Sequence[str]) -> Sampling:
        """What the settings ask for, of a model that knows these words."""
        banned = (vocabulary.index(UNK),) if config.no_unk and UNK in vocabulary else ()
        return cls(banned, config.temperature, config.top_k, config.top_p)

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW

    @property
    def changes_nothing(self) -> bool:
        """Is the word drawn from the model's own distribution?"""
        return not self.banned and self.temperature == 1 and self.top_k == 0 and self.top_p == 1


@dataclass(frozen=True)
class Candidates:
    """The words that may be chosen, and how likely each is to be; they sum to 1."""

    ids: Tensor | None
    """int64 [C]; None where they are all words in order."""

    probabilities: Tensor
    """float32 [C]."""

    def probability(self, word: int) -> float:
        """How likely a word is to be chosen: 0 for one that the settings rule out."""
        if self.ids is None:
            return float(self.probabilities[word])
        found = self.probabilities[self.ids == word]
        return float(found[0]) if len(found) else 0.0

    def word(self, place: int) -> int:
        """The id of the candidate at this place."""
        return place if self.ids is None else int(self.ids[place])


def candidates(logits: Tensor, sampling: Sampling) -> Candidates:
    """What `sampling` leaves of a distribution.

    Args:
        logits: float32 [V] on the CPU; not changed.

    Raises:
        LmbenchError: logits that are not finite, or every word ruled out.
    """
    top = logits.max()
    if not torch.isfinite(top):
        raise LmbenchError(NOT_FINITE)
    scaled = logits
    if sampling.banned:
        scaled = logits.clone()
        scaled[list(sampling.banned)] = -torch.inf
        top = scaled.max()
        if not torch.isfinite(top):
            raise LmbenchError("every word of the vocabulary is ruled out: drop --no-unk")
    if sampling.greedy:
        best = scaled.argmax().view(1)
        return Candidates(best, torch.ones(1, device=logits.device))
    if sampling.temperature != 1:
        # Largest first, or a small temperature takes the logits beyond float32.
        scaled = (scaled - top) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        kept = scaled.topk(sampling.top_k)
        among = Candidates(kept.indices, kept.values.softmax(0))
    else:
        among = Candidates(None, scaled.softmax(0))
    return among if sampling.top_p == 1 else _nucleus(among, sampling.top_p)


def _nucleus(among: Candidates, p: float) -> Candidates:
    """The fewest of the candidates that hold `p`, made to sum to 1."""
    probabilities = among.probabilities
    # Only the numbers are sorted, which numpy does in a hundredth of what sorting words takes.
    ordered = np.sort(probabilities.numpy())[::-1]
    mass = np.cumsum(ordered, dtype=np.float64)
    size = min(int(np.searchsorted(mass, p)) + 1, len(ordered))
    least = float(ordered[size - 1])
    kept = (probabilities > least).nonzero().squeeze(1)
    # Of words that are equally likely at the edge, the first of the vocabulary fill the set.
    edge = (probabilities == least).nonzero().squeeze(1)
    places = torch.cat([kept, edge[: size - len(kept)]])
    ids = places if among.ids is None else among.ids[places]
    return Candidates(ids, probabilities[places] / float(mass[size - 1]))


def draw(among: Candidates, uniform: float) -> int:
    """The place of the candidate on which `uniform`, a number in [0, 1), falls.

    The inverse of the cumulative distribution: one pass and one search, where `multinomial`
    draws a number for every word.
    """
    mass = among.probabilities.cumsum(0, dtype=torch.float64)
    # Rounding leaves the total a little off 1.
    target = mass[-1:] * uniform
    place = int(torch.searchsorted(mass, target, right=True))
    return min(place, len(mass) - 1)
