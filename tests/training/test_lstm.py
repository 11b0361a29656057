"""The LSTM layers that stand in for torch's, against `torch.nn.LSTM`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmbench.distiller.modules import (
    DistillerLSTM,
    DistillerLSTMCell,
    convert_model_to_modular,
)
from lmbench.distiller.quantization.fake_quantization import QuantizedActivation
from lmbench.model.rnn import RNNModel
from lmbench.training import lstm, native
from lmbench.training.loss import DecoderLoss
from lmbench.training.native import process
from lmbench.training.native.process import Kernels
from lmbench.training.precision import Precision
from lmbench.training.regularisation import torch_layer
from lmbench.training.step import clipped_update, compute_gradients, gradient_norm, run_layers

STEPS, BATCH, EMBEDDING, WIDTH = 9, 5, 12, 20


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("layers", [1, 3])
def test_outputs_states_and_every_gradient_agree_to_bf16(layers: int) -> None:
    torch.manual_seed(0)
    rnn = nn.LSTM(EMBEDDING, WIDTH, layers)
    x = torch.randn(STEPS, BATCH, EMBEDDING, requires_grad=True)
    hidden = (torch.randn(layers, BATCH, WIDTH) * 0.3, torch.randn(layers, BATCH, WIDTH) * 0.3)
    above = torch.randn(STEPS, BATCH, WIDTH)
    wanted = [x, *rnn.parameters()]
    output, (h, c) = lstm.forward(lstm._in_bf16, rnn, x, hidden)
    expected, (expected_h, expected_c) = rnn(x, hidden)
    ours = [output, h, c, *torch.autograd.grad(output, wanted, above)]
    theirs = [expected, expected_h, expected_c, *torch.autograd.grad(expected, wanted, above)]
    assert all(t.dtype == torch.float32 for t in ours)
    assert max(map(relative, ours, theirs)) < 1e-2


@pytest.mark.parametrize("allowed", ["torch", None])
def test_modular_cells_are_walked_whole_unless_more_than_their_weights_is_quantized(
    monkeypatch: pytest.MonkeyPatch, allowed: Kernels | None
) -> None:
    monkeypatch.setattr(process, "_allowed", allowed)
    torch.manual_seed(4)
    rnn = DistillerLSTM.from_pytorch_impl(nn.LSTM(64, 64, 2, dropout=0.0))
    x = torch.randn(5, 8, 64, requires_grad=True)
    state = torch.randn(2, 8, 64), torch.randn(2, 8, 64)
    assert lstm.layer_for(rnn, x, "fp32")
    lstm._parts_of.cache_clear()
    before = torch.get_rng_state()
    output, (h, c) = run_layers(rnn, x, state, "fp32")
    assert torch.equal(torch.get_rng_state(), before)
    plain, (plain_h, plain_c) = rnn(x, state)
    wanted, above = [x, *rnn.parameters()], torch.randn(5, 8, 64)
    ours = [output, h, c, *torch.autograd.grad(output, wanted, above)]
    theirs = [plain, plain_h, plain_c, *torch.autograd.grad(plain, wanted, above)]
    assert not torch.equal(output, plain)
    assert max(map(relative, ours, theirs)) < 1e-5

    first, second = rnn.cells
    assert isinstance(first, DistillerLSTMCell)
    assert isinstance(second, DistillerLSTMCell)
    watched = second.act_f.register_forward_hook(lambda *_: None)
    assert not lstm.layer_for(rnn, x, "fp32")
    watched.remove()
    watched = second.register_forward_hook(lambda *_: None)
    assert not lstm.layer_for(rnn, x, "fp32")
    watched.remove()
    second.register_module("act_h", nn.ReLU())
    assert not lstm.layer_for(rnn, x, "fp32")
    second.register_module("act_h", nn.Tanh())
    assert lstm.layer_for(rnn, x, "fp32")
    first.register_module("act_h", QuantizedActivation(first.act_h, nn.Identity()))
    assert not lstm.layer_for(rnn, x, "fp32")


@pytest.mark.parametrize("precision, near", [("fp32", 1e-5), ("bf16", 1e-2)])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_narrow_modular_cells_are_walked_whole_by_torchs_layer(
    monkeypatch: pytest.MonkeyPatch, mode: str, precision: Precision, near: float
) -> None:
    walked: list[str] = []

    def layer(mode: str, *given: Any) -> Any:
        walked.append(mode)
        return torch_layer(mode, *given)

    monkeypatch.setattr(lstm, "torch_layer", layer)
    torch.manual_seed(5)
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU}
    kind = kinds.get(mode) or partial(nn.RNN, nonlinearity=mode[4:].lower())
    rnn = convert_model_to_modular(kind(EMBEDDING, WIDTH, 2))
    x, h = torch.randn(STEPS, BATCH, EMBEDDING), torch.randn(2, BATCH, WIDTH)
    state = (h, torch.randn(2, BATCH, WIDTH)) if mode == "LSTM" else h
    above = torch.randn(STEPS, BATCH, WIDTH)
    output, last = run_layers(rnn, x, state, precision)
    assert walked == [mode, mode]
    with lstm.in_bf16(x.device, precision == "bf16"):
        expected, expected_last = rnn(x, state)
    found: list[list[Tensor]] = []
    for rows, states in ((output, last), (expected, expected_last)):
        states = states if isinstance(states, tuple) else (states,)
        grads = torch.autograd.grad(rows.float(), [*rnn.parameters()], above)
        found.append([rows, *states, *grads])
    assert all(part.dtype == torch.float32 for part in found[0])
    assert max(map(relative, *found)) < near


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_torchs_own_layers_have_bf16_on_a_processor_without(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[int, int], nn.RNNBase]
) -> None:
    """oneDNN's LSTM, which torch would take there, raises."""
    monkeypatch.setattr(native, "lstm_library", lambda: None)
    monkeypatch.setattr(lstm, "onednn_lacks_bf16", lambda: True)
    torch.manual_seed(0)
    rnn, x = kind(EMBEDDING, WIDTH), torch.randn(STEPS, BATCH, EMBEDDING)
    state = torch.zeros(1, BATCH, WIDTH)
    hidden = (state, state) if kind is nn.LSTM else state
    asked: list[bool] = []
    rnn.register_forward_pre_hook(lambda *_: asked.append(bool(torch.backends.mkldnn.enabled)))
    output, _ = run_layers(rnn, x, hidden, "bf16")
    ours = [output, *torch.autograd.grad(output.float().sum(), tuple(rnn.parameters()))]
    expected, _ = rnn(x, hidden)
    theirs = [expected, *torch.autograd.grad(expected.sum(), tuple(rnn.parameters()))]
    assert asked == [False, torch.backends.mkldnn.is_available()]
    assert max(map(relative, ours, theirs)) < 2e-2


