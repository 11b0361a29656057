"""The compiled kernels against plain NumPy, for every layout, instruction set and awkward size."""

import ctypes

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmbench.deploy.native import why_unavailable
from lmbench.deploy.native.kernels import CELLS, Kernels
from lmbench.deploy.native.matrices import (
    ISAS,
    Isa,
    Matrix,
    VectorBuffer,
    bitmask_matrix,
    block_matrix,
    codes_matrix,
    dense_matrix,
    gathered_matrix,
    int4_matrix,
)
from lmbench.deploy.native.tensors import LAYOUTS as LAYOUTS_OF_RUNTIMES
from lmbench.deploy.native.tensors import TensorSource
from lmbench.deploy.packed_file.nibbles import quantize_groups
from lmbench.deploy.packed_file.tensor_encoding import quantize_rows

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

CODES = ("code1", "code2", "code3", "code4")
LAYOUTS = ("dense", "bitmask", "gathered", "16x4", "8x8", "int4", *CODES)
SPARSE = {"bitmask": bitmask_matrix, "gathered": gathered_matrix}
BLOCKS = {"16x4": (16, 4), "8x8": (8, 8)}


def isas() -> list[Isa]:
    """The instruction sets that this machine has."""
    if why_unavailable():
        return []
    return list(ISAS[: Kernels().isa + 1])


