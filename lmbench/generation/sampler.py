"""A text as it grows, word by word, over any runtime."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmbench.corpus.ids import EOS, UNK
from lmbench.corpus.subwords import Pieces, is_subword
from lmbench.deploy.runtimes.interface import Runtime, State
from lmbench.errors import LmbenchError
from lmbench.generation.cache import NeuralCache, Past
from lmbench.generation.sampling import Candidates, Sampling, candidates, draw

__all__ = ["Alternative", "Prompt", "Sampler", "Snapshot", "Word", "read_prompt"]


@dataclass(frozen=True)
class Alternative:
    """A word that was likely at a place."""

    id: int
    text: str
    before: float
    """What the model gives it."""

    after: float
    """How likely it was to be chosen, under the sampling settings."""


@dataclass(frozen=True)
class Word:
    """A word that was written."""

    id: int
    text: str
    surprisal_bits: float
    """-log2 of what the model, with its cache, gives it before the sampling settings."""

    probability: float
    """How likely it was to be chosen, after them; 0 where the user took a word they rule out."""

    alternatives: tuple[Alternative, ...] = ()
    """The model's likeliest words here, likeliest first, as many as were asked for."""


@dataclass(frozen=True)
class Prompt:
    """A beginning in ids, and its words that the vocabulary does not have."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """A sampler between two words: all that writing the same next word needs."""

    state: State
    unread: tuple[int, ...]
    hidden: Tensor | None
    past: Past
    generator: dict[str, Any]


def read_prompt(text: str, vocabulary: Sequence[str]) -> Prompt:
    """Split as a corpus is: words at white space, ``<eos>`` between lines, and words into pieces
    where the vocabulary is one of pieces, which may have none for a byte of a word.

    Unknown words become ``<unk>`` and are reported, each once.

    Raises:
        LmbenchError: an unknown word, and no ``<unk>`` to stand for it; a text that is not UTF-8.
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LmbenchError(
            "--prompt is not UTF-8: set the terminal, or save the file that it comes from, to UTF-8"
        ) from None
    # Only where a corpus has ends of lines, too: `splitlines` knows more of them.
    lines = re.split(r"\r\n?|\n", text.strip())
    words = f" {EOS} ".join(lines).split()
    read = words
    unknown = tuple(dict.fromkeys(word for word in words if word not in index))
    if is_subword(vocabulary):
        pieces = Pieces(vocabulary)
        read = pieces.of(words)
        stands_for_itself = {UNK} & index.keys()
        unread = (w for w in words if w not in stands_for_itself and UNK in pieces.of([w]))
        unknown = tuple(dict.fromkeys(unread))
    if unknown and UNK not in index:
        raise LmbenchError(
            f"prompt word '{unknown[0]}' is not in the model's vocabulary, which has no {UNK} to "
            "stand for it"
        )
    return Prompt(tuple(index[word] if word in index else index[UNK] for word in read), unknown)


