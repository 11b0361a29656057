"""A trained model as other programs use it: the probability of texts, and the next word.

>>> from lmbench import LanguageModel
>>> lm = LanguageModel.load("model.lmpack")
>>> lm.score("the cat sat").total.perplexity
>>> lm.next("the cat", 3)
>>> lm.complete("the cat", "sa", 3)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.packed_file.reading import is_packed, open_packed
from lmbench.errors import NOT_FINITE, LmbenchError
from lmbench.scoring.lines import NO_ID, Line, Words
from lmbench.scoring.predictor import Predictor, RuntimePredictor, packed_predictor
from lmbench.scoring.score import LineScore, score_running, score_sentences
from lmbench.user_folder import expanded

__all__ = ["LanguageModel", "Stream"]

Text = str | Sequence[str]
"""Words, or a text whose words are separated by white space."""

# Sorts after every word that begins with what stands before it.
_LAST = "\U0010ffff"


class LanguageModel:
    """A model that scores texts and proposes words. Not thread-safe.

    Attributes:
        title: what to call it on screen.
        runtime: what computes: a runtime's name, or ``numpy``.
        words: its vocabulary.
    """

    def __init__(
        self, predictor: Predictor, vocabulary: Sequence[str], title: str, runtime: str
    ) -> None:
        self.predictor = predictor
        self.words = Words(vocabulary, title)
        self.title, self.runtime = title, runtime

    @classmethod
    def load(cls, model: str | Path, *, threads: int = 0) -> LanguageModel:
        """Open a packed file, without torch; or a run or a file of weights, with it.

        Args:
            model: what `lmbench pack` wrote; or a run (SESSION/3, @, a folder) or a
                ``.safetensors`` file that `lmbench export` wrote.
            threads: that score a packed file; 0 takes one for each core. One word at a time is
                always predicted on one thread.

        Raises:
            LmbenchError: there is no such model, its file is damaged, or it has no vocabulary.
        """
        path = expanded(model)
        if path.is_file() and is_packed(path):
            packed = open_packed(path)
            predictor, name = packed_predictor(packed, threads)
            return cls(predictor, packed.vocabulary, path.name, name)
        from lmbench.deploy.load_model import open_model
        from lmbench.deploy.runtimes.choose import open_runtime
        from lmbench.session import Home
        from lmbench.session.store import DEFAULT_SESSION

        loaded, _ = open_model(str(model), Home.find(), DEFAULT_SESSION)
        runtime = open_runtime("as-is", loaded, "score")
        return cls(RuntimePredictor(runtime), loaded.vocabulary, loaded.title, runtime.name)

    def score(self, words: Text) -> LineScore:
        """The log probabilities of a sentence: of each word, and of the sentence's end.

        It begins after an ``<eos>``, as each line of a corpus does.
        """
        [score] = score_sentences(self.predictor, self.words, [self._line(words)])
        return score

    def score_lines(self, lines: Iterable[Text], *, carry: bool = False) -> Iterator[LineScore]:
        """Many sentences, several at once; with `carry` as one running text."""
        score = score_running if carry else score_sentences
        return score(self.predictor, self.words, map(self._line, lines))

    def next(self, words: Text = (), k: int = 10) -> list[tuple[str, float]]:
        """The `k` likeliest words after these, and how probable each is.

        ``<eos>`` is among them, as the end of the sentence; ``<unk>`` is not.
        """
        return self.stream(words).next(k)

    def complete(self, words: Text, prefix: str, k: int = 10) -> list[tuple[str, float]]:
        """The `k` likeliest of the words that begin with `prefix`, and how probable each is.

        A model of pieces of words gives the first pieces of such words, those that hold all of
        `prefix`.
        """
        return self.stream(words).complete(prefix, k)

    def stream(self, words: Text = ()) -> Stream:
        """A text that grows word by word, begun with these."""
        stream = Stream(self)
        stream.read(words)
        return stream

    def begins_with(self, prefix: str) -> NDArray[np.int64]:
        """The ids of the words that begin with `prefix`, or of the first pieces of such words."""
        words, ids = self._sorted
        prefix = self.words.spelled(prefix)
        return ids[bisect_left(words, prefix) : bisect_left(words, prefix + _LAST)]

    @cached_property
    def _sorted(self) -> tuple[list[str], NDArray[np.int64]]:
        vocabulary = self.words.vocabulary
        ids = sorted(range(len(vocabulary)), key=vocabulary.__getitem__)
        return [vocabulary[i] for i in ids], np.array(ids)

    def _line(self, words: Text) -> Line:
        return self.words.line(words.split() if isinstance(words, str) else words)


class Stream:
    """A text that grows: what may come next is asked of it after each word.

    Made by `LanguageModel.stream`. It begins after an ``<eos>``.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._state: Any = model.predictor.initial_state()
        self._read_one(model.words.eos)

    def read(self, words: Text) -> list[float]:
        """Go on by these words. Gives the natural log probability that each had.

        An unknown word is read as ``<unk>``; where there is none it has -inf and is passed over.
        """
        given = words.split() if isinstance(words, str) else words
        found = []
        for id in self._model.words.ids(self._model.words.cut(given)).tolist():
            found.append(float(self._log_probs[id]) if id != NO_ID else -np.inf)
            if id != NO_ID:
                self._read_one(id)
        return found

    def end(self) -> float:
        """End the sentence: the log probability of that. What follows begins a new one, with the
        state carried on."""
        [log_prob] = self.read([self._model.words.vocabulary[self._model.words.eos]])
        return log_prob

    def next(self, k: int = 10) -> list[tuple[str, float]]:
        """See `LanguageModel.next`."""
        return self._likeliest(np.arange(len(self._log_probs)), k)

    def complete(self, prefix: str, k: int = 10) -> list[tuple[str, float]]:
        """See `LanguageModel.complete`."""
        return self._likeliest(self._model.begins_with(prefix), k)

    def _likeliest(self, ids: NDArray[np.int64], k: int) -> list[tuple[str, float]]:
        words = self._model.words
        ids = ids[ids != words.unk] if words.unk is not None else ids
        log_probs = self._log_probs[ids]
        best = np.argsort(-log_probs, kind="stable")[: max(k, 0)]
        return [(words.vocabulary[int(ids[i])], float(np.exp(log_probs[i]))) for i in best]

    def _read_one(self, id: int) -> None:
        logits, self._state = self._model.predictor.step(np.array([id]), self._state)
        wide = logits[0].astype(np.float64)
        top = wide.max()
        if not np.isfinite(top):
            raise LmbenchError(NOT_FINITE)
        wide -= top
        self._log_probs = wide - np.log(np.exp(wide).sum())
