"""Tensors survive being stored: exactly where they should, within half a step elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmbench.deploy.packed_file.nibbles import quantize_groups
from lmbench.deploy.packed_file.stored_tensor import (
    BLOCK_SHAPES,
    Encoded,
    Spec,
    decode,
    levels_of,
)
from lmbench.deploy.packed_file.tensor_encoding import encode, quantize_rows, zero_blocks

FLOATS = st.floats(-10, 10, width=16)
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=FLOATS
)
SPARSE = MATRICES.flatmap(
    lambda m: hnp.arrays(np.bool_, m.shape).map(lambda keep: np.where(keep, m, 0))
)


def random_matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def pruned(matrix: np.ndarray, block: tuple[int, int], keep: float = 0.2) -> np.ndarray:
    """The matrix with most of its blocks set to zero."""
    rows, columns = matrix.shape
    height, width = block
    shape = -(-rows // height), -(-columns // width)
    mask = np.random.default_rng(1).random(shape) < keep
    return matrix * np.kron(mask, np.ones(block))[:rows, :columns].astype(np.float32)


@given(SPARSE, st.sampled_from(["auto", "never", "always"]))
def test_fp32_and_fp16_give_back_what_they_were_given(matrix, sparse):
    # The values are drawn from fp16's grid.
    for values in ("fp32", "fp16"):
        encoded = encode(matrix, values, sparse)
        encoded.check()
        assert np.array_equal(decode(encoded), matrix)


@given(SPARSE, st.sampled_from(["auto", "never", "always"]))
def test_int8_is_within_half_a_step_of_each_rows_scale(matrix, sparse):
    encoded = encode(matrix, "int8", sparse)
    encoded.check()
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(decode(encoded) - matrix) <= step * 0.501 + 1e-12)


@given(MATRICES, st.sampled_from([8, 16, 64]))
def test_int4_never_errs_more_than_where_it_saturates_most(matrix, group):
    encoded = encode(matrix, "int4", "never", group=group)
    encoded.check()
    largest = np.abs(matrix).max(initial=0)
    # At 0.8 of the scale that reaches the largest with -8, 7 reaches 0.7 of it on the other side.
    assert np.abs(decode(encoded) - matrix).max(initial=0) <= largest * 0.301 + 1e-3


@given(MATRICES, st.sampled_from([8, 16, 64]))
def test_int4_is_within_half_a_step_of_what_does_not_saturate(matrix, group):
    levels, scale = quantize_groups(matrix, group)
    step = np.repeat(scale.astype(np.float32), group, axis=1)[:, : matrix.shape[1]]
    error = np.abs(levels * step - matrix)[(levels > -8) & (levels < 7)]
    # A scale under fp16's least is none.
    assert np.all(
        error <= np.maximum(np.abs(step)[(levels > -8) & (levels < 7)] * 0.501, 8 * 2**-24)
    )


@given(SPARSE)
@settings(max_examples=50)
def test_zeros_stay_zeros_in_every_value_type(matrix):
    for values in ("fp32", "fp16", "int8", "int4"):
        restored = decode(encode(matrix, values))
        assert np.all(restored[matrix == 0] == 0)


def test_packing_what_is_already_on_an_int8_grid_changes_nothing():
    levels, scale = quantize_rows(random_matrix(50, 70))
    once = levels * scale[:, None]
    again, same_scale = quantize_rows(once)
    assert np.array_equal(again, levels)
    assert np.allclose(same_scale, scale, rtol=1e-6)


def test_a_given_grid_is_kept_even_where_no_value_reaches_its_end():
    scale = np.full(3, 0.5, np.float32)
    matrix = np.array([[1.0, -2.0], [0.5, 0.0], [3.0, 1.5]], np.float32)
    encoded = encode(matrix, "int8", "never", scale=scale)
    assert np.array_equal(encoded.parts["values"], matrix / 0.5)
    assert np.array_equal(decode(encoded), matrix)


@pytest.mark.parametrize("values", ["fp16", "int4"])
def test_a_weight_that_the_value_type_cannot_hold_is_refused(values):
    matrix = np.full((2, 8), 6e5, np.float32)
    with pytest.raises(ValueError, match=f"too large for {values}"):
        encode(matrix, values, "never")
    decode(encode(np.full((2, 8), 65_504, np.float32), values, "never"))


def test_a_given_int4_grid_is_kept():
    scale = np.full((4, 2), 0.25, np.float32)
    levels = np.random.default_rng(0).integers(-8, 8, (4, 128)).astype(np.float32)
    assert np.array_equal(
        decode(encode(levels * 0.25, "int4", "never", scale=scale)), levels * 0.25
    )


def test_searching_the_int4_scale_lowers_the_squared_error():
    matrix = random_matrix(64, 256)
    levels, scale = quantize_groups(matrix)
    extreme = np.abs(matrix.reshape(64, 4, 64)).max(axis=2)
    plain, plain_scale = quantize_groups(matrix, scale=extreme / 8)

    def error(levels: np.ndarray, scale: np.ndarray) -> float:
        return float(np.square(levels * np.repeat(scale.astype(np.float32), 64, 1) - matrix).sum())

    assert error(levels, scale) < error(plain, plain_scale)


def test_an_80_percent_sparse_matrix_becomes_a_bitmask_and_a_dense_one_does_not():
    matrix = random_matrix(100, 100)
    sparse = np.where(np.random.default_rng(2).random(matrix.shape) < 0.2, matrix, 0)
    assert encode(sparse, "int8").spec.layout == "bitmask"
    assert encode(matrix, "int8").spec.layout == "dense"
    assert encode(sparse, "int8", "never").spec.layout == "dense"


@pytest.mark.parametrize("block", BLOCK_SHAPES)
def test_zeros_that_come_in_blocks_are_stored_as_blocks(block):
    matrix = pruned(random_matrix(101, 99), block)
    encoded = encode(matrix, "int8")
    assert encoded.spec.layout == "block"
    assert encoded.spec.block == block
    assert np.array_equal(levels_of(encoded), quantize_rows(matrix)[0])


def test_a_sparse_matrix_asked_for_in_int4_takes_bitmask_and_int8_which_is_smaller():
    matrix = pruned(random_matrix(128, 128), (1, 1), keep=0.1)
    assert encode(matrix, "int4").spec.values == "int8"
    assert encode(matrix, "int4", "never").spec.values == "int4"


def test_sizes_are_a_byte_half_a_byte_and_a_bit_a_weight():
    matrix = random_matrix(256, 512)
    assert encode(matrix, "int8", "never").nbytes == 256 * 512 + 4 * 256
    assert encode(matrix, "int4", "never").nbytes == 256 * 512 // 2 + 2 * 256 * 8
    empty = encode(np.zeros_like(matrix), "int8", "always")
    assert empty.nbytes <= 256 * 512 // 8 + 4 * 256


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        encode(np.array([[1.0, bad]]), "int8")


def test_a_weight_too_large_for_fp16_is_refused():
    with pytest.raises(ValueError, match="too large for fp16"):
        encode(np.array([[1e6]]), "fp16")


def broken(encoded: Encoded, **parts: np.ndarray) -> Encoded:
    return Encoded(encoded.spec, {**encoded.parts, **parts})


def test_parts_that_do_not_fit_one_another_are_refused():
    sparse = encode(pruned(random_matrix(30, 30), (1, 1)), "int8", "always")
    mask = sparse.parts["mask"]
    cases = {
        "counts": broken(sparse, values=sparse.parts["values"][:-1]),
        "beyond its last": broken(sparse, mask=np.concatenate([mask[:-1], mask[-1:] | 128])),
        "'mask' is": broken(sparse, mask=mask[:-1]),
        "'scale' is": broken(sparse, scale=sparse.parts["scale"].astype(np.float64)),
        "not finite": broken(sparse, scale=np.full(30, np.nan, np.float32)),
    }
    for message, encoded in cases.items():
        with pytest.raises(ValueError, match=message):
            encoded.check()


@pytest.mark.parametrize(
    "spec",
    [
        Spec("bitmask", "int4", (4, 4)),
        Spec("block", "int8", (4, 4), block=(3, 3)),
        Spec("dense", "int4", (4, 4), group=12),
        Spec("bitmask", "fp32", (4,)),
    ],
)
def test_combinations_that_do_not_exist_are_refused(spec):
    with pytest.raises(ValueError, match=r"int4|blocks|matrix"):
        spec.parts()


def test_only_whole_zero_blocks_count_as_such():
    matrix = np.ones((32, 8), np.float32)
    matrix[:16, :4] = 0
    matrix[16:31, :4] = 0
    assert zero_blocks(matrix, (16, 4)) == 0.25
    assert zero_blocks(np.zeros((3, 3)), (16, 4)) == 0.0
