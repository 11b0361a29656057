"""Cutting a split into columns and windows, as the original training script does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lmbench.errors import LmbenchError

__all__ = ["batchify", "count_windows", "window", "windows"]


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


def windows(source: torch.Tensor, bptt: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All windows in order; each word after the first row is a target exactly once."""
    for start in range(0, len(source) - 1, bptt):
        yield window(source, start, bptt)
