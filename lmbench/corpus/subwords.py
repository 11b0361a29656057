"""Words in pieces, and pieces joined to words again. No torch here.

A corpus of subwords is text like any other, whose words are pieces. A piece is a run of bytes, each
written as a printable character as in GPT-2's byte-level BPE (Radford et al. 2019); the first piece
of a word begins with ``▁``, as SentencePiece writes it, which tells such a vocabulary from others.

A word is cut greedily, the longest piece first, so that the vocabulary alone says how (Uzan et al.
2024, arXiv 2403.01289, find it as good as applying BPE's merges).
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from lmbench.corpus.ids import EOS, UNK

__all__ = ["LONGEST_WORD", "WORD_START", "Joining", "Pieces", "is_subword", "joined"]

WORD_START = "▁"
LONGEST_WORD = 1_000
"""Bytes; a longer word is cut in parts of as many first."""
_REMEMBERED = 1 << 16
_WHOLE = (EOS, UNK)


def _characters() -> dict[int, str]:
    """The printable character of each byte: itself where it is one, else one from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }


_CHARACTER = _characters()
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


def is_subword(vocabulary: Collection[str]) -> bool:
    """Whether these are pieces of words: of bytes of UTF-8 as they are spelled here. A text of
    words may hold the sign as well: one in a hundred or more begin a word, or some spell a
    character of several bytes."""
    starts = sum(len(word) > 1 and word.startswith(WORD_START) for word in vocabulary)
    if not starts:
        return False
    spelled = [_spelled_by(word) for word in vocabulary if word not in _WHOLE]
    return None not in spelled and (
        100 * starts >= len(vocabulary) or any(text and not text.isascii() for text in spelled)
    )


def _spelled_by(piece: str) -> str | None:
    """The whole characters of a piece, which may begin and end within one; None where it is no
    piece. A vocabulary has each byte alone as well."""
    rest = piece.removeprefix(WORD_START)
    if not _BYTE.keys() >= set(rest):
        return None
    data = bytes(map(_BYTE.__getitem__, rest))
    if len(data) < 2:
        return ""
    begun = 0
    while piece == rest and begun < min(3, len(data)) and data[begun] & 0xC0 == 0x80:
        begun += 1
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data[begun:])
    except UnicodeDecodeError:
        return None


class Pieces:
    """A vocabulary of pieces, to cut words by."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._pieces = frozenset(vocabulary)
        self._longest = max(map(len, vocabulary))
        self._cut = lru_cache(_REMEMBERED)(self._of_word)

    def of(self, words: Iterable[str]) -> list[str]:
        """The pieces of these words; ``<unk>`` for a byte that the vocabulary has no piece for."""
        return [piece for word in words for piece in self._cut(word)]

    @staticmethod
    def spelled(beginning: str) -> str:
        """The beginning of a word as pieces spell it."""
        data = beginning.encode("utf-8", "replace")
        return WORD_START + "".join(map(_CHARACTER.__getitem__, data))

    def _of_word(self, word: str) -> tuple[str, ...]:
        if word in _WHOLE:
            return (word,)
        rest = self.spelled(word)
        found: list[str] = []
        start = 0
        while start < len(rest):
            part = min(len(rest), (start // LONGEST_WORD + 1) * LONGEST_WORD)
            ends = range(min(part, start + self._longest), start, -1)
            end = next((end for end in ends if rest[start:end] in self._pieces), None)
            found.append(UNK if end is None else rest[start:end])
            start = start + 1 if end is None else end
        return tuple(found)


class Joining:
    """Pieces to text, one after the other: what each adds. A blank stands before each word."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: str) -> str:
        """The text that is known with this piece; a character may need several."""
        if piece in _WHOLE:
            return f"{self.end()} {piece}"
        starts = piece.startswith(WORD_START)
        before = f"{self.end()} " if starts else ""
        # What is no byte's character is of a vocabulary of words.
        data = b"".join(
            bytes([_BYTE[c]]) if c in _BYTE else c.encode("utf-8", "replace")
            for c in piece.removeprefix(WORD_START)
        )
        return before + self._decoder.decode(data)

    def end(self) -> str:
        """What is left of a character that was begun."""
        return self._decoder.decode(b"", final=True)


def joined(pieces: Iterable[str], before: str = "") -> str:
    """Words with blanks between them, after the text that the pieces go on from."""
    joining = Joining()
    return (before + "".join(map(joining.add, pieces)) + joining.end()).strip()
