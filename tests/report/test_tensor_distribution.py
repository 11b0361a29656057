"""What is told of one tensor, against numpy on the whole of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from safetensors.torch import save

from lmbench.deploy.load_model import QUANTIZATION
from lmbench.distiller.quantization import QuantSettings, export_state, quantization_table, quantize
from lmbench.errors import LmbenchError
from lmbench.model import RNNModel
from lmbench.report import tensor_distribution as under_test
from lmbench.report.tensor_distribution import gates_of, inspect_tensor


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "model.safetensors"


_values = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 0.0, -0.0, math.nan, math.inf])
_matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=_values
)


@settings(max_examples=60)
@given(_matrices, st.integers(1, 40))
def test_figures_are_those_of_the_whole_whatever_slices_it_is_read_in(path, matrix, slice_size):
    save_file({"encoder.weight": matrix}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(under_test, "_SLICE_ELEMENTS", slice_size)
        report = inspect_tensor(path, "encoder.weight")
    (part,) = report.parts
    kept = matrix[np.isfinite(matrix) & (matrix != 0)].astype(np.float64)
    assert part.elements == matrix.size
    assert part.zeros == int((matrix == 0).sum())
    assert part.bad == int((~np.isfinite(matrix)).sum())
    assert part.counts.sum() == len(kept)
    if len(kept):
        assert (part.low, part.high) == (kept.min(), kept.max())
        assert part.mean == pytest.approx(kept.mean(), abs=1e-9)
        assert part.std == pytest.approx(kept.std(), abs=1e-6)
        assert part.abs_mean == pytest.approx(np.abs(kept).mean())
    else:
        assert math.isnan(part.mean)


def test_gates_are_the_rows_in_torch_s_order_and_add_up_to_the_whole(path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(8, 3)).astype(np.float32)
    matrix[2:4] = 0
    save_file({"rnn.weight_hh_l0": matrix}, path)
    report = inspect_tensor(path, "rnn.weight_hh_l0", "LSTM")
    assert [p.name for p in report.parts] == ["all", "i", "f", "g", "o"]
    assert [p.sparsity for p in report.parts] == [0.25, 0.0, 1.0, 0.0, 0.0]
    assert report.parts[4].low == matrix[6:].min()
    total = sum(p.counts for p in report.parts[1:])
    assert (report.parts[0].counts == total).all()


@pytest.mark.parametrize(
    "name, shape, model, gates",
    [
        ("rnn.weight_ih_l1", (12, 5), "GRU", ("r", "z", "n")),
        ("rnn.bias_hh_l0", (8,), "LSTM", ("i", "f", "g", "o")),
        ("rnn.weight_ih_l0", (8, 2), "RNN_TANH", ()),
        ("rnn.weight_ih_l0", (7, 2), "LSTM", ()),
        ("encoder.weight", (8, 2), "LSTM", ()),
    ],
)
def test_only_stacked_rows_of_a_gated_cell_have_gates(name, shape, model, gates):
    assert gates_of(name, shape, model) == gates


def test_a_module_stands_for_its_weight_and_whole_numbers_are_read_too(path):
    save_file({"decoder.weight": np.array([[-128, 0, 127]], np.int8)}, path)
    report = inspect_tensor(path, "decoder")
    assert report.name == "decoder.weight"
    assert report.dtype == "I8"
    assert report.limits == (-128, 127)


@pytest.mark.parametrize(
    "overrides, module, tensor",
    [
        ({}, "encoder", "encoder.weight_q"),
        # Tied, and with one scale each, the two are one matrix in the file.
        ({"encoder": {"per_row_embedding": False}}, "decoder", "encoder.weight_q"),
        (
            {"rnn.cells.0.fc_gate_h": {"fp16": True}},
            "rnn.cells.0.fc_gate_h",
            "rnn.cells.0.fc_gate_h.wrapped_module.weight",
        ),
    ],
)
def test_a_module_of_a_quantized_model_stands_for_its_weights(path, overrides, module, tensor):
    chosen = QuantSettings.from_dict({"overrides": overrides})
    quantized = quantize(RNNModel("LSTM", 40, 8, 8, 1, 0.0, True), chosen)
    tensors, meta = export_state(quantized, chosen, dynamic=True)
    path.write_bytes(save(tensors))
    path.with_name(QUANTIZATION).write_text(json.dumps({"version": 1, **meta}))
    assert inspect_tensor(path, module).name == tensor
    weighted = [r for r in quantization_table(quantized) if r.kind in ("Linear", "Embedding")]
    assert len(weighted) == 4
    assert all(len(inspect_tensor(path, row.name).shape) == 2 for row in weighted)


def test_scalars_and_constant_tensors_have_a_report(path):
    save_file({"a": np.array(3.0, np.float32), "b": np.ones((4, 4), np.float32)}, path)
    assert inspect_tensor(path, "a").parts[0].mean == 3.0
    report = inspect_tensor(path, "b")
    assert report.limits == (0.5, 1.5)
    assert report.parts[0].counts.sum() == 16


def test_what_cannot_be_told_is_one_clear_line(path, tmp_path):
    save_file({"a": np.ones(3, np.float32)}, path)
    with pytest.raises(LmbenchError, match=r"no tensor 'c' \(has a\)"):
        inspect_tensor(path, "c")
    with pytest.raises(LmbenchError, match="no such file"):
        inspect_tensor(tmp_path / "none.safetensors", "a")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 40)
    with pytest.raises(LmbenchError, match="cannot be read as safetensors"):
        inspect_tensor(broken, "a")


def test_halves_that_numpy_has_no_word_for_are_refused_in_words(tmp_path):
    import json
    import struct

    path = tmp_path / "half.safetensors"
    head = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\x00" * 4)
    with pytest.raises(LmbenchError, match="tensor 'a' cannot be read with numpy"):
        inspect_tensor(path, "a")
