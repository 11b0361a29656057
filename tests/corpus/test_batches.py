"""Cutting a split into columns and windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbench.corpus.batches import Windows, batchify, count_windows, window, windows
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


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.5, 5.0, 1e4]),
    st.integers(0, 2**63 - 1),
)
def test_windows_of_any_length_take_each_word_once_and_as_many_each_epoch(
    rows: int, bptt: int, spread: float, seed: int
) -> None:
    source = torch.arange(rows * 2).reshape(rows, 2)
    ours = Windows(rows, bptt, spread, seed)
    for epoch in range(3):
        cut = [ours.cut(source, epoch, number) for number in range(len(ours))]
        targets = [target for _, target in cut]
        predicted = torch.cat(targets) if targets else torch.empty(0, dtype=torch.int64)
        assert torch.equal(predicted, source[1:].reshape(-1))
        assert all(len(words) for words, _ in cut)
        assert ours.start(epoch, len(ours)) == rows - 1
        # Only what ends with the text is shorter than the shortest that is drawn.
        assert sum(len(words) < min(5, bptt) for words, _ in cut) <= 1


@given(st.integers(1, 200), st.integers(1, 40))
def test_without_a_spread_windows_lie_where_they_did_and_none_has_a_rate_of_its_own(
    rows: int, bptt: int
) -> None:
    source = torch.arange(rows * 2).reshape(rows, 2)
    ours = Windows(rows, bptt, seed=4)
    expected = list(windows(source, bptt))
    assert len(ours) == len(expected)
    for number, (words, target) in enumerate(expected):
        for epoch in (0, 7):
            one = ours.cut(source, epoch, number)
            assert torch.equal(one[0], words)
            assert torch.equal(one[1], target)
        assert ours.rate_factor(len(words)) == 1.0


def test_lengths_are_spread_as_those_of_awd_lstm_are() -> None:
    ours = Windows(1_000_000, 70, 5.0, seed=1)
    starts = np.array([ours.start(0, number) for number in range(len(ours) + 1)])
    lengths = np.diff(starts)
    short = lengths < 52
    assert 0.04 < short.mean() < 0.06
    # A draw is cut to a whole number, half a row less in the mean.
    assert abs(lengths[~short].mean() - 69.5) < 0.2
    assert abs(lengths[~short].std() - 5.0) < 0.2
    assert abs(lengths[short].mean() - 34.5) < 0.7
    assert abs(lengths[short].std() - 5.0) < 0.6
    assert ours.rate_factor(35) == 0.5


def test_an_epochs_windows_follow_from_seed_and_epoch_alone() -> None:
    def starts(seed: int, *epochs: int) -> list[list[int]]:
        ours = Windows(2000, 20, 3.0, seed)
        return [[ours.start(epoch, n) for n in range(len(ours) + 1)] for epoch in epochs]

    first, second = starts(1, 0, 1)
    assert starts(1, 1, 0, 1) == [second, first, second]
    assert first != second
    assert starts(2, 0) != [first]
