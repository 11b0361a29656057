"""Masks, entropy coded: given back bit by bit, near their entropy, and refused when forged."""

from __future__ import annotations

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
    rows=st.integers(1, 60),
    columns=st.integers(1, 50),
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
    assert len(coded) < 200 + 400 + 4 * 4 + 1.01 * cost + 20


def test_it_comes_near_the_entropy_of_its_rows_and_columns():
    keep = random_mask(6000, 200, 0.9, 0.3, 1)
    generator = np.random.default_rng(1)
    odds = np.exp(generator.normal(-1.7, 0.9, (6000, 1)) + generator.normal(0, 0.3, 200))
    chance = odds / (1 + odds)
    entropy = -np.log2(np.where(keep, chance, 1 - chance)).sum() / 8
    coded = len(code_mask(as_bits(keep), 6000, 200))
    assert entropy < coded < 1.01 * entropy + 3000 + 800 + 4 * 146
    assert coded < 0.95 * len(zstandard.compress(as_bits(keep).tobytes(), 9))


def test_the_format_stays_as_it_is():
    """The bytes themselves: what was written once must be read by every later version."""
    keep = np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1]], bool)
    expected = "7c0e1004c13fb0f80a3fb0f80a3fb0f80a3fabaaca40dae54201"
    assert code_mask(as_bits(keep), 3, 5).hex() == expected
    assert np.array_equal(read_mask(bytes.fromhex(expected), 3, 5), as_bits(keep))


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
    with pytest.raises(ValueError, match="no coded mask"):
        read_mask(bytes(data), 24, 60)


@pytest.mark.parametrize(
    "change", ["a word less", "a word more", "an odd byte", "a state too small"]
)
def test_what_does_not_end_where_it_began_is_refused(change):
    data = code_mask(as_bits(random_mask(24, 60, 1.0, 0.5, 3)), 24, 60)
    state = 12 + 4 * 60
    forged = {
        "a word less": data[:-2],
        "a word more": data + b"\0\0",
        "an odd byte": data + b"\0",
        "a state too small": data[:state] + b"\xff\xff\0\0" + data[state + 4 :],
    }[change]
    with pytest.raises(ValueError, match="no coded mask"):
        read_mask(forged, 24, 60)
