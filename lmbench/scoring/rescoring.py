"""Ranking a recogniser's hypotheses anew: its score, the language model's, and a word penalty.

A hypothesis is worth ``score + weight * log P(words) + penalty * words`` (natural logarithms), and
the best of each utterance is taken. Weight and penalty are those with the least word error rate on
a list with references.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.errors import LmbenchError
from lmbench.scoring.language_model import LanguageModel
from lmbench.scoring.nbest import NBest

__all__ = ["Errors", "Ranking", "Trial", "Tuned", "language_scores", "tune"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Errors:
    """Word errors over `words` words of references."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def rate(self) -> float:
        """The word error rate; NaN where nothing was said."""
        wrong = self.substitutions + self.deletions + self.insertions
        return wrong / self.words if self.words else math.nan


class Ranking:
    """A list as arrays over its hypotheses, and with references the errors of each.

    Args:
        nbest: the list.
        references: of the same utterances; None where they are not known.

    Raises:
        LmbenchError: there are references, and jiwer is not installed.
    """

    def __init__(
        self, nbest: NBest, references: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.nbest = nbest
        counts = [len(hypotheses) for hypotheses in nbest.values()]
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        every = [hypothesis for hypotheses in nbest.values() for hypothesis in hypotheses]
        self.acoustic = np.array([hypothesis.score for hypothesis in every])
        self.words = np.array([len(hypothesis.words) for hypothesis in every])
        self._errors = None if references is None else _errors_of_each(nbest, references)
        self._said = 0 if references is None else sum(len(references[one]) for one in nbest)

    def best(self, scores: Array) -> list[int]:
        """The hypothesis with the highest of scores [H] of each utterance, by its place in H; the
        first of equal ones."""
        spans = zip(self._starts, self._ends, strict=True)
        return [int(first + np.argmax(scores[first:last])) for first, last in spans]

    def total(self, language: Array, weight: float, penalty: float) -> Array:
        """What each hypothesis is worth, [H]."""
        return self.acoustic + weight * language + penalty * self.words

    def errors(self, chosen: Sequence[int]) -> Errors:
        """Of these hypotheses, one an utterance."""
        assert self._errors is not None
        return Errors(*self._errors[list(chosen)].sum(axis=0).tolist(), words=self._said)

    def oracle(self) -> Errors:
        """Of the best choice that the list allows."""
        assert self._errors is not None
        return self.errors(self.best(-self._errors.sum(axis=1)))

    def texts(self, chosen: Sequence[int]) -> dict[str, str]:
        """The words of these hypotheses, by utterance."""
        return {
            utterance: " ".join(hypotheses[place - first].words)
            for (utterance, hypotheses), first, place in zip(
                self.nbest.items(), self._starts, chosen, strict=True
            )
        }


def _errors_of_each(nbest: NBest, references: Mapping[str, tuple[str, ...]]) -> Array:
    """Substitutions, deletions and insertions of each hypothesis, int64 [H, 3]."""
    try:
        import jiwer
    except ImportError:
        raise LmbenchError(
            "word error rates need jiwer, which is not installed: pip install 'lmbench[rescore]'"
        ) from None
    rows = []
    for utterance, hypotheses in nbest.items():
        said = " ".join(references[utterance])
        for hypothesis in hypotheses:
            out = jiwer.process_words(said, " ".join(hypothesis.words))
            rows.append((out.substitutions, out.deletions, out.insertions))
    return np.array(rows, np.int64)


def language_scores(model: LanguageModel, nbest: NBest) -> tuple[Array, float]:
    """The natural log probability of each hypothesis, [H], and the seconds that it took.

    Where the vocabulary has no ``<unk>``, an unknown word counts as one drawn evenly from the
    vocabulary: a hypothesis with it must stay comparable with the others.
    """
    every = [hypothesis.words for hypotheses in nbest.values() for hypothesis in hypotheses]
    began = time.perf_counter()
    scores = [score.total for score in model.score_lines(every)]
    seconds = time.perf_counter() - began
    if model.words.unk is not None:
        return np.array([score.log_prob for score in scores]), seconds
    drawn = -math.log(len(model.words.vocabulary))
    return np.array([s.known_log_prob + s.unknown * drawn for s in scores]), seconds


@dataclass(frozen=True, slots=True)
class Trial:
    """One place of the grid, and what it came to."""

    weight: float
    penalty: float
    errors: Errors


@dataclass(frozen=True, slots=True)
class Tuned:
    """The grid, and the best of it: the least errors, then the smallest weight and penalty."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        def order(trial: Trial) -> tuple[float, float, float]:
            return trial.errors.rate, abs(trial.weight), abs(trial.penalty)

        return min(self.trials, key=order)


def tune(
    ranking: Ranking,
    language: Array,
    weights: Sequence[float],
    penalties: Sequence[float],
) -> Tuned:
    """Try each weight with each penalty on a list with references."""
    trials = []
    for weight in weights:
        for penalty in penalties:
            chosen = ranking.best(ranking.total(language, weight, penalty))
            trials.append(Trial(weight, penalty, ranking.errors(chosen)))
    return Tuned(tuple(trials))
