"""The settings of the neural cache and of dynamic evaluation that score a text best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from lmbench.deploy.runtimes.interface import Score
from lmbench.generation.cache import NeuralCache
from lmbench.training.dynamic_evaluation import Dynamic

__all__ = ["Adaptation", "Evaluate", "PassScores", "count_passes", "tune"]

# Theta and lambda are tried in all pairs: one pass over the text scores every pair.
_THETAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
_Form = Literal["sgd", "rms"]
# Of dynamic evaluation each pair would be a pass of its own: first the step sizes, then the decays.
_STEPS: dict[_Form, tuple[float, ...]] = {
    "sgd": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    "rms": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
}
_DECAYS: dict[_Form, tuple[float, ...]] = {
    "sgd": (0.0, 0.001, 0.003, 0.01),
    "rms": (0.0, 0.003, 0.01, 0.03),
}


@dataclass(frozen=True)
class Adaptation:
    """What makes a score more than the model's own: a cache, weights that follow the text, both."""

    cache: NeuralCache | None = None
    dynamic: Dynamic | None = None


PassScores = tuple[Score, list[Score]]
"""What a text scores without a cache, and with each of some."""

Evaluate = Callable[[Dynamic | None, Sequence[NeuralCache]], PassScores]
"""Scores the text to tune on once."""


def count_passes(adaptation: Adaptation) -> int:
    """How often `tune` has the text scored."""
    dynamic = adaptation.dynamic
    return 1 if dynamic is None else len(_STEPS[dynamic.form]) + len(_DECAYS[dynamic.form]) - 1


def tune(adaptation: Adaptation, evaluate: Evaluate) -> tuple[Adaptation, Score]:
    """The best of a grid, and what the text scores with it.

    The size of the cache and the form of dynamic evaluation stay. Step sizes are tried at the decay
    given, then decays at the best step size, each with the cache's whole grid.
    """
    size = adaptation.cache.size if adaptation.cache else 0
    caches = [NeuralCache(size, *pair) for pair in product(_THETAS, _SHARES)] if size else []

    def best_with(dynamic: Dynamic | None) -> tuple[Adaptation, Score]:
        own, cached = evaluate(dynamic, caches)
        tried = zip(caches, cached, strict=True) if caches else [(None, own)]
        return _best([(Adaptation(cache, dynamic), score) for cache, score in tried])

    start = adaptation.dynamic
    if start is None:
        return best_with(None)
    found = _best([best_with(replace(start, lr=lr)) for lr in _STEPS[start.form]])
    step = found[0].dynamic
    assert step is not None
    others = [decay for decay in _DECAYS[start.form] if decay != start.decay]
    return _best([found, *(best_with(replace(step, decay=decay)) for decay in others)])


def _best(tried: Sequence[tuple[Adaptation, Score]]) -> tuple[Adaptation, Score]:
    """The lowest loss, of equals the first; steps that are too large may end in NaN."""
    return min(tried, key=lambda t: math.inf if math.isnan(t[1].nll) else t[1].nll)
