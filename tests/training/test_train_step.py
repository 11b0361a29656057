"""The whole step against the one that PyTorch's example takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training.loss import DecoderLoss, Precision
from lmbench.training.step import TrainStep, clipped_update, gradient_norm

WORDS, WIDTH, BATCH, BPTT = 97, 16, 4, 6
MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
SETTINGS = [(0.0, 0.0), (0.9, 0.0), (0.0, 1e-3)]  # momentum, weight decay


def build(kind: str, *, tied: bool = True) -> RNNModel:
    torch.manual_seed(3)
    return RNNModel(kind, WORDS, WIDTH, WIDTH, 2, 0.3, tied).train()


def text(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(WORDS, (steps * BPTT + 1, BATCH), generator=generator)
    starts = range(0, steps * BPTT, BPTT)
    return [(ids[s : s + BPTT], ids[s + 1 : s + 1 + BPTT].reshape(-1)) for s in starts]


def sgd(model: RNNModel, lr: float, extras: tuple[float, float]) -> torch.optim.SGD:
    momentum, weight_decay = extras
    return torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)


def plain_losses(
    model: RNNModel, steps: int, lr: float, clip: float, extras: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    torch.manual_seed(7)  # of the dropout
    optimizer = sgd(model, lr, extras)
    criterion, state, losses = nn.NLLLoss(), model.init_hidden(BATCH), []
    for input, target in text(steps):
        optimizer.zero_grad()
        output, state = model(input, detach(state))
        loss = criterion(torch.log_softmax(output.view(-1, WORDS), 1), target)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def our_losses(
    model: RNNModel,
    steps: int,
    lr: float,
    clip: float,
    extras: tuple[float, float] = (0.0, 0.0),
    precision: Precision = "fp32",
) -> list[float]:
    torch.manual_seed(7)
    optimizer = sgd(model, lr, extras)
    step = TrainStep(model, DecoderLoss(precision, into_grad=True), optimizer, clip=clip)
    state: Hidden = model.init_hidden(BATCH)
    losses = []
    for input, target in text(steps):
        done = step(input, target, state)
        state = done.hidden
        losses.append(done.loss.item())
    return losses


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_two_hundred_losses_and_the_weights_equal_the_plain_loops(kind: str, tied: bool) -> None:
    ours, theirs = build(kind, tied=tied), build(kind, tied=tied)
    expected = plain_losses(theirs, 200, lr=1.0, clip=0.25)
    assert our_losses(ours, 200, lr=1.0, clip=0.25) == pytest.approx(expected, abs=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("extras", SETTINGS)
def test_every_kind_of_sgd_moves_as_with_torchs_own_clipping(
    extras: tuple[float, float], clip: float
) -> None:
    expected = plain_losses(build("LSTM"), 20, 0.5, clip, extras)
    assert our_losses(build("LSTM"), 20, 0.5, clip, extras) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_bf16_trains_alike_and_keeps_weights_and_state_in_fp32(kind: str) -> None:
    model = build(kind)
    expected = plain_losses(build(kind), 20, lr=0.5, clip=0.25)
    losses = our_losses(model, 20, lr=0.5, clip=0.25, precision="bf16")
    assert losses == pytest.approx(expected, abs=2e-2)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_repeats_to_the_bit(precision: Precision) -> None:
    first, second = build("LSTM"), build("LSTM")
    losses = [our_losses(m, 5, 1.0, 0.25, precision=precision) for m in (first, second)]
    assert losses[0] == losses[1]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_norm_is_that_before_clipping() -> None:
    model = build("LSTM")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = DecoderLoss(into_grad=True)
    done = TrainStep(model, loss, optimizer, clip=1e-3)(*text(1)[0], model.init_hidden(BATCH))
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert done.norm.item() == pytest.approx(expected.norm().item(), rel=1e-5)
    assert done.norm.item() > 1e-3


def test_an_embedding_without_gradient_is_left_alone() -> None:
    model = build("LSTM", tied=False)
    model.encoder.weight.requires_grad_(False)
    before = model.encoder.weight.clone()
    our_losses(model, 2, lr=1.0, clip=0.25)
    assert torch.equal(model.encoder.weight, before)
    assert model.encoder.weight.grad is None


def test_clipping_leaves_a_small_gradient_as_it_is() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.0, 3.0, 4.0])
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    norm = gradient_norm([parameter])
    clipped_update(optimizer, norm, 10.0)
    assert norm.item() == 5.0
    assert parameter.tolist() == [0.0, -3.0, -4.0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_graph_trains_as_the_eager_step_does(precision: Precision) -> None:
    runs = []
    for graph in (False, True):
        torch.manual_seed(3)
        model = RNNModel("LSTM", WORDS, WIDTH, WIDTH, 2, 0.0, True).cuda().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
        loss = DecoderLoss(precision, into_grad=True)
        step = TrainStep(model, loss, optimizer, clip=0.25, graph=graph)
        state: Hidden = model.init_hidden(BATCH)
        losses = []
        windows = text(8)
        short = (windows[4][0][:3], windows[4][1][: 3 * BATCH])  # falls out of the graph
        for input, target in [*windows[:4], short, *windows[5:]]:
            done = step(input.cuda(), target.cuda(), state)
            state = done.hidden
            losses.append(done.loss.item())
        runs.append(losses)
    assert runs[1] == pytest.approx(runs[0], abs=1e-3)
