"""The LSTM layer on AMX against torch's in double precision."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lmbench.training import lstm, native
from lmbench.training.native import lstm as native_lstm
from lmbench.training.native import process
from lmbench.training.precision import Precision

LIBRARY = native.lstm_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no AMX or no compiler here")

# Of the norm of an output, a state or a gradient.
ERRORS: dict[Precision, float] = {"fp32": 1e-6, "bf16": 1e-2}
BOTH = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def layer(precision: Precision) -> lstm.Layer:
    assert LIBRARY is not None
    return partial(native.lstm_layer, LIBRARY, precision)


def run(
    steps: int, batch: int, inputs: int, width: int, layers: int, precision: Precision
) -> tuple[list[Tensor], list[Tensor]]:
    """Output, last states, and all gradients: ours, and in double precision."""
    generator = torch.Generator().manual_seed(steps + batch + inputs + width)
    torch.manual_seed(width)
    rnn = nn.LSTM(inputs, width, layers)
    exact = nn.LSTM(inputs, width, layers).double()
    exact.load_state_dict({name: w.double() for name, w in rnn.state_dict().items()})
    x = torch.randn(steps, batch, inputs, generator=generator)
    states = [torch.randn(layers, batch, width, generator=generator) * 0.3 for _ in range(2)]
    above = torch.randn(steps, batch, width, generator=generator)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    output, last = lstm.forward(layer(precision), rnn, ours, (states[0], states[1]))
    wanted, wanted_last = exact(theirs, tuple(state.double() for state in states))
    gradients = torch.autograd.grad(output, [ours, *rnn.parameters()], above)
    expected = torch.autograd.grad(wanted, [theirs, *exact.parameters()], above.double())
    return [output, *last, *gradients], [wanted, *wanted_last, *expected]


@settings(max_examples=40)
@given(
    steps=st.integers(1, 6),
    batch=st.integers(1, 40),
    inputs=st.integers(1, 80),
    # Of a few units the sums cancel out to nothing, and the errors with them do not.
    width=st.integers(16, 80),
    layers=st.integers(1, 2),
    precision=st.sampled_from(["fp32", "bf16"]),
    threads=st.integers(1, 3),
)
def test_outputs_states_and_gradients_are_right_at_any_size(
    steps: int,
    batch: int,
    inputs: int,
    width: int,
    layers: int,
    precision: Precision,
    threads: int,
) -> None:
    # Nor of a gradient of a few numbers, each a sum over all gates.
    assume(steps * batch * inputs >= 16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, wanted = run(steps, batch, inputs, width, layers, precision)
    finally:
        torch.set_num_threads(before)
    assert all(t.dtype == torch.float32 for t in ours)
    assert max(map(relative, ours, wanted)) < ERRORS[precision]


@BOTH
def test_at_the_default_size_it_is_as_exact(precision):
    assert max(map(relative, *run(35, 20, 200, 200, 2, precision))) < ERRORS[precision]


@pytest.mark.parametrize("spread", [1.0, 0.01, 1e-4])
def test_small_sums_are_as_exact_as_torchs(spread: float) -> None:
    """As early in a training: nearly all of a tangent's argument is in its small bits."""
    torch.manual_seed(7)
    rnn = nn.LSTM(90, 90, 2)
    for bias in (w for name, w in rnn.named_parameters() if "bias" in name):
        bias.data *= spread
    exact = nn.LSTM(90, 90, 2).double()
    exact.load_state_dict({name: w.double() for name, w in rnn.state_dict().items()})
    x, above = torch.randn(9, 20, 90) * spread, torch.randn(9, 20, 90)
    none = torch.zeros(2, 20, 90)

    def found(rnn: nn.LSTM, results: tuple[Tensor, lstm.State], above: Tensor) -> list[Tensor]:
        output, last = results
        return [output, *last, *torch.autograd.grad(output, list(rnn.parameters()), above)]

    wanted = found(exact, exact(x.double(), (none.double(), none.double())), above.double())
    theirs = found(rnn, rnn(x, (none, none)), above)
    ours = found(rnn, lstm.forward(layer("fp32"), rnn, x, (none, none)), above)
    for a, b, c in zip(ours, theirs, wanted, strict=True):
        assert relative(a, c) < max(1.5 * relative(b, c), 4e-7)


