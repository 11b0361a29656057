"""Cutting a split into columns and windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbench.corpus.batches import batchify, count_windows, window, windows
from lmbench.errors import LmbenchError


@given(st.integers(1, 200), st.integers(1, 12), st.sampled_from(["uint8", "uint16", "uint32"]))
def test_columns_are_the_stretches_that_the_original_makes(
    tokens: int, batch_size: int, dtype: str
) -> None:
    ids = np.arange(tokens).astype(dtype)
    ids.flags.writeable = False
    if tokens < batch_size:
        with pytest.raises(
            LmbenchError, match=f"{tokens} tokens do not fill a row of .*: take more"
        ):
            batchify(ids, batch_size)
        return

    source = batchify(ids, batch_size)

    # The original: narrow to whole rows, view as (batch, rows), transpose.
    rows = tokens // batch_size
    expected = torch.arange(tokens).narrow(0, 0, rows * batch_size).view(batch_size, -1).t()
    assert source.dtype == torch.int64
    assert source.is_contiguous()
    assert torch.equal(source, expected)


@given(st.integers(1, 80), st.integers(1, 4), st.integers(1, 30))
def test_every_word_after_the_first_row_is_a_target_exactly_once(
    rows: int, batch_size: int, bptt: int
) -> None:
    source = torch.arange(rows * batch_size).reshape(rows, batch_size)

    cut = list(windows(source, bptt))

    targets = [target for _, target in cut]
    predicted = torch.cat(targets) if targets else torch.empty(0, dtype=torch.int64)
    assert torch.equal(predicted, source[1:].reshape(-1))
    assert len(cut) == count_windows(rows, bptt)
    for words, target in cut:
        assert 1 <= len(words) <= bptt
        # The word that follows in a column stands one row, so batch_size numbers, further on.
        assert torch.equal(target, words.reshape(-1) + batch_size)


def test_a_window_is_a_view_of_the_source() -> None:
    source = torch.arange(40).reshape(20, 2)
    words, target = window(source, 3, 5)
    assert words.data_ptr() == source[3:].data_ptr()
    assert target.data_ptr() == source[4:].data_ptr()
