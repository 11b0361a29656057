"""Weights that are sums of scaled signs, packed: the very values, in so many bits."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbench.config import PackConfig
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.code_planes import (
    code_sums,
    interleave,
    interleaved_bytes,
    nearest_codes,
    pack_planes,
    plane_bits,
    row_units,
    separate,
)
from lmbench.deploy.packed_file.dequantize import dequantized, dequantized_bytes
from lmbench.deploy.packed_file.header import open_container
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes.table import as_is_runtime, build_runtime
from lmbench.distiller.quantization import QuantSettings, quantize
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of

WORDS = [f"w{i}" for i in range(600)]


def quantized(
    kind: str = "LSTM", width: int = 100, zeros: float = 0.0, *, normal: bool = False, **settings
) -> torch.nn.Module:
    torch.manual_seed(0)
    model = RNNModel(kind, len(WORDS), width, width, 2, 0.1, True).eval()
    with torch.no_grad():
        for p in model.parameters():
            if normal:
                p.normal_()
            p *= torch.rand(p.shape) >= zeros if p.dim() == 2 else 1.0
    return quantize(model, QuantSettings.from_dict({"bits_activations": None, **settings}))


def packed(
    path,
    model: torch.nn.Module,
    kind: str = "LSTM",
    width: int = 100,
    config: PackConfig | None = None,
):
    shape = {"model": kind, "emsize": width, "nhid": width, "nlayers": 2, "dropout": 0.1}
    taken = dequantized(model, {**shape, "tied": True, "ntoken": len(WORDS)})
    assert taken.renewed == ()
    return write_packed(
        taken.model, WORDS, path, config,
        grids=taken.grids, groups=taken.groups, auto=taken.values,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
@pytest.mark.parametrize("bits,group", [(1, None), (2, None), (3, 64), (4, 8)])
@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_the_file_has_the_very_weights_that_were_evaluated(tmp_path, kind, bits, group, zeros):
    model = quantized(kind, zeros=zeros, rounding="codes", bits_weights=bits, group_size=group)
    packed(tmp_path / "m.lmpack", model, kind)
    file = open_packed(tmp_path / "m.lmpack")
    places = {"encoder.weight": "encoder", "rnn.weight_ih_l0": "rnn.cells.0.fc_gate_x"}
    places["rnn.weight_hh_l1"] = "rnn.cells.1.fc_gate_h"
    for name, place in places.items():
        assert file.specs[name].values == f"code{bits}"
        assert file.specs[name].layout == ("bitmask" if zeros else "dense")
        wanted = model.get_submodule(place).weight
        assert isinstance(wanted, torch.Tensor)
        assert np.array_equal(file.dense(name), wanted.numpy())
    assert "decoder.weight" not in file.specs


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_weight_takes_its_bits_and_a_row_its_scales(tmp_path, bits):
    model = quantized(width=104, rounding="codes", bits_weights=bits)
    info = packed(tmp_path / "m.lmpack", model, width=104)
    for tensor in info.tensors:
        if len(tensor.spec.shape) == 2:
            rows, columns = tensor.spec.shape
            assert tensor.stored == rows * columns * bits // 8 + 2 * bits * rows
    shape = shape_of(dequantized(model, _shape(104)).model)
    header = 8192
    assert 0 <= info.bytes - dequantized_bytes(model, shape, WORDS) < header


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_of_a_pruned_matrix_a_weight_takes_a_bit_and_a_code_where_it_is_left(tmp_path, bits):
    model = quantized(width=104, zeros=0.8, rounding="codes", bits_weights=bits)
    info = packed(tmp_path / "m.lmpack", model, width=104)
    for tensor in info.tensors:
        if len(tensor.spec.shape) == 2:
            rows, columns = tensor.spec.shape
            assert tensor.nonzero < 0.25 * rows * columns
            codes = bits * -(-tensor.nonzero // 8)
            assert tensor.stored == rows * columns // 8 + codes + 2 * bits * rows
    counted = dequantized_bytes(model, shape_of(dequantized(model, _shape(104)).model), WORDS)
    assert 0 <= info.bytes - counted < 8192


@pytest.mark.parametrize("bits, zeros", [(2, 0.55), (3, 0.36), (4, 0.28)])
def test_zeros_are_kept_from_where_their_mask_takes_no_more_than_they_do(tmp_path, bits, zeros):
    kept, rounded = (
        quantized(width=104, zeros=share, rounding="codes", bits_weights=bits)
        for share in (zeros, zeros - 0.1)
    )
    masked = packed(tmp_path / "masked.lmpack", kept, width=104)
    dense = packed(tmp_path / "dense.lmpack", rounded, width=104)
    matrices = [
        [tensor for tensor in info.tensors if len(tensor.spec.shape) == 2]
        for info in (masked, dense)
    ]
    assert {tensor.spec.layout for tensor in matrices[0]} == {"bitmask"}
    assert {tensor.spec.layout for tensor in matrices[1]} == {"dense"}
    for mine, theirs in zip(*matrices, strict=True):
        assert mine.stored < theirs.stored
    counted = dequantized_bytes(kept, shape_of(dequantized(kept, _shape(104)).model), WORDS)
    assert 0 <= masked.bytes - counted < 8192


@pytest.mark.parametrize("runtime_name", ["sparse-int8", "native-int8", "naive"])
def test_codes_beside_zeros_run_at_the_weights_that_were_evaluated(tmp_path, runtime_name):
    if runtime_name != "naive" and why_unavailable():
        pytest.skip("no compiled kernels")
    model = quantized(zeros=0.8, rounding="codes", bits_weights=3)
    packed(tmp_path / "m.lmpack", model)
    loaded = load_packed(tmp_path / "m.lmpack")
    plain = dequantized(model, _shape(100)).model
    runtime = build_runtime(runtime_name, loaded)
    ids = torch.arange(600)[:20].view(10, 2)
    state, found = runtime.initial_state(2), []
    for step in ids:
        logits, state = runtime.step(step, state)
        found.append(logits)
    with torch.no_grad():
        wanted = plain(ids, plain.init_hidden(2))[0]
    # What is left is activations in int8.
    error = (torch.stack(found).view_as(wanted) - wanted).std() / wanted.std()
    assert float(error) < 0.03
    assert as_is_runtime(loaded) == ("int8" if why_unavailable() else "sparse-int8")


@given(
    planes=st.integers(1, 4),
    rows=st.integers(0, 5),
    columns=st.integers(0, 9),
    seed=st.integers(0, 1 << 16),
)
def test_interleaved_planes_and_scales_come_apart_as_they_were(planes, rows, columns, seed):
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 256, (planes, rows, columns), np.uint8)
    scales = generator.random((planes, rows, columns)).astype("<f2")
    for part in (bits, bits.reshape(planes, -1), scales):
        data = interleave(part).tobytes()
        assert len(data) == interleaved_bytes(part.dtype, part.shape)
        assert np.array_equal(separate(data, part.dtype, part.shape), part)


def test_a_byte_of_interleaved_planes_holds_whole_codes():
    codes = np.array([[5, 3, 0, 7, 1, 2, 6, 4]], np.uint8)
    together = interleave(pack_planes(codes, 3))
    assert together.tolist() == [5 | 3 << 3, 0 | 7 << 3, 1 | 2 << 3, 6 | 4 << 3]


@pytest.mark.parametrize("zeros", [0.0, 0.8])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_compressed_codes_are_interleaved_and_the_same(tmp_path, bits, zeros):
    model = quantized(zeros=zeros, rounding="codes", bits_weights=bits, normal=True)
    plain = packed(tmp_path / "plain.lmpack", model)
    small = packed(tmp_path / "small.lmpack", model, config=PackConfig(zstd=True))
    before, after = open_packed(tmp_path / "plain.lmpack"), open_packed(tmp_path / "small.lmpack")
    for name in before.specs:
        for part, values in before.tensor(name).parts.items():
            assert np.array_equal(after.tensor(name).parts[part], values)
    document = open_container(tmp_path / "small.lmpack").metadata["tensors"]
    parts = document["encoder.weight"]["parts"]
    assert parts["scale"] == {**parts["scale"], "zstd": True, "interleaved": True}
    if not zeros and bits > 2:
        # Codes of normal weights are not equally frequent, though each of their bits is.
        assert parts["values"] == {**parts["values"], "zstd": True, "interleaved": True}
    raw = {tensor.name: tensor.stored for tensor in plain.tensors}
    for tensor in small.tensors:
        assert tensor.stored < raw[tensor.name] or len(tensor.spec.shape) == 1


def test_zeros_beside_codes_cannot_be_stored_densely(tmp_path):
    taken = dequantized(quantized(zeros=0.8, rounding="codes", bits_weights=2), _shape(100))
    config = PackConfig.model_validate({"sparse": "never"})
    with pytest.raises(LmbenchError, match="zeros beside its codes, which no dense layout keeps"):
        write_packed(
            taken.model, WORDS, tmp_path / "m.lmpack", config,
            grids=taken.grids, groups=taken.groups, auto=taken.values,
        )  # fmt: skip


def test_codes_that_are_stored_in_int4_have_the_groups_of_int4(tmp_path):
    taken = dequantized(quantized(rounding="codes", bits_weights=3), _shape(100))
    config, found = PackConfig(weights="int4"), []
    for name, groups in (("codes", taken.groups), ("floats", None)):
        path = tmp_path / f"{name}.lmpack"
        grids, auto = (taken.grids, taken.values) if groups else (None, "fp32")
        write_packed(
            taken.model, WORDS, path, config, grids=grids, groups=groups, auto=auto
        )  # fmt: skip
        specs = open_packed(path).specs
        assert specs["encoder.weight"].values == "int4"
        found.append({name: spec.group for name, spec in specs.items()})
    assert found[0] == found[1]


def _shape(width: int) -> dict:
    shape = {"model": "LSTM", "emsize": width, "nhid": width, "nlayers": 2, "dropout": 0.1}
    return {**shape, "tied": True, "ntoken": len(WORDS)}


def test_only_files_with_codes_need_a_newer_program(tmp_path):
    packed(tmp_path / "new.lmpack", quantized(rounding="codes", bits_weights=2))
    packed(tmp_path / "old.lmpack", quantized(bits_weights=8, per_channel_wts=True))
    sparse = quantized(zeros=0.8, rounding="codes", bits_weights=2)
    packed(tmp_path / "newer.lmpack", sparse)
    packed(tmp_path / "newer still.lmpack", sparse, config=PackConfig(zstd=True))
    packed(tmp_path / "newest.lmpack", sparse, config=PackConfig(biases="int8"))
    names = ("newest.lmpack", "newer still.lmpack", "newer.lmpack", "new.lmpack", "old.lmpack")
    versions = [
        (tmp_path / name).read_bytes()[8:400].split(b'"version":"')[1][:1] for name in names
    ]
    assert versions == [b"6", b"5", b"4", b"3", b"1"]
    assert open_container(tmp_path / "old.lmpack").names()


def test_codes_beside_wider_weights_keep_to_their_modules(tmp_path):
    changes = {"rounding": "codes", "bits_weights": 2}
    model = quantized(bits_weights=8, per_channel_wts=True, overrides={"rnn.*": changes})
    info = packed(tmp_path / "m.lmpack", model)
    kinds = {t.name: t.spec.values for t in info.tensors}
    assert kinds["encoder.weight"] == "int8"
    assert kinds["rnn.weight_hh_l0"] == "code2"


def test_they_are_read_without_torch(tmp_path):
    packed(tmp_path / "m.lmpack", quantized(rounding="codes", bits_weights=3))
    code = (
        "import sys; from pathlib import Path; from lmbench.deploy.packed_file.reading import *; "
        f"open_packed(Path({str(tmp_path / 'm.lmpack')!r})).dense('encoder.weight'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 50), st.integers(0, 99), st.booleans())
def test_planes_give_back_each_sum_and_units_each_scale(bits, rows, columns, seed, small):
    rng = np.random.default_rng(seed)
    groups = -(-columns // 8)
    steps = rng.integers(0, 30, (bits, rows, groups))
    unit = np.float32(2.0) ** rng.integers(-130 if small else -8, 3, (rows, 1))
    alpha = (steps * unit).astype(np.float32)
    signs = rng.choice([-1, 1], (bits, rows, columns))
    weight = (signs * np.repeat(alpha, 8, axis=2)[:, :, :columns]).sum(0).astype(np.float32)
    planes = pack_planes(nearest_codes(weight, alpha, 8), bits)
    assert planes.nbytes == bits * rows * groups
    assert np.array_equal(code_sums(plane_bits(planes, columns), alpha, 8), weight)
    units, small_steps = row_units(alpha)
    assert small_steps.sum(0).max() <= 127
    if not small:
        assert np.array_equal(small_steps * units[:, None], alpha)


def test_scales_that_lie_on_no_grid_are_rounded_to_one():
    alpha = np.random.default_rng(0).random((3, 40, 2)).astype(np.float32)
    alpha[0, 0, 0], alpha[1:, 0, 0] = 127, 0.0
    units, steps = row_units(alpha)
    assert steps.sum(0).max() <= 127
    assert np.abs(steps * units[:, None] - alpha).max() <= units.max() / 2
