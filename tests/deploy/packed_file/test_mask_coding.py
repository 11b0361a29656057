"""Masks, entropy coded: given back bit by bit, near their entropy, and refused when forged."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmbench.deploy.packed_file.mask_coding import code_mask, read_mask


def random_mask(rows: int, columns: int, row: float, column: float, seed: int) -> NDArray:
    """Whose densities vary by row and by column about as much as is said; bool [rows, columns]."""
    generator = np.random.default_rng(seed)
    odds = np.exp(generator.normal(-1.7, row, (rows, 1)) + generator.normal(0, column, columns))
    return generator.random((rows, columns)) < odds / (1 + odds)


def as_bits(keep: NDArray) -> NDArray:
    return np.packbits(keep.reshape(-1), bitorder="little")


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 120),
    row=st.floats(0, 8),
    column=st.floats(0, 8),
    seed=st.integers(0, 1 << 30),
)
def test_every_mask_comes_back(rows, columns, row, column, seed):
    mask = as_bits(random_mask(rows, columns, row, column, seed))
    assert np.array_equal(read_mask(code_mask(mask, rows, columns), rows, columns), mask)


@pytest.mark.parametrize("bit,density", [(False, 1 / 1024), (True, 961 / 1024)])
def test_a_mask_of_one_kind_comes_back_at_the_cost_of_its_class(bit, density):
    mask = as_bits(np.full((400, 100), bit))
    coded = code_mask(mask, 400, 100)
    assert np.array_equal(read_mask(coded, 400, 100), mask)
    cost = -np.log2(density if bit else 1 - density) * 40000 / 8
    assert len(coded) < 200 + 400 + 4 * 128 + 1.01 * cost + 20


def test_it_comes_near_the_entropy_of_its_rows_and_columns():
    keep = random_mask(6000, 200, 0.9, 0.3, 1)
    generator = np.random.default_rng(1)
    odds = np.exp(generator.normal(-1.7, 0.9, (6000, 1)) + generator.normal(0, 0.3, 200))
    chance = odds / (1 + odds)
    entropy = -np.log2(np.where(keep, chance, 1 - chance)).sum() / 8
    coded = len(code_mask(as_bits(keep), 6000, 200))
    assert entropy < coded < 1.01 * entropy + 3000 + 800 + 4 * 147
    assert coded < 0.95 * len(zstandard.compress(as_bits(keep).tobytes(), 9))


@pytest.mark.parametrize(
    "rows, columns, expected",
    [
        (3, 5, "3fd94cf260eef1b6"),
        (301, 117, "911231d5071f15cd"),
        (2100, 501, "6b32438855ba3d49"),
    ],
)
def test_the_format_stays_as_it_is(rows, columns, expected):
    """What was written once must be read by every later version: padding, words, many states."""
    row, column = np.arange(rows)[:, None], np.arange(columns)
    keep = (row * row * 7 + column * 31 + row * column) % 17 < row % 9
    coded = code_mask(as_bits(keep), rows, columns)
    assert hashlib.sha256(coded).hexdigest()[:16] == expected
    assert np.array_equal(read_mask(coded, rows, columns), as_bits(keep))


@settings(max_examples=60)
@given(
    place=st.floats(0, 1, exclude_max=True),
    forged=st.binary(min_size=1, max_size=8),
    cut=st.integers(-3, 3),
)
def test_forged_bytes_are_refused_or_are_another_mask(place, forged, cut):
    keep = random_mask(24, 60, 1.0, 0.5, 3)
    data = bytearray(code_mask(as_bits(keep), 24, 60))
    at = int(place * len(data))
    data[at : at + len(forged)] = forged[: len(data) - at]
    data = data[: len(data) + cut] if cut < 0 else data + bytes(cut)
    with suppress(ValueError):
        mask = read_mask(bytes(data), 24, 60)
        assert (mask.dtype, mask.shape) == (np.uint8, (180,))


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf, np.nan])
def test_a_factor_that_no_odds_have_is_refused(factor):
    data = bytearray(code_mask(as_bits(random_mask(24, 60, 1.0, 0.5, 3)), 24, 60))
    data[12:16] = np.float32(factor).tobytes()
    # Before anything is computed with it, which NumPy would warn of.
    with np.errstate(all="raise"), pytest.raises(ValueError, match="no coded mask"):
        read_mask(bytes(data), 24, 60)


@pytest.mark.parametrize(
    "change", ["a word less", "a word more", "an odd byte", "half a head", "a class too many"]
)
def test_bytes_of_another_length_are_refused(change):
    data = code_mask(as_bits(random_mask(23, 60, 1.0, 0.5, 3)), 23, 60)
    forged = {
        "a word less": data[:-2],
        "a word more": data + b"\0\0",
        "an odd byte": data + b"\0",
        "half a head": data[:100],
        "a class too many": data[:11] + bytes([data[11] | 0x10]) + data[12:],
    }[change]
    with pytest.raises(ValueError, match="no coded mask"):
        read_mask(forged, 23, 60)


@pytest.mark.parametrize("which,state", [(0, 3 * 4096 + 65552), (127, 1 << 28)])
def test_states_that_do_not_end_as_they_began_and_ones_beyond_the_mask_are_refused(which, state):
    """A mask of one bit has 128 states; all but the first are of zeros beyond it."""
    data = bytearray(code_mask(np.zeros(1, np.uint8), 1, 1))
    place = 1 + 4 + 4 * which
    assert len(data) == 1 + 4 + 4 * 128
    assert int.from_bytes(data[place : place + 4], "little") < 70000
    data[place : place + 4] = state.to_bytes(4, "little")
    with pytest.raises(ValueError, match="no coded mask"):
        read_mask(bytes(data), 1, 1)
