"""Cutting a split into columns and windows, as the original training script does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from lmbench.corpus.corpus import Corpus
from lmbench.errors import LmbenchError

__all__ = [
    "SCORE_COLUMNS",
    "Windows",
    "batchify",
    "count_windows",
    "score_rows",
    "window",
    "windows",
]

# As the original evaluates.
SCORE_COLUMNS = 10

# Of windows that differ in length: no shorter than this, and one of 20 about half as long.
_LEAST, _HALVED = 5, 0.05


def batchify(
    ids: np.ndarray, batch_size: int, device: torch.device | str | None = None
) -> torch.Tensor:
    """Lay the ids out in ``batch_size`` columns, each a stretch of the text.

    ids: [tokens], any integer type. Returns int64 [tokens // batch_size, batch_size], contiguous,
    on ``device``. What does not fill a row is left out, as in the original.

    Raises LmbenchError when the ids do not fill one row.
    """
    rows = len(ids) // batch_size
    if rows < 1:
        raise LmbenchError(
            f"{len(ids)} tokens do not fill a row of {batch_size}: take more of them, or a smaller "
            "batch"
        )
    columns = ids[: rows * batch_size].reshape(batch_size, rows)
    return torch.from_numpy(columns.T.astype(np.int64, order="C")).to(device)


def score_rows(
    corpus: Corpus,
    split: str,
    tokens: int,
    device: torch.device,
    flag: str = "",
    columns: int = SCORE_COLUMNS,
) -> torch.Tensor:
    """The first `tokens` of a split (0 for all of it), which are predicted: ids [rows, columns].

    Raises LmbenchError where they are fewer than two rows, a word and the next one, by the `flag`
    that limits them.
    """
    ids = corpus.split(split)[: tokens or None]
    if len(ids) < 2 * columns:
        said = f"{flag} {tokens}" if tokens else f"{split} of {corpus.name}"
        raise LmbenchError(
            f"{said}: {len(ids)} tokens leave nothing to predict in {columns} columns; use at "
            f"least {2 * columns}, or fewer columns where --eval-batch-size sets them"
        )
    return batchify(ids, columns, device)


def count_windows(rows: int, bptt: int) -> int:
    """How many windows `windows` yields for a source of ``rows`` rows."""
    return max(0, -(-(rows - 1) // bptt))


def window(source: torch.Tensor, start: int, bptt: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The window at row ``start``: the words, and for each the word that follows.

    source: [rows, batch]. Returns the input [length, batch] and the target [length * batch],
    both views of ``source``; length is ``bptt``, or less at the end, where the last row has no
    successor.
    """
    length = min(bptt, len(source) - 1 - start)
    return source[start : start + length], source[start + 1 : start + 1 + length].reshape(-1)


def windows(
    source: torch.Tensor, bptt: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All windows in order; each word after the first row is a target exactly once.

    progress: called with (rows done, rows in all) when the next window is asked for.
    """
    rows = len(source) - 1
    for start in range(0, rows, bptt):
        yield window(source, start, bptt)
        if progress:
            progress(min(start + bptt, rows), rows)


class Windows:
    """Where the windows of an epoch of training begin, a function of the seed and the epoch alone.

    Without a spread each has ``bptt`` rows. With one their lengths are drawn as AWD-LSTM's are
    (Merity et al. 2018, arXiv 1708.02182): normally distributed around ``bptt``, with probability
    0.05 around half of it, and at least 5. The lengths are drawn once and come in another order
    each epoch, so that all epochs have as many windows; the last that was drawn ends with the text.

    Args:
        rows: of the text; the last has no successor.
        bptt: the length of most windows, or their mean.
        spread: the standard deviation of a length, in rows; 0: they are all alike.
        seed: of the lengths and their order.
    """

    def __init__(self, rows: int, bptt: int, spread: float = 0.0, seed: int = 0) -> None:
        self._end, self._bptt, self._seed = max(0, rows - 1), bptt, seed
        self._lengths = self._draw(spread) if spread and self._end else None
        self._ordered: tuple[int, np.ndarray] | None = None

    def _draw(self, spread: float) -> np.ndarray:
        draw, least = np.random.default_rng(self._seed), min(_LEAST, self._bptt)
        most = -(-self._end // least)
        means = np.where(draw.random(most) < _HALVED, self._bptt / 2, self._bptt)
        # As whole numbers of any size, a far tail could not be added up.
        lengths = draw.normal(means, spread).clip(least, self._end).astype(np.int64)
        ends = lengths.cumsum()
        count = int(ends.searchsorted(self._end)) + 1
        lengths[count - 1] -= ends[count - 1] - self._end
        return lengths[:count]

    def __len__(self) -> int:
        """How many windows an epoch has."""
        if self._lengths is None:
            return count_windows(self._end + 1, self._bptt)
        return len(self._lengths)

    def start(self, epoch: int, number: int) -> int:
        """The row at which a window begins; for `number` = `len`, that at which the last ends."""
        if self._lengths is None:
            return min(number * self._bptt, self._end)
        if self._ordered is None or self._ordered[0] != epoch:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._lengths)
            self._ordered = epoch, np.concatenate(([0], order.cumsum()))
        return int(self._ordered[1][number])

    def cut(
        self, source: torch.Tensor, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A window's input and target, as `window` gives them."""
        start = self.start(epoch, number)
        return window(source, start, self.start(epoch, number + 1) - start)

    def rate_factor(self, length: int) -> float:
        """What the learning rate is multiplied by for a window of so many rows: where they differ,
        a short window's gradient has as much weight a word as a long one's."""
        return 1.0 if self._lengths is None else length / self._bptt
