"""The search for settings, on scores that are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmbench.deploy.runtimes.interface import Score
from lmbench.generation.cache import NeuralCache
from lmbench.training.dynamic_evaluation import Dynamic
from lmbench.training.tune_evaluation import Adaptation, count_passes, tune


class Scored:
    """A text whose loss is least at one setting of each, and which counts how often it is read."""

    def __init__(self, lr: float = 2.0, decay: float = 0.003, theta: float = 0.4) -> None:
        self.best, self.theta = (lr, decay), theta
        self.passes: list[Dynamic | None] = []

    def __call__(
        self, dynamic: Dynamic | None, caches: Sequence[NeuralCache]
    ) -> tuple[Score, list[Score]]:
        self.passes.append(dynamic)
        own = 100.0
        if dynamic:
            own += abs(math.log(dynamic.lr / self.best[0])) + 10 * abs(dynamic.decay - self.best[1])
            own = math.nan if dynamic.lr > 7 else own
        cached = [own - 5 + abs(c.theta - self.theta) + abs(c.share - 0.2) for c in caches]
        return Score(own, 1), [Score(nll, 1) for nll in cached]


def test_all_pairs_of_a_cache_take_one_pass() -> None:
    text = Scored()
    found, score = tune(Adaptation(NeuralCache(50)), text)
    assert found == Adaptation(NeuralCache(50, 0.4, 0.2))
    assert score.nll == 95.0
    assert len(text.passes) == count_passes(Adaptation(NeuralCache(50))) == 1


def test_step_sizes_first_then_decays_and_a_step_that_ends_in_nan_is_not_taken() -> None:
    text, start = Scored(), Adaptation(None, Dynamic("sgd", 1.0, 0.001))
    found, score = tune(start, text)
    assert found == Adaptation(None, Dynamic("sgd", 2.0, 0.003))
    assert score.nll == 100.0
    assert len(text.passes) == count_passes(start)
    assert len(set(text.passes)) == len(text.passes)


def test_both_are_tuned_together() -> None:
    text, start = Scored(), Adaptation(NeuralCache(9), Dynamic("sgd", 1.0, 0.001))
    found, score = tune(start, text)
    assert found == Adaptation(NeuralCache(9, 0.4, 0.2), Dynamic("sgd", 2.0, 0.003))
    assert score.nll == 95.0
    assert len(text.passes) == count_passes(start)


def test_where_every_step_ends_in_nan_one_is_given_all_the_same() -> None:
    def nothing(
        dynamic: Dynamic | None, caches: Sequence[NeuralCache]
    ) -> tuple[Score, list[Score]]:
        return Score(math.nan, 1), []

    found, _ = tune(Adaptation(None, Dynamic("rms", 1e-4, 0.01)), nothing)
    assert found.dynamic is not None