def test_dropout_lies_between_the_layers_and_only_in_training() -> None:
    torch.manual_seed(0)
    rnn = nn.LSTM(EMBEDDING, WIDTH, 2, dropout=0.5)
    x = torch.randn(STEPS, BATCH, EMBEDDING)
    hidden = (torch.zeros(2, BATCH, WIDTH), torch.zeros(2, BATCH, WIDTH))
    one, other = (lstm.forward(lstm._in_bf16, rnn, x, hidden)[0] for _ in range(2))
    assert not torch.equal(one, other)
    rnn.eval()
    one, other = (lstm.forward(lstm._in_bf16, rnn, x, hidden)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_it_stands_in_only_for_wide_plain_lstms_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "lstm_library", lambda: None)
    x = torch.zeros(1, 1, 450)
    assert lstm.layer_for(nn.LSTM(450, 450), x, "bf16")
    assert not lstm.layer_for(nn.LSTM(450, 450), x, "fp32")
    assert not lstm.layer_for(nn.LSTM(450, 100), x, "bf16")
    assert not lstm.layer_for(nn.GRU(450, 450), x, "bf16")
    assert not lstm.layer_for(nn.LSTM(450, 450, bidirectional=True), x, "bf16")
    assert not lstm.layer_for(nn.LSTM(450, 450, bias=False), x, "bf16")
    assert not lstm.layer_for(nn.LSTM(450, 450).double(), x.double(), "bf16")


@pytest.mark.parametrize("compiled", [True, False])
def test_the_training_step_takes_it_and_moves_all_weights(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "lstm_library", lambda: None)
    torch.manual_seed(0)
    model = RNNModel("LSTM", 31, 400, 400, 2, 0.2, True).train()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ids = torch.randint(31, (4, 2))
    loss = DecoderLoss("bf16", into_grad=True)
    _, hidden = compute_gradients(model, loss, ids[:-1], ids[1:].reshape(-1), model.init_hidden(2))
    clipped_update(optimizer, gradient_norm(model.parameters()), 0.25)
    assert isinstance(hidden, tuple)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
