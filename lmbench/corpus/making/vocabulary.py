"""Which words a corpus keeps: counted in bounded memory. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lmbench.corpus.ids import EOS, UNK

__all__ = ["WordCounts"]

_MOST = 2_000_000


class WordCounts:
    """How often each word occurs, of so many words at most.

    Where there are more, the rarest are dropped, and from then on rarer ones than before, as
    word2vec does (Mikolov et al. 2013, ``ReduceVocab``). A word that comes again is counted from
    one, so a count may be too low by `missed` at most.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self._cut = 0
        self.missed = 0

    def add(self, words: Iterable[str]) -> None:
        """Count these words."""
        self._counts.update(words)
        while len(self._counts) > self._most:
            self._cut += 1
            self.missed += self._cut
            # In a new dictionary: that of which items are deleted would keep its size.
            self._counts = Counter(
                {word: count for word, count in self._counts.items() if count > self._cut}
            )

    def __len__(self) -> int:
        return len(self._counts)

    def most_frequent(self, least: int, most: int | None) -> dict[str, int]:
        """The words that occur `least` times or more, at most `most` of them, with their counts,
        besides <unk> and <eos>.

        The most frequent first; of equally frequent ones those first in order of their letters.
        """
        kept = [
            (word, count)
            for word, count in self._counts.items()
            if count >= least and word not in (UNK, EOS)
        ]
        kept.sort(key=lambda item: (-item[1], item[0]))
        return dict(kept[:most])
