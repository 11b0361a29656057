"""Lines of ids to their log probabilities: sentence by sentence, or as running text."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.errors import NOT_FINITE, LmbenchError
from lmbench.perplexity import perplexity
from lmbench.scoring.lines import NO_ID, Line, Words
from lmbench.scoring.predictor import Predictor

__all__ = ["LineScore", "Score", "score_columns", "score_running", "score_sentences"]

Array = NDArray[Any]

# Tokens of a window, [T, B]: enough that reading the decoder's matrix costs little, few enough
# that a large vocabulary's logits fit.
_WINDOW = 512
_SENTENCES = 32  # scored side by side
_ALL_ALIKE = 16  # tokens that a text may be filled up by, however short it is
_AHEAD = 8192  # tokens that are read before they are scored, to put lines of one length together
_ROWS = 35  # of a window in columns, as `lmbench evaluate` has it


@dataclass(frozen=True, slots=True)
class Score:
    """What some text's words and ends of lines are worth. Log probabilities are natural ones."""

    words: int = 0
    """Whole ones, of a model of pieces of words, too."""
    unknown: int = 0
    """Of the words: how many the vocabulary has not, or not all pieces of; ``<unk>`` is one."""
    tokens: int = 0
    """What was predicted: the words, and the end of each line."""
    known_tokens: int = 0
    """The same without unknown words."""
    log_prob: float = 0.0
    """-inf where an unknown word has no ``<unk>`` to stand for it."""
    known_log_prob: float = 0.0
    """The same without unknown words."""
    lines: int = 0
    characters: int = 0
    """A blank between words and one for the end of each line among them."""

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def perplexity(self) -> float:
        """Over all that was predicted; NaN for nothing."""
        return _perplexity(self.log_prob, self.tokens)

    @property
    def word_perplexity(self) -> float:
        """Over all words and ends of lines, whatever pieces the model has of them."""
        return _perplexity(self.log_prob, self.words + self.lines)

    @property
    def bits_per_character(self) -> float:
        """NaN for nothing."""
        return -self.log_prob / math.log(2) / self.characters if self.characters else math.nan

    @property
    def known_perplexity(self) -> float:
        """The same without unknown words."""
        return _perplexity(self.known_log_prob, self.known_tokens)


def _perplexity(log_prob: float, tokens: int) -> float:
    return perplexity(-log_prob / tokens) if tokens else math.nan


@dataclass(frozen=True, slots=True)
class LineScore:
    """A line, word by word."""

    line: Line
    unknown: NDArray[np.bool_]
    """Which of its words, or their pieces, are unknown, [W]."""
    log_probs: NDArray[np.float64]
    """Natural, of each word and of the line's end, [W + 1]. -inf: an unknown word that no
    ``<unk>`` stands for. NaN: not predicted, being only read."""

    @property
    def total(self) -> Score:
        predicted = ~np.isnan(self.log_probs)
        known = predicted & ~np.append(self.unknown, False)
        return Score(
            words=self.line.count,
            lines=1,
            characters=self.line.characters,
            unknown=self.line.unknown,
            tokens=int(predicted.sum()),
            known_tokens=int(known.sum()),
            log_prob=float(self.log_probs[predicted].sum()),
            known_log_prob=float(self.log_probs[known].sum()),
        )


def _scored(line: Line, words: Words, losses: Array) -> LineScore:
    """With the losses of what the model has read of a line: its words with an id, and its end."""
    log_probs = np.full(len(line.ids) + 1, -np.inf)
    log_probs[np.append(line.ids != NO_ID, True)] = -losses
    return LineScore(line, words.unknown(line.ids), log_probs)


def _tokens(line: Line, words: Words) -> Array:
    """What the model reads of a line: its words that have an id, and its end, [n]."""
    return np.append(line.ids[line.ids != NO_ID], words.eos)


def _losses(
    predictor: Predictor, windows: Iterable[tuple[Array, Array]], batch: int = 1
) -> Iterator[Array]:
    """The losses of each window, [T * B], from the state before a text on."""
    for losses in predictor.losses(windows, predictor.initial_state(batch)):
        # In a `LineScore` a NaN means something else.
        if np.isnan(losses).any():
            raise LmbenchError(NOT_FINITE)
        yield losses


def score_sentences(
    predictor: Predictor, words: Words, lines: Iterable[Line]
) -> Iterator[LineScore]:
    """Each line by itself, as what follows an ``<eos>``; in the order of the lines.

    Raises:
        LmbenchError: a prediction that is no number, as in the other two ways to score.
    """
    held: list[Line] = []
    ahead = 0
    for line in lines:
        held.append(line)
        ahead += len(line.ids) + 1
        if ahead >= _AHEAD:
            yield from _score_batches(predictor, words, held)
            held, ahead = [], 0
    yield from _score_batches(predictor, words, held)


