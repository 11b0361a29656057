"""What is exported runs elsewhere, and is proven before it is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lmbench.deploy.export import onnx_matrices, write
from lmbench.deploy.export.onnx_model import Bits, build_graph
from lmbench.deploy.export.onnx_nodes import initializer_bytes
from lmbench.deploy.export.write import check_onnx, export_onnx, export_safetensors
from lmbench.deploy.load_model import LoadedModel, load_file
from lmbench.deploy.runtimes import onnx_runtime
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of

WORDS = ["<unk>", "<eos>", *(f"wörd{i}" for i in range(28))]
TOKENS = np.random.default_rng(3).integers(len(WORDS), size=300).astype(np.uint16)


def loaded(kind: str = "LSTM", tied: bool = True) -> LoadedModel:
    torch.manual_seed(4)
    net = RNNModel(kind, len(WORDS), 16 if tied else 10, 16, 2, 0.2, tied)
    return LoadedModel(net.eval().requires_grad_(False), WORDS, shape_of(net), "tiny", Path())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_an_onnx_file_gives_torchs_logits_and_state(tmp_path: Path, kind: str, tied: bool) -> None:
    model = loaded(kind, tied)
    path = tmp_path / "model.onnx"
    check = export_onnx(model, path, TOKENS)
    assert check.max_difference < 1e-4
    assert check.tokens == 160
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = torch.randint(0, len(WORDS), (5, 3))
    state = model.recurrent.init_hidden(3)
    parts = state if isinstance(state, tuple) else (state,)
    names = ("h", "c")[: len(parts)]
    feeds = {"ids": ids.numpy()} | {n: p.numpy() for n, p in zip(names, parts, strict=True)}
    logits, *after = (np.asarray(part) for part in session.run(None, feeds))
    expected, expected_state = model.model(ids, state)
    expected_parts = expected_state if isinstance(expected_state, tuple) else (expected_state,)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    for got, want in zip(after, expected_parts, strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_an_fp32_file_is_of_standard_operators_and_holds_tied_weights_once(tied: bool) -> None:
    model = loaded(tied=tied)
    graph = build_graph(model.weights)
    assert [opset.domain for opset in graph.opset_import] == [""]
    onnx.checker.check_model(graph, full_check=True)
    assert 0 <= initializer_bytes(graph) - 4 * model.numel < 300  # shapes and axes


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_integers_of_a_file_are_multiplied_rightly_on_every_machine(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the one that writes it multiplies int8 rightly: x86 without VNNI does not."""
    monkeypatch.setattr(onnx_matrices, "weights_zero_point", lambda: 0)
    graph = build_graph(loaded(kind).weights, "int8", one_step=True).graph
    types = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.UINT8 in types
    assert onnx.TensorProto.INT8 not in types


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_a_quantized_file_steps_through_a_text(tmp_path: Path, kind: str, bits: str) -> None:
    path = tmp_path / "small.onnx"
    check = export_onnx(loaded(kind), path, TOKENS, bits)  # pyright: ignore[reportArgumentType]
    assert check.divergence < 0.01
    assert check_onnx(loaded(kind), path.read_bytes(), TOKENS) == check


def test_the_onnx_file_knows_its_shape_and_words(tmp_path: Path) -> None:
    export_onnx(loaded(), tmp_path / "m.onnx", TOKENS)
    entries = {e.key: e.value for e in onnx.load(tmp_path / "m.onnx").metadata_props}
    about = json.loads(entries["lmbench"])
    assert about["vocabulary"] == WORDS
    assert about["shape"]["nhid"] == 16


def test_a_file_whose_predictions_are_not_the_models_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = loaded()
    other.recurrent.decoder.bias.add_(torch.linspace(-1, 1, len(WORDS)))
    monkeypatch.setattr(
        write, "build_graph", lambda weights, bits: build_graph(other.weights, bits)
    )
    with pytest.raises(LmbenchError, match=r"not written: .* differ from torch's"):
        export_onnx(loaded(), tmp_path / "m.onnx", TOKENS)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_not_exported(tmp_path: Path) -> None:
    broken = loaded()
    broken.recurrent.decoder.bias[3] = torch.nan
    with pytest.raises(LmbenchError, match="not written"):
        export_onnx(broken, tmp_path / "m.onnx", TOKENS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bits, use", [("fp32", "use --bits int8, or --format safe"), ("int8", "use --format safe")]
)
def test_a_model_too_large_for_one_onnx_file_is_told_what_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: Bits, use: str
) -> None:
    monkeypatch.setattr(onnx_runtime, "_LIMIT", 1000)
    with pytest.raises(LmbenchError, match=use):
        export_onnx(loaded(), tmp_path / "m.onnx", TOKENS, bits)


def test_too_few_tokens_to_check_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match="4 tokens or more, not 3"):
        export_onnx(loaded(), tmp_path / "m.onnx", TOKENS[:3])


def test_the_check_sees_a_difference_and_an_equal_model_has_none() -> None:
    model, other = loaded(), loaded()
    other.recurrent.decoder.bias[5] += 0.5
    data = build_graph(other.weights).SerializeToString()
    assert check_onnx(other, data, TOKENS).max_difference < 1e-5
    assert check_onnx(model, data, TOKENS).max_difference > 0.4


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_a_safetensors_file_comes_back_whole_with_its_words(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    model = loaded(kind, tied)
    path = tmp_path / "model.safetensors"
    export_safetensors(model, path)
    back = load_file(path)
    assert back.vocabulary == WORDS
    assert dict(back.shape) == dict(model.shape)
    assert back.recurrent.tied == tied
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor)


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match="cannot be written"):
        export_safetensors(loaded(), tmp_path / "no" / "m.safetensors")