def test_gates_are_full_where_their_sums_are_huge() -> None:
    rnn = nn.LSTM(64, 64)
    state = torch.zeros(1, 2, 64), torch.zeros(1, 2, 64)
    signs = torch.ones(4, 64)
    signs[2] = torch.tensor([1.0, -1.0]).repeat(32)
    for value in (30.0, 1e4, 1e8, float("inf")):
        rnn.bias_ih_l0.data = value * signs.flatten()
        output, _ = lstm.forward(layer("fp32"), rnn, torch.zeros(3, 2, 64), state)
        torch.testing.assert_close(output, rnn(torch.zeros(3, 2, 64), state)[0])


@BOTH
def test_the_same_operands_give_the_same_bits_whichever_threads_there_are(monkeypatch, precision):
    once, _ = run(7, 20, 70, 90, 1, precision)
    again, _ = run(7, 20, 70, 90, 1, precision)
    monkeypatch.setattr(native_lstm, "openmp", lambda: None)
    own, _ = run(7, 20, 70, 90, 1, precision)
    assert all(map(torch.equal, once, again))
    assert all(map(torch.equal, once, own))


def test_operands_that_do_not_lie_one_after_another_are_taken_too():
    torch.manual_seed(1)
    rnn = nn.LSTM(70, 70)
    x, above = torch.randn(5, 4, 70), torch.randn(5, 4, 70)
    state = torch.randn(1, 70, 4).transpose(1, 2), torch.randn(1, 70, 4).transpose(1, 2)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    wanted, _ = rnn(x, (state[0].contiguous(), state[1].contiguous()))
    output, _ = lstm.forward(layer("fp32"), rnn, turned, state)
    assert relative(output, wanted) < 1e-6
    expected = torch.autograd.grad(wanted, list(rnn.parameters()), above)
    found = torch.autograd.grad(
        output, list(rnn.parameters()), above.transpose(0, 1).contiguous().transpose(0, 1)
    )
    assert max(map(relative, found, expected)) < 2e-6


def test_gates_that_became_their_gradients_are_not_used_again():
    rnn = nn.LSTM(64, 64)
    x = torch.randn(3, 2, 64, requires_grad=True)
    output, _ = lstm.forward(layer("fp32"), rnn, x, (torch.zeros(1, 2, 64), torch.zeros(1, 2, 64)))
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="works once"):
        output.sum().backward()


def test_what_is_no_number_stays_none():
    rnn = nn.LSTM(64, 64)
    x = torch.randn(3, 2, 64)
    x[1, 1, 5] = float("nan")
    state = torch.zeros(1, 2, 64), torch.zeros(1, 2, 64)
    for precision in ERRORS:
        output, _ = lstm.forward(layer(precision), rnn, x, state)
        assert torch.isnan(output[1:, 1]).all()
        assert torch.isfinite(output[:, 0]).all()


def test_what_is_not_of_the_layers_shape_or_type_is_refused():
    library, width = LIBRARY, 8
    assert library is not None
    x, state = torch.zeros(2, 3, 5), torch.zeros(3, width)
    good = [
        state,
        state,
        torch.zeros(4 * width, 5),
        torch.zeros(4 * width, width),
        *2 * [torch.zeros(4 * width)],
    ]

    def call(x: Tensor, given: list[Tensor]) -> None:
        h, c, w_ih, w_hh, b_ih, b_hh = given
        native.lstm_layer(library, "fp32", x, (h, c), (w_ih, w_hh, b_ih, b_hh))

    call(x, good)
    for at in (0, 1, 2, 4, 5):
        with pytest.raises(ValueError, match="state and weights of"):
            call(x, [*good[:at], good[at][1:], *good[at + 1 :]])
    with pytest.raises(ValueError, match="state and weights of"):
        call(x[..., 1:], good)
    for at in range(6):
        with pytest.raises(TypeError, match="fp32 on the CPU"):
            call(x, [*good[:at], good[at].bfloat16(), *good[at + 1 :]])
    with pytest.raises(TypeError, match="fp32 on the CPU"):
        call(x.bfloat16(), good)


def test_it_is_taken_for_lstms_wide_enough(monkeypatch):
    x = torch.zeros(1, 8, 64)
    for precision in ERRORS:
        assert lstm.layer_for(nn.LSTM(64, 64), x, precision)
        assert not lstm.layer_for(nn.LSTM(64, 32), x, precision)
    monkeypatch.setattr(process, "_allowed", "torch")
    assert not lstm.layer_for(nn.LSTM(64, 64), x, "fp32")


def test_with_few_texts_torchs_layer_is_as_fast_in_fp32():
    few = torch.zeros(35, 7, 64)
    assert not lstm.layer_for(nn.LSTM(64, 64), few, "fp32")
    assert lstm.layer_for(nn.LSTM(64, 64), few, "bf16")
