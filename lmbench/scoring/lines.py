"""From any text to lines of ids, by the rules that corpora are read by. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lmbench.corpus.ids import EOS, UNK, decoded_pieces
from lmbench.corpus.subwords import Pieces, is_subword
from lmbench.errors import LmbenchError

__all__ = ["NO_ID", "Line", "Words", "lines_of"]

NO_ID = -1
"""Stands for an unknown word where the vocabulary has no ``<unk>``."""

# How much of a line is kept to show which it is.
_BEGINNING = 60


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a text."""

    ids: NDArray[np.int64]
    """Of its words, or their pieces, [W]; `NO_ID` where there is none."""

    beginning: str
    """Its first characters."""

    count: int
    """Words, whole ones."""

    unknown: int
    """Of the words: how many the vocabulary has not, or not all pieces of."""

    characters: int
    """Of its words with a blank between them, and one for the line's end."""

    words: tuple[str, ...] = ()
    """Those that have the ids, as they are written; only where they were asked for."""


class Words:
    """A vocabulary as a reader of texts needs it.

    Raises:
        LmbenchError: it has no ``<eos>``, without which no sentence begins or ends; names `title`.
    """

    def __init__(self, vocabulary: Sequence[str], title: str) -> None:
        if not vocabulary:
            raise LmbenchError(
                f"{title} has no vocabulary: name the run, or a file that `lmbench pack` wrote"
            )
        self.vocabulary = vocabulary
        self._ids = {word: number for number, word in enumerate(vocabulary)}
        if EOS not in self._ids:
            raise LmbenchError(
                f"{title}: its vocabulary has no {EOS}, so where a sentence begins and ends "
                "cannot be said: train on a corpus that lmbench has read"
            )
        self.eos = self._ids[EOS]
        self.unk = self._ids.get(UNK)
        self._pieces = Pieces(vocabulary) if is_subword(vocabulary) else None

    def cut(self, words: Sequence[str]) -> Sequence[str]:
        """The words, or for a vocabulary of pieces of words the pieces."""
        return self._pieces.of(words) if self._pieces else words

    def spelled(self, beginning: str) -> str:
        """The beginning of a word as the vocabulary has it."""
        return self._pieces.spelled(beginning) if self._pieces else beginning

    def ids(self, words: Sequence[str]) -> NDArray[np.int64]:
        """The id of each word, [W]: of ``<unk>``, or `NO_ID`, for one that it does not have."""
        other = NO_ID if self.unk is None else self.unk
        return np.fromiter(map(self._ids.get, words, repeat(other)), np.int64, len(words))

    def unknown(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these are unknown words; a text that has ``<unk>`` itself means one by it."""
        return ids == (NO_ID if self.unk is None else self.unk)

    def count_unknown(self, words: Sequence[str], ids: NDArray[np.int64]) -> int:
        """How many of these words are unknown, or have a piece that is; `ids` are theirs."""
        unknown = int(self.unknown(ids).sum())
        if not unknown or self._pieces is None:
            return unknown
        return sum(bool(self.unknown(self.ids(self.cut([word]))).any()) for word in words)

    def line(self, words: Sequence[str]) -> Line:
        """A line of these words."""
        text, tokens = " ".join(words), self.cut(words)
        ids = self.ids(tokens)
        unknown = self.count_unknown(words, ids)
        return Line(ids, text[:_BEGINNING], len(words), unknown, len(text) + 1, tuple(tokens))


def lines_of(
    file: BinaryIO, name: str, words: Words, *, keep_words: bool = False
) -> Iterator[Line]:
    """The lines of a text, each as long as it may be.

    Args:
        file: UTF-8, read once from where it stands.
        name: what to call it in messages.
        keep_words: give each line its words too.

    Raises:
        LmbenchError: it holds no word, is not UTF-8 or no text; names file, line and byte.
    """
    ids: list[NDArray[np.int64]] = []
    kept: list[str] = []
    beginning, first, has_words, open_line = "", True, False, False
    count = unknown = characters = 0
    for _, text in decoded_pieces(file, name):
        if "\0" in text:
            raise LmbenchError(f"{name} holds NUL bytes: it is no text")
        if first:
            text, first = text.removeprefix("\ufeff"), False
        # Of a byte order mark alone nothing is left, which is no space either.
        has_words = has_words or bool(text.strip())
        *ended, last = text.split("\n")
        for part, ends in [*((part, True) for part in ended), (last, False)]:
            found = part.split()
            tokens = words.cut(found)
            ids.append(words.ids(tokens))
            count += len(found)
            unknown += words.count_unknown(found, ids[-1])
            characters += sum(map(len, found)) + len(found)
            if len(beginning) < _BEGINNING:
                beginning = f"{beginning} {' '.join(found)[:_BEGINNING]}".strip()[:_BEGINNING]
            if keep_words:
                kept += tokens
            open_line = not ends and (open_line or bool(part))
            if ends:
                yield Line(
                    np.concatenate(ids), beginning, count, unknown, max(characters, 1), tuple(kept)
                )
                ids, kept, beginning, count, unknown, characters = [], [], "", 0, 0, 0
    if open_line:
        yield Line(np.concatenate(ids), beginning, count, unknown, max(characters, 1), tuple(kept))
    if not has_words:
        raise LmbenchError(f"{name} is empty: it must hold words, separated by white space")
