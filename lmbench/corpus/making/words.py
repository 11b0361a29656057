"""From a block of text to sentences of words. No torch here.

Words are those of Moses' tokenizer (Koehn et al. 2007), by sacremoses: it knows abbreviations,
numbers and apostrophes, where the pre-tokenizers of Hugging Face's tokenizers part ``3.50`` and
``U.S.`` at each stop. It takes 2.6 s a megabyte, so what stands between white space is tokenised
by itself, between two words, and remembered; and where no sign is that Moses has rules for, it is
not asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from lmbench.config.corpus_making import DataMakeConfig

__all__ = ["Splitter", "splitter"]

Splitter = Callable[[str], list[str]]
"""From a block to its sentences, each as its words with single blanks between them."""

_REMEMBERED, _REMEMBERED_AT_END = 1 << 17, 1 << 15
# Only what is likely to come again is remembered.
_LONGEST_REMEMBERED = 40
# Only where a row of stops begins, and all of it: else a long one would be tried from each of them.
_STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s+")
_OPENING = "\"'“‘«([¿¡"
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
# Moses sets every sign apart but for these, which depend on what is beside them.
_NEEDS_RULES = re.compile(r"['`]|,(?!$)|\.(?![A-Za-z0-9-])|(?<![A-Za-z0-9-])\.")
_PARTS = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\S")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,:/-]\d+)*")


def splitter(config: DataMakeConfig) -> Splitter:
    """The way from text to words that the settings ask for."""
    if config.tokenizer.startswith("none"):
        if not (config.lower or config.fold_numbers):
            return lambda text: [" ".join(line.split()) for line in text.split("\n")]
        finish = _finish(config)
        return lambda text: [" ".join(map(finish, line.split())) for line in text.split("\n")]
    return _Moses(config).sentences


def _finish(config: DataMakeConfig) -> Callable[[str], str]:
    """What is done to each word at last."""

    def finish(word: str) -> str:
        if config.fold_numbers and _NUMBER.fullmatch(word):
            return "N"
        return word.lower() if config.lower else word

    return finish


class _Moses:
    """Sentences by the rules of Moses' split-sentences.perl, words by its tokenizer."""

    def __init__(self, config: DataMakeConfig) -> None:
        from sacremoses import MosesTokenizer

        self._tokenizer = MosesTokenizer("en")
        prefixes = self._tokenizer.NONBREAKING_PREFIXES
        self._before_numbers = frozenset(self._tokenizer.NUMERIC_ONLY_PREFIXES)
        self._abbreviations = frozenset(prefixes) - self._before_numbers
        self._finish = _finish(config)
        self._remembered = (
            lru_cache(_REMEMBERED)(self._tokenised),
            lru_cache(_REMEMBERED_AT_END)(self._last),
        )

    def sentences(self, text: str) -> list[str]:
        return [self._sentence(text[start:end].split()) for start, end in self._spans(text)]

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        start = 0
        for stop in _STOP.finditer(text):
            if self._ends(text, start, stop):
                yield start, stop.end()
                start = stop.end()
        if not text[start:].isspace() and start < len(text):
            yield start, len(text)

    def _ends(self, text: str, start: int, stop: re.Match[str]) -> bool:
        """Whether a sentence ends with this stop: what follows may begin one, and what stands
        before it is no abbreviation."""
        following = text[stop.end() : stop.end() + 4].lstrip(_OPENING)[:1]
        if not (following.isupper() or following.isdigit()):
            return False
        if not stop[0].startswith(".") or stop[0].startswith(".."):
            return True
        before = text[max(start, stop.start() - _LONGEST_REMEMBERED) : stop.start()].split()
        word = (
            before[-1].lstrip(_OPENING) if before and not text[stop.start() - 1].isspace() else ""
        )
        if word in self._before_numbers and following.isdigit():
            return False
        return word not in self._abbreviations and not _ACRONYM.fullmatch(word)

    def _sentence(self, chunks: list[str]) -> str:
        is_long = max(map(len, chunks)) > _LONGEST_REMEMBERED
        inside, at_end = (self._tokenised, self._last) if is_long else self._remembered
        words = list(map(inside, chunks))
        words[-1] = at_end(chunks[-1])
        for place in [place for place, chunk in enumerate(chunks[:-1]) if chunk[-1] == "."]:
            following, word = chunks[place + 1][0], chunks[place][:-1]
            goes_on = following.isdigit() and word in self._before_numbers
            if not (goes_on or following.islower()):
                words[place] = at_end(chunks[place])
        # Of control characters nothing is left.
        return " ".join(filter(None, words))

    def _last(self, chunk: str) -> str:
        return self._tokenised(chunk, True)

    def _tokenised(self, chunk: str, ends: bool = False) -> str:
        """What stands between white space, as words; `ends`: it ends a sentence."""
        if chunk.isascii() and chunk.isprintable() and not _NEEDS_RULES.search(chunk):
            return " ".join(map(self._finish, _PARTS.findall(chunk)))
        words = self._tokenizer.tokenize(f"a {chunk}" if ends else f"a {chunk} a", escape=False)
        return " ".join(map(self._finish, words[1:] if ends else words[1:-1]))