def _score_batches(predictor: Predictor, words: Words, lines: list[Line]) -> list[LineScore]:
    texts = [_tokens(line, words) for line in lines]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    losses: dict[int, Array] = {}
    for batch in _batches(order, [len(text) for text in texts]):
        together = _losses_of_batch(predictor, words.eos, [texts[i] for i in batch])
        losses |= zip(batch, together, strict=True)
    return [_scored(line, words, losses[i]) for i, line in enumerate(lines)]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Texts of about one length, since all of a batch are filled up to its longest."""
    batch: list[int] = []
    for i in order:
        full = len(batch) == _SENTENCES
        if batch and (full or lengths[i] > 2 * lengths[batch[0]] + _ALL_ALIKE):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _losses_of_batch(predictor: Predictor, eos: int, texts: list[Array]) -> Iterator[Array]:
    """The losses of each text's tokens, all texts beginning after `eos`."""
    rows, batch = max(map(len, texts)), len(texts)
    padded = np.full((rows + 1, batch), eos, np.int64)
    for column, text in enumerate(texts):
        padded[1 : len(text) + 1, column] = text
    windows = _windows(padded, max(1, _WINDOW // batch))
    made = list(_losses(predictor, windows, batch))
    losses = np.concatenate(made).reshape(rows, batch)
    for column, text in enumerate(texts):
        yield losses[: len(text), column]


def _windows(source: Array, rows: int) -> Iterator[tuple[Array, Array]]:
    """Ids [R, B] in windows [T, B], each with the words that follow, [T * B]."""
    for start in range(0, len(source) - 1, rows):
        end = min(start + rows, len(source) - 1)
        yield source[start:end], source[start + 1 : end + 1].reshape(-1)


def score_running(predictor: Predictor, words: Words, lines: Iterable[Line]) -> Iterator[LineScore]:
    """The lines as one text, whose state is carried from each to the next; it begins after an
    ``<eos>``, and every token is predicted."""
    waiting: deque[tuple[Line, int]] = deque()

    def texts() -> Iterator[Array]:
        for line in lines:
            tokens = _tokens(line, words)
            waiting.append((line, len(tokens)))
            yield tokens

    held: list[Array] = []
    ahead = 0
    windows = _stream_windows(chain([np.array([words.eos])], texts()))
    for more in _losses(predictor, windows):
        held.append(more)
        ahead += len(more)
        # Put together when a line is whole: of a long one there are many.
        if not waiting or waiting[0][1] > ahead:
            continue
        losses, start = np.concatenate(held), 0
        while waiting and start + waiting[0][1] <= len(losses):
            line, count = waiting.popleft()
            yield _scored(line, words, losses[start : start + count])
            start += count
        held, ahead = [losses[start:]], len(losses) - start


def _stream_windows(texts: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    """Pieces of a text to windows [T, 1], T being `_WINDOW` but at the end."""
    held: list[Array] = []
    count = 0
    for text in texts:
        held.append(text)
        count += len(text)
        if count > _WINDOW:
            source = np.concatenate(held)
            used = (count - 1) // _WINDOW * _WINDOW
            yield from _windows(source[: used + 1, None], _WINDOW)
            held, count = [source[used:]], count - used
    yield from _windows(np.concatenate(held)[:, None], _WINDOW)


def score_columns(
    predictor: Predictor, words: Words, lines: Iterable[Line], columns: int
) -> Iterator[LineScore]:
    """The lines as one text, cut into columns as `lmbench evaluate` cuts a split.

    The first word of each column is only read, as are the words that fill no row.

    Raises:
        LmbenchError: the text does not fill two rows.
    """
    whole = list(lines)
    texts = [_tokens(line, words) for line in whole]
    flat = np.concatenate(texts) if texts else np.empty(0, np.int64)
    rows = len(flat) // columns
    if rows < 2:
        raise LmbenchError(
            f"--columns {columns}: {len(flat):,} tokens do not fill two rows of it: give more "
            "text, or fewer columns"
        )
    source = np.ascontiguousarray(flat[: rows * columns].reshape(columns, rows).T)
    made = list(_losses(predictor, _windows(source, _ROWS), columns))
    losses = np.full(len(flat), np.nan)
    by_column = losses[: rows * columns].reshape(columns, rows)
    by_column[:, 1:] = np.concatenate(made).reshape(rows - 1, columns).T
    start = 0
    for line, text in zip(whole, texts, strict=True):
        scored = _scored(line, words, losses[start : start + len(text)])
        read = np.append(line.ids != NO_ID, True)
        # An unknown word between words that fill no row is not predicted, either.
        scored.log_probs[start + np.cumsum(read) - read >= by_column.size] = np.nan
        yield scored
        start += len(text)