class Sampler:
    """Writes a text with a runtime.

    Args:
        runtime: what executes the model.
        vocabulary: its words in order of id.
        sampling: how words are chosen; may be replaced between two words.
        seed: of the generator that is this sampler's own. The same seed, model and runtime give
            the same text on the same machine.
        cache: makes words of the text so far likelier where they fit.

    Raises:
        LmbenchError: the vocabulary is not the model's.
    """

    def __init__(
        self,
        runtime: Runtime,
        vocabulary: Sequence[str],
        sampling: Sampling | None = None,
        *,
        seed: int = 1111,
        cache: NeuralCache | None = None,
    ) -> None:
        if len(vocabulary) != runtime.ntoken:
            raise LmbenchError(
                f"the model has {runtime.ntoken:,} words and the vocabulary {len(vocabulary):,}: "
                "they do not belong together"
                if vocabulary
                else "the file holds weights but no vocabulary, so its words are unknown; "
                "name the run, a file that `lmbench export` or `lmbench pack` wrote, or the corpus "
                "that it was trained on (--data)"
            )
        self.runtime = runtime
        self.vocabulary = vocabulary
        self.sampling = sampling or Sampling()
        self._cache = cache
        self._random = np.random.default_rng(seed)
        self._state = runtime.initial_state(1)
        # What the decoder saw last, where a cache asks; nothing before the first word.
        self._hidden: Tensor | None = None
        self._past: Past = ()
        # Words of the text so far that the model has not read yet; it reads them at the next step.
        self._unread: tuple[int, ...] = ()

    def read(self, ids: Sequence[int]) -> None:
        """Take words as given: a prompt, or what the user wrote in between."""
        self._unread += tuple(ids)

    def begin(self) -> int | None:
        """Where nothing was read, draw the word that the text begins after: evenly from the
        vocabulary, and not part of the text, as in the original.

        The first word does so, should no one have done it before: a place that one branches off
        by another seed has to have it already.
        """
        if self._unread:
            return None
        id = int(self._random.integers(len(self.vocabulary)))
        self._unread = (id,)
        return id

    def next(self, alternatives: int = 0) -> Word:
        """Write one more word."""
        logits = self._predict()
        among = candidates(logits, self.sampling)
        place = draw(among, float(self._random.random()))
        word = self._word(logits, among, among.word(place), alternatives)
        self._unread = (word.id,)
        return word

    def take(self, id: int, alternatives: int = 0) -> Word:
        """Write the word that the user chose in place of drawing one."""
        if not 0 <= id < len(self.vocabulary):
            raise LmbenchError(f"no word {id}: ids go from 0 to {len(self.vocabulary) - 1}")
        logits = self._predict()
        word = self._word(logits, candidates(logits, self.sampling), id, alternatives)
        self._unread = (id,)
        return word

    def words(self, count: int, alternatives: int = 0) -> Iterator[Word]:
        """Write so many words, each given as soon as it is there."""
        for _ in range(count):
            yield self.next(alternatives)

    def snapshot(self) -> Snapshot:
        """This place of the text, to come back to: some vectors, cheap enough for each word."""
        return Snapshot(
            self._state,
            self._unread,
            self._hidden,
            self._past,
            dict(self._random.bit_generator.state),
        )

    def restore(self, snapshot: Snapshot, *, seed: int | None = None) -> None:
        """Go back to a place. The same words follow, unless `seed` begins a branch."""
        self._state, self._unread = snapshot.state, snapshot.unread
        self._hidden, self._past = snapshot.hidden, snapshot.past
        self._random = np.random.default_rng(seed)
        if seed is None:
            self._random.bit_generator.state = snapshot.generator

    def catch_up(self) -> None:
        """Read all words that are unread but the last, which the next word does else."""
        self.begin()
        *before, last = self._unread
        for id in before:
            self._step(id)
        self._unread = (last,)

    def _predict(self) -> Tensor:
        """Read what is unread; logits [V] of the word that comes next."""
        self.catch_up()
        logits = self._step(self._unread[0])[0].cpu()
        if self._cache is None or self._hidden is None:
            return logits
        return self._cache.blend(logits, self._hidden, self._past)

    def _step(self, id: int) -> Tensor:
        """Read a word; logits [1, V] of the next."""
        if self._cache is not None and self._hidden is not None:
            self._past = self._cache.remember(self._past, self._hidden, id)
        ids = torch.tensor([id], device=self.runtime.device)
        logits, self._state = self.runtime.step(ids, self._state)
        if self._cache is not None:
            self._hidden = self.runtime.hidden(self._state)[0].float().cpu()
        return logits

    def _word(self, logits: Tensor, among: Candidates, id: int, alternatives: int) -> Word:
        after = among.probability(id)
        if alternatives:
            before = logits.softmax(0)
            likeliest = before.topk(min(alternatives, len(before)))
            shown = tuple(
                Alternative(int(i), self.vocabulary[int(i)], p, among.probability(i))
                for i, p in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            )
        else:
            shown = ()
        if self.sampling.changes_nothing and after > 0:
            bits = -math.log2(after)
        else:
            bits = float(logits.logsumexp(0) - logits[id]) / math.log(2)
        return Word(id, self.vocabulary[id], bits, after, shown)
