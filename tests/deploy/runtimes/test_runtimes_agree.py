"""Every runtime steps and scores as torch's own layers do, within what it promises."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel, load_packed
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes import onnx_runtime
from lmbench.deploy.runtimes.interface import Runtime
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.deploy.runtimes.table import RUNTIMES, build_runtime, supported
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of

KINDS = ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"]
WORDS = 211

# Largest difference of a logit whose spread is about 1.
TOLERANCE = {
    "naive": 0.0,
    "torch": 1e-4,
    "onnx": 1e-4,
    "fp16": 5e-3,
    "bf16": 5e-2,
    "int8": 5e-2,
    "int4": 0.6,
}


def model(
    kind: str = "LSTM",
    tied: bool = True,
    nlayers: int = 2,
    nhid: int = 40,
    projection: bool = False,
) -> LoadedModel:
    torch.manual_seed(1)
    emsize = nhid if tied and not projection else 24
    net = RNNModel(kind, WORDS, emsize, nhid, nlayers, 0.5, tied, projection)
    with torch.no_grad():
        net.encoder.weight.normal_()
        if tied:
            net.encoder.weight.mul_(0.5)
        net.decoder.bias.normal_()
    return LoadedModel(net.eval().requires_grad_(False), [], shape_of(net), "tiny", Path())


def text(rows: int, batch: int) -> Tensor:
    return torch.randint(0, WORDS, (rows, batch), generator=torch.Generator().manual_seed(7))


def worst_difference(exact: Runtime, other: Runtime, data: Tensor) -> float:
    a, b = exact.initial_state(data.shape[1]), other.initial_state(data.shape[1])
    worst = 0.0
    for row in data:
        x, a = exact.step(row, a)
        y, b = other.step(row, b)
        assert y.shape == (data.shape[1], WORDS)
        assert y.dtype == torch.float32
        worst = max(worst, float((x - y).abs().max()))
    return worst


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(TOLERANCE))
def test_a_runtime_predicts_and_scores_as_the_module_does(
    name: str, kind: str, tied: bool, projection: bool
) -> None:
    loaded = model(kind, tied, projection=projection)
    exact, runtime = NaiveRuntime(loaded), build_runtime(name, loaded)
    assert worst_difference(exact, runtime, text(12, 1)) <= TOLERANCE[name]
    data = text(24, 3)
    assert worst_difference(exact, runtime, data[:6]) <= TOLERANCE[name]
    expected, score = exact.evaluate(data, 7), runtime.evaluate(data, 7)
    assert score.tokens == expected.tokens == 69
    assert score.loss == pytest.approx(expected.loss, abs=max(1e-5, TOLERANCE[name] / 4))


@pytest.mark.parametrize("name", ["naive", "torch", "onnx"])
def test_the_score_is_the_mean_over_every_token_predicted_by_stepping(name: str) -> None:
    loaded = model(nlayers=1)
    runtime = build_runtime(name, loaded)
    data = text(15, 2)
    state, total = runtime.initial_state(2), 0.0
    for row, following in pairwise(data):
        logits, state = runtime.step(row, state)
        total -= float(logits.log_softmax(1).gather(1, following[:, None]).double().sum())
    for bptt in (1, 5, 7, 14, 100):
        score = runtime.evaluate(data, bptt)
        assert score.tokens == 28
        assert score.nll == pytest.approx(total, rel=1e-5)
        assert score.ppl == pytest.approx(math.exp(total / 28), rel=1e-4)


@pytest.mark.parametrize("name", list(TOLERANCE))
def test_stepping_leaves_the_old_state_usable_so_that_a_text_can_be_rewound(name: str) -> None:
    runtime = build_runtime(name, model())
    _, state = runtime.step(torch.tensor([5]), runtime.initial_state())
    first = runtime.step(torch.tensor([6]), state)[0].clone()
    runtime.step(torch.tensor([9]), state)
    assert torch.equal(runtime.step(torch.tensor([6]), state)[0], first)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(TOLERANCE))
def test_what_the_decoder_saw_is_the_module_s_own(name: str, kind: str, projection: bool) -> None:
    loaded = model(kind, projection=projection)
    runtime, ids = build_runtime(name, loaded), torch.tensor([5, 6])
    _, state = runtime.step(ids, runtime.initial_state(2))
    features, _ = loaded.recurrent.features(ids.view(1, 2), loaded.recurrent.init_hidden(2))
    assert torch.allclose(runtime.hidden(state), features[0], atol=TOLERANCE[name] + 1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_half_precision_scores_by_the_cells_that_it_steps(name: str, kind: str) -> None:
    runtime = build_runtime(name, model(kind, nhid=48))
    data = text(40, 1)
    state, nll = runtime.initial_state(), 0.0
    for here, after in pairwise(data):
        logits, state = runtime.step(here, state)
        nll -= float(logits.double().log_softmax(1)[0, after])
    assert runtime.evaluate(data, 13).nll == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("name", ["torch", "int8", "int4"])
def test_progress_tells_rows_done_of_rows_in_all(name: str) -> None:
    told: list[tuple[int, int]] = []
    build_runtime(name, model()).evaluate(text(12, 2), 5, lambda *at: told.append(at))
    assert told == [(5, 11), (10, 11), (11, 11)]


def test_fewer_bits_take_fewer_bytes_and_tied_weights_are_counted_once() -> None:
    tied = model(nhid=64)
    sizes = [build_runtime(n, tied).bytes for n in ("torch", "fp16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert build_runtime("int8", tied).bytes < 0.3 * build_runtime("torch", tied).bytes
    numbers = tied.numel
    # Two biases of a gate are one where both products are.
    gates = 2 * 4 * 64
    assert build_runtime("fp16", tied).bytes == 2 * numbers - 2 * gates
    # Laid out anew to be stepped with, and as the layers that score have them.
    assert build_runtime("torch", tied).bytes == 2 * 4 * numbers - 4 * (gates + WORDS)
    assert build_runtime("onnx", tied).bytes < 4 * numbers + 300  # and a few shapes


def test_a_model_whose_modules_are_wrapped_runs_as_it_is_and_nowhere_else() -> None:
    loaded = model()

    class Wrapped(torch.nn.Linear):
        pass

    wrapped = Wrapped(40, WORDS)
    wrapped.weight, wrapped.bias = loaded.recurrent.decoder.weight, loaded.recurrent.decoder.bias
    loaded.recurrent.decoder = wrapped
    assert not loaded.plain
    assert [entry.name for entry in supported(loaded)] == ["naive"]
    assert build_runtime("torch", loaded).name == "naive"
    with pytest.raises(LmbenchError, match=r"int8.*wrapped.*use naive"):
        build_runtime("int8", loaded)


@pytest.mark.parametrize(
    "bytes_each, refused", [(4, {"onnx"}), (1, {"onnx", "int8", "int4"})], ids=["fp32", "any"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_too_large_for_onnx_is_left_to_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bytes_each: int,
    refused: set[str],
    packed: bool,
) -> None:
    loaded = model()
    if packed:
        words = [f"w{i}" for i in range(WORDS)]
        write_packed(loaded.recurrent, words, tmp_path / "m.lmpack")
        loaded = load_packed(tmp_path / "m.lmpack")
    before = {runtime.name for runtime in supported(loaded)}
    monkeypatch.setattr(onnx_runtime, "_LIMIT", loaded.numel * bytes_each - 1)
    assert before - {runtime.name for runtime in supported(loaded)} == refused
    with pytest.raises(LmbenchError, match=r"cannot run .* GB are more than one .onnx file may"):
        build_runtime("onnx", loaded)


def test_an_unknown_runtime_is_told_which_there_are() -> None:
    with pytest.raises(LmbenchError, match=r"runtime 'int3': use one of naive, torch"):
        build_runtime("int3", model())


def test_a_runtime_is_as_near_to_the_module_as_it_says() -> None:
    within = {"exact": 1e-4, "close": 5e-2, "coarse": 0.6}
    for name, tolerance in TOLERANCE.items():
        assert tolerance <= within[RUNTIMES[name].accuracy], name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_on_the_gpu_predicts_as_the_module_on_the_cpu(kind: str) -> None:
    loaded = model(kind)
    exact = NaiveRuntime(loaded)
    data = text(12, 3)
    expected, a = [], exact.initial_state(3)
    for row in data:
        logits, a = exact.step(row, a)
        expected.append(logits)
    loaded.model.to("cuda")
    runtime = build_runtime("cuda", loaded)
    state = runtime.initial_state(3)
    for row, logits in zip(data, expected, strict=True):
        got, state = runtime.step(row.cuda(), state)
        torch.testing.assert_close(got.cpu(), logits, atol=5e-3, rtol=1e-3)
    kept = state
    first = runtime.step(data[0].cuda(), kept)[0].clone()
    runtime.step(data[1].cuda(), kept)
    assert torch.equal(runtime.step(data[0].cuda(), kept)[0], first)
