"""The windows that are replayed from a captured graph, and those that are not."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from lmbench.distiller.quantization import modular_copy
from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training.cuda_graph import GraphedGradients, GraphedUpdate
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import _can_replay
from lmbench.training.precision import Precision
from lmbench.training.step import (
    clipped_update,
    compute_gradients,
    gradient_norm,
    run_layers,
)

WORDS, WIDTH, BATCH = 31, 8, 3
# As a run sees them that is resumed at an epoch's last, short window.
LENGTHS = (2, 6, 6, 2, 6)


def build(device: str = "cpu", dropout: float = 0.0) -> RNNModel:
    torch.manual_seed(3)
    return RNNModel("LSTM", WORDS, WIDTH, WIDTH, 2, dropout, True).to(device).train()


def windows(device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randint(WORDS, (length + 1, BATCH), generator=generator) for length in LENGTHS]
    return [(ids[:-1].to(device), ids[1:].flatten().to(device)) for ids in drawn]


class Recorded(GraphedGradients):
    """On the CPU: a "graph" that computes anew, from the buffers that a real one would read."""

    def __init__(self, model: RNNModel) -> None:
        super().__init__(compute_gradients, model, DecoderLoss(into_grad=True))
        self.captured: list[int] = []
        self.replays = 0

    def _capture(self, input: Tensor, target: Tensor, hidden: Hidden) -> None:
        self.captured.append(len(input))
        self._input, self._target = input.clone(), target.clone()
        assert isinstance(hidden, tuple)
        self._before = tuple(state.clone() for state in hidden)
        self._addresses = self._current_addresses()
        self._graph = self  # pyright: ignore[reportAttributeAccessIssue]

    def replay(self) -> None:
        self.replays += 1
        before = self._before[0], self._before[1]
        self._value, after = self._eagerly(self._captured_loss, self._input, self._target, before)
        self._after = tuple(after)
        self._gradients = [parameter.grad for parameter in self._parameters]


def check(graphed: GraphedGradients, model: RNNModel, device: str, tolerance: float) -> None:
    """Loss, state and gradients of every window are those of `compute_gradients`."""
    twin, loss = build(device, model.drop.p), DecoderLoss(graphed._loss.precision)
    state = twin_state = model.init_hidden(BATCH)
    for input, target in windows(device):
        twin.zero_grad(set_to_none=True)
        generators = torch.get_rng_state(), torch.cuda.get_rng_state_all()
        wanted, twin_state = compute_gradients(twin, loss, input, target, twin_state)
        # Both draw the same masks.
        torch.set_rng_state(generators[0])
        torch.cuda.set_rng_state_all(generators[1])
        found, state = graphed(input, target, state)
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(state, twin_state, atol=tolerance, rtol=tolerance)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were made the current one."""
    made: list[torch.device] = []

    def device(wanted: torch.device) -> nullcontext[None]:
        made.append(wanted)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", device)
    return made


def test_a_run_resumed_at_a_short_window_replays_the_full_ones(cards: list[torch.device]) -> None:
    model = build()
    graphed = Recorded(model)
    check(graphed, model, "cpu", 1e-6)
    assert graphed.captured == [2, 6]
    # The short window that comes once the graph is of full ones is computed outside it.
    assert graphed.replays == 4
    assert cards == [torch.device("cpu")] * 2


def test_a_parameter_that_has_moved_is_captured_anew(cards: list[torch.device]) -> None:
    model = build()
    graphed = Recorded(model)
    (input, target), state = windows()[1], model.init_hidden(BATCH)
    graphed(input, target, state)
    graphed(input, target, state)
    assert graphed.captured == [6]
    model.decoder.bias.data = model.decoder.bias.data.clone()
    graphed(input, target, state)
    assert graphed.captured == [6, 6]
    assert len(cards) == 2


class RecordedUpdate(GraphedUpdate):
    """On the CPU, as `Recorded`."""

    captures = replays = 0

    def _capture(self) -> None:
        self.captures += 1
        self._graph = self  # pyright: ignore[reportAttributeAccessIssue]

    def replay(self) -> None:
        self.replays += 1
        self._norm = self._compute()