def built(
    layout: str, rows: int, columns: int, density: float, seed: int
) -> tuple[Matrix, np.ndarray]:
    """A matrix in kernel form, and what it is in fp32."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    if layout in BLOCKS:
        height, width = BLOCKS[layout]
        keep = rng.random((-(-rows // height), -(-columns // width))) < density
        weight *= np.kron(keep, np.ones(BLOCKS[layout]))[:rows, :columns]
    elif layout in SPARSE:
        weight *= rng.random(weight.shape) < density
    if layout == "int4":
        levels, scales = quantize_groups(weight, 16)
        wide = np.repeat(scales.astype(np.float32), 16, axis=1)[:, :columns]
        return int4_matrix(levels, scales, 16), levels * wide
    if layout in CODES:
        return codes(int(layout[-1]), rows, columns, rng)
    levels, scale = quantize_rows(weight)
    dense = levels * scale[:, None]
    if layout in BLOCKS:
        return block_matrix(levels, scale, BLOCKS[layout]), dense
    return SPARSE.get(layout, dense_matrix)(levels, scale), dense


def codes(planes: int, rows: int, columns: int, rng, group: int = 24) -> tuple[Matrix, np.ndarray]:
    """Codes with scales for each `group` columns, up to the largest sums that there may be."""
    bits = rng.integers(0, 2, (planes, rows, columns), np.uint8)
    steps = rng.integers(0, 127 // planes + 1, (planes, rows, -(-columns // group)), np.uint8)
    unit = np.ldexp(np.float32(1), rng.integers(-9, -5, rows))
    wide = np.repeat(steps.astype(np.int32), group, axis=2)[:, :, :columns]
    levels = np.where(bits, wide, -wide).sum(0)
    return codes_matrix(bits, steps, unit, group), (levels * unit[:, None]).astype(np.float32)


def product(kernels: Kernels, matrix: Matrix, x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    buffer = VectorBuffer(len(x), matrix.cols)
    kernels.quantize(x, buffer)
    out = np.full((len(x), matrix.rows), np.nan, np.float32)
    kernels.product(matrix, buffer, bias, out)
    return out


def step_cells(kernels: Kernels, cell: int, *arrays: np.ndarray | None) -> None:
    """One step of the cells of n texts, in place: of gates [n, G*H] twice, h and c [n, H]."""
    assert arrays[2] is not None
    pointers = [None if a is None else ctypes.c_void_p(a.ctypes.data) for a in arrays]
    kernels.library.lmb_cells(cell, *arrays[2].shape, *pointers, kernels.isa)


def quantized(x: np.ndarray) -> np.ndarray:
    """The vectors as the kernels see them: int8, symmetric, a scale each."""
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale


@settings(max_examples=150)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.integers(0, 99),
    st.booleans(),
)
def test_every_instruction_set_gives_the_masked_reference(
    layout, rows, columns, n, density, seed, with_bias
):
    matrix, reference = built(layout, rows, columns, density, seed)
    rng = np.random.default_rng(seed + 1)
    x = rng.normal(size=(n, columns)).astype(np.float32)
    bias = rng.normal(size=rows).astype(np.float32) if with_bias else None
    # Half a step to fp32's rounding goes either way: some sets fuse the product with the rounding.
    steps = x.astype(np.float64) * 127 / np.abs(x).max(axis=1, keepdims=True)
    assume(np.abs(np.abs(steps - np.trunc(steps)) - 0.5).min() > 1e-5)
    wanted = quantized(x).astype(np.float64) @ reference.T + (0 if bias is None else bias)
    for isa in isas():
        out = product(Kernels(isa), matrix, x, bias)
        np.testing.assert_allclose(out, wanted, atol=2e-4, rtol=1e-4, err_msg=isa)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2600, 650), (600, 200), (999, 203)])
def test_sizes_of_real_models_agree_with_the_reference(layout, shape):
    matrix, reference = built(layout, *shape, density=0.2, seed=3)
    x = np.random.default_rng(4).normal(size=(3, shape[1])).astype(np.float32)
    wanted = quantized(x).astype(np.float64) @ reference.T
    for isa in isas():
        out = product(Kernels(isa), matrix, x, None)
        np.testing.assert_allclose(out, wanted, atol=1e-3, rtol=1e-4, err_msg=isa)


def test_sparse_weights_are_laid_out_as_the_instruction_set_is_quickest():
    rng = np.random.default_rng(2)
    full = rng.normal(size=(640, 200)).astype(np.float32)
    for density, gathers in ((0.2, True), (0.6, False)):
        weight = full * (rng.random(full.shape) < density)
        source = TensorSource(["w"], lambda _name, weight=weight: weight)
        dense = LAYOUTS_OF_RUNTIMES["native-int8"](source, "w", "avx2").nbytes
        sparse = {isa: LAYOUTS_OF_RUNTIMES["sparse-int8"](source, "w", isa).nbytes for isa in ISAS}
        assert (sparse["avx2"] < 0.65 * dense) is gathers
        assert sparse["avx512"] == sparse["amx"] < sparse["avx2"] <= dense == sparse["scalar"]


@pytest.mark.parametrize("n", [1, 3])
def test_sums_of_many_large_activations_under_one_scale_do_not_overflow(n):
    matrix, reference = codes(3, 83, 1500, np.random.default_rng(9), group=1500)
    x = np.ones((n, 1500), np.float32)
    for isa in isas():
        out = product(Kernels(isa), matrix, x, None)
        np.testing.assert_allclose(out, x @ reference.T, rtol=1e-5, err_msg=isa)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_gives_for_each_vector_what_it_gives_alone(layout):
    matrix, _ = built(layout, 77, 90, density=0.3, seed=5)
    x = np.random.default_rng(6).normal(size=(43, 90)).astype(np.float32)
    bias = np.random.default_rng(7).normal(size=77).astype(np.float32)
    for isa in isas():
        kernels = Kernels(isa)
        batch = product(kernels, matrix, x, bias)
        alone = np.concatenate([product(kernels, matrix, row[None], bias) for row in x])
        assert np.array_equal(batch, alone), isa


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_a_product_without_changing_it(layout):
    matrix, _ = built(layout, 2000, 300, density=0.3, seed=7)
    x = np.random.default_rng(8).normal(size=(40, 300)).astype(np.float32)
    assert np.array_equal(
        product(Kernels(threads=3), matrix, x, None), product(Kernels(), matrix, x, None)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_is_the_matrixs_row(layout):
    matrix, reference = built(layout, 45, 70, density=0.4, seed=9)
    ids = np.random.default_rng(1).permutation(45)
    np.testing.assert_allclose(Kernels().rows(matrix, ids), reference[ids], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_extreme_values_do_not_overflow(layout, n):
    level = 7 if layout == "int4" else -127
    levels = np.full((16, 4096), level, np.int8)
    scale = np.ones(16, np.float32)
    if layout in CODES:
        planes = int(layout[-1])
        steps = np.zeros((planes, 16, 1), np.uint8)
        steps[0] = 127
        matrix = codes_matrix(np.zeros((planes, 16, 4096), np.uint8), steps, scale, 4096)
    elif layout in BLOCKS:
        matrix = block_matrix(levels, scale, BLOCKS[layout])
    elif layout == "int4":
        matrix = int4_matrix(levels, scale[:, None], 4096)
    else:
        matrix = SPARSE.get(layout, dense_matrix)(levels, scale)
    for sign in (1, -1):
        x = np.full((n, 4096), sign * 127, np.float32)
        for isa in isas():
            assert np.all(product(Kernels(isa), matrix, x, None) == sign * level * 127 * 4096)


def test_a_tie_falls_to_the_same_side_on_every_instruction_set():
    """As of a row of an embedding in 4 bits, whose largest level is -8."""
    rng = np.random.default_rng(0)
    levels = rng.integers(-8, 8, (200, 65))
    levels[:, 0] = -8
    x = levels.astype(np.float32) * rng.normal(size=(200, 1)).astype(np.float16)
    found = []
    for isa in isas():
        buffer = VectorBuffer(*x.shape)
        Kernels(isa).quantize(x, buffer)
        found.append(buffer._arrays["bytes"][:, :65].copy())
    for one in found:
        np.testing.assert_array_equal(one, found[0])


def test_a_vector_of_zeros_gives_the_bias():
    matrix, _ = built("bitmask", 20, 30, density=0.3, seed=1)
    bias = np.arange(20, dtype=np.float32)
    for isa in isas():
        assert np.array_equal(
            product(Kernels(isa), matrix, np.zeros((2, 30), np.float32), bias), [bias, bias]
        )


@pytest.mark.parametrize("kind", range(4))
def test_cells_are_torchs_cells(kind):
    torch = pytest.importorskip("torch")
    hidden, n = 37, 3
    names = ("LSTMCell", "GRUCell", "RNNCell", "RNNCell")
    extra = {"nonlinearity": "relu"} if kind == 3 else {}
    reference = getattr(torch.nn, names[kind])(5, hidden, **extra)
    x, h, c = torch.randn(n, 5), torch.randn(n, hidden), torch.randn(n, hidden)
    with torch.no_grad():
        gi = (x @ reference.weight_ih.T + reference.bias_ih).numpy() * 3
        gh = (h @ reference.weight_hh.T + reference.bias_hh).numpy() * 3
        for parameter in reference.parameters():
            parameter.mul_(3)
        wanted = reference(x, (h, c)) if kind == 0 else (reference(x, h),)
    for isa in isas():
        own_h, own_c = h.numpy().copy(), c.numpy().copy()
        step_cells(Kernels(isa), kind, gi, gh, own_h, own_c if kind == 0 else None)
        for own, want in zip((own_h, own_c), wanted, strict=False):
            np.testing.assert_allclose(own, want.numpy(), atol=2e-6, err_msg=isa)


def test_gates_saturate_without_overflow():
    gi = np.array([[1e30, -1e30, 500.0, -500.0]], np.float32)
    for isa in isas():
        h, c = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
        step_cells(Kernels(isa), 0, gi, np.zeros((1, 4), np.float32), h, c)
        np.testing.assert_allclose(c, 1.0, atol=1e-6)
        np.testing.assert_allclose(h, 0.0, atol=1e-6)


@settings(max_examples=60)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(1, 1500),
    st.integers(1, 40),
    st.floats(0.1, 30),
    st.integers(0, 9),
)
def test_a_score_is_the_log_softmax_of_the_product(layout, words, n, spread, seed):
    matrix, _ = built(layout, words, 24, density=0.5, seed=seed)
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 24)) * spread).astype(np.float32)
    bias = rng.normal(size=words).astype(np.float32)
    targets = rng.integers(0, words, n)
    for isa in isas():
        kernels = Kernels(isa)
        logits = product(kernels, matrix, x, bias).astype(np.float64)
        largest = logits.max(axis=1)
        normal = np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest
        wanted = (normal - logits[np.arange(n), targets]).sum()
        assert scored(kernels, matrix, x, bias, targets) == pytest.approx(
            wanted, rel=2e-6, abs=1e-5 * n
        )


def scored(
    kernels: Kernels, matrix: Matrix, x: np.ndarray, bias: np.ndarray, targets: np.ndarray
) -> float:
    buffer = VectorBuffer(len(x), matrix.cols)
    kernels.quantize(x, buffer)
    return float(kernels.losses(matrix, buffer, bias, targets).sum())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_share_a_score(layout):
    matrix, _ = built(layout, 5000, 200, density=0.3, seed=7)
    rng = np.random.default_rng(8)
    x, bias = rng.normal(size=(40, 200)).astype(np.float32), np.zeros(5000, np.float32)
    # One of the last words is certain: the other threads' parts are next to nothing beside it.
    bias[4990] = 200
    targets = rng.integers(0, 5000, 40)
    targets[:20] = 4990
    assert scored(Kernels(threads=3), matrix, x, bias, targets) == pytest.approx(
        scored(Kernels(), matrix, x, bias, targets), rel=1e-9
    )


def test_what_is_no_number_is_no_score():
    matrix, _ = built("dense", 40, 8, density=1, seed=0)
    bias = np.zeros(40, np.float32)
    bias[:] = np.nan
    for isa in isas():
        assert np.isnan(
            scored(Kernels(isa), matrix, np.ones((2, 8), np.float32), bias, np.array([1, 2]))
        )


@pytest.mark.parametrize("place", [0, 5, 36])
def test_what_is_no_number_stays_none(place):
    """Where a state has overflowed, so that a model that is broken is seen to be."""
    matrix, _ = built("dense", 40, 37, density=1, seed=0)
    x = np.ones((2, 37), np.float32)
    x[1, place] = np.nan
    for isa in isas():
        kernels = Kernels(isa)
        out = product(kernels, matrix, x, None)
        assert np.isfinite(out[0]).all()
        assert np.isnan(out[1]).all()
        h = np.ones_like(x)
        step_cells(kernels, CELLS["RNN_RELU"], x, np.negative(x), h, None)
        assert np.array_equal(np.isnan(h), np.isnan(x))


def test_an_instruction_set_that_is_not_there_is_refused():
    missing: list[Isa] = [isa for isa in ISAS if isa not in isas()]
    for isa in missing:
        with pytest.raises(ValueError, match=f"no {isa}"):
            Kernels(isa)
    assert isas()[0] == "scalar"