def check_updates(
    kind: type[GraphedUpdate], device: str, clip: float, decay: float, tolerance: float
) -> GraphedUpdate:
    """Eleven updates, with gradients that move twice and a rate that falls, as `clipped_update`."""
    model, twin = build(device), build(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, weight_decay=decay)
    other = torch.optim.SGD(twin.parameters(), lr=2.0, weight_decay=decay)
    update = kind(optimizer, clip)
    generator = torch.Generator().manual_seed(9)
    still = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(11):
        if step == 6:
            optimizer.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.5
        for place, ours, theirs in zip(still, model.parameters(), twin.parameters(), strict=True):
            drawn = torch.randn(place.shape, generator=generator).to(device)
            ours.grad = drawn.clone() if step in (0, 7) else place.copy_(drawn)
            theirs.grad = drawn
        wanted = gradient_norm(twin.parameters())
        clipped_update(other, wanted, clip)
        torch.testing.assert_close(update(), wanted, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    return update


@pytest.mark.parametrize("clip", [0.25, 0.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_are_replayed_where_the_gradients_lie_still(
    cards: list[torch.device], clip: float, decay: float
) -> None:
    update = check_updates(RecordedUpdate, "cpu", clip, decay, 1e-6)
    assert isinstance(update, RecordedUpdate)
    # Steps 1 to 3 are the first of their place, 7 is elsewhere.
    assert (update.captures, update.replays) == (1, 6)
    assert cards == [torch.device("cpu")]


def test_only_plain_sgd_on_a_card_is_replayed() -> None:
    parameters = list(build().parameters())
    assert not GraphedUpdate.fits(torch.optim.SGD(parameters, lr=1.0))
    moved = [torch.nn.Parameter(p.detach().to("meta")) for p in parameters]
    assert not GraphedUpdate.fits(torch.optim.SGD([*parameters, *moved], lr=1.0))


class OnCard(Tensor):
    """A tensor that says so."""

    is_cuda = True  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]


@pytest.mark.parametrize("dropout, exact, whole", [
    (0.3, False, False), (0.3, True, True), (0.0, False, True),
])  # fmt: skip
def test_cudnn_drops_nothing_between_layers(
    dropout: float, exact: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own random state would be in no checkpoint, and could not begin within a capture."""
    model, calls = build("cpu", dropout), []
    forward = model.rnn.forward
    monkeypatch.setattr(model.rnn, "forward", lambda *a: calls.append(1) or forward(*a))
    embedded = torch.randn(5, BATCH, WIDTH).as_subclass(OnCard)
    output, _ = run_layers(model.rnn, embedded, model.init_hidden(BATCH), None, exact=exact)
    assert output.shape == (5, BATCH, WIDTH)
    assert bool(calls) == whole


needs_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.cuda
@needs_a_card
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 2e-2)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_real_graph_gives_what_the_eager_step_does(
    precision: Precision, tolerance: float, dropout: float
) -> None:
    model = build("cuda", dropout)
    loss = DecoderLoss(precision, into_grad=True)
    check(GraphedGradients(compute_gradients, model, loss), model, "cuda", tolerance)


@pytest.mark.cuda
@needs_a_card
@pytest.mark.parametrize("clip", [0.25, 0.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_real_graph_updates_as_the_eager_step_does(clip: float, decay: float) -> None:
    check_updates(GraphedUpdate, "cuda", clip, decay, 1e-5)
    assert GraphedUpdate.fits(torch.optim.SGD(build("cuda").parameters(), lr=1.0))


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_card_that_is_not_the_current_one_is_captured_on() -> None:
    # torch's own stream for captures is made on the first card here.
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros(1, device="cuda:0").add_(1)
    model = build("cuda:1")
    loss = DecoderLoss("fp32", into_grad=True)
    check(GraphedGradients(compute_gradients, model, loss), model, "cuda:1", 1e-4)
    assert torch.cuda.current_device() == 0


def test_layers_that_a_quantizer_has_taken_apart_are_not_captured() -> None:
    model = build()
    assert _can_replay(model)
    apart = modular_copy(model)
    assert isinstance(apart, RNNModel)
    assert not _can_replay(apart)
