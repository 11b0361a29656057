"""The whole step against the one that PyTorch's example takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from schedules import policy, quantizing
from torch import Tensor, nn

from lmbench.config import TrainConfig
from lmbench.corpus.batches import windows
from lmbench.distiller import dict_config
from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.session.events import Event, Step
from lmbench.training.loss import DecoderLoss, Precision
from lmbench.training.objective import Adjust, CrossEntropy, ExactCrossEntropy, Objective
from lmbench.training.run_checkpoints import Position
from lmbench.training.step import clipped_update, gradient_norm
from lmbench.training.trainer import Splits, Trainer

WORDS, WIDTH, BATCH, BPTT = 97, 16, 4, 6
MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
SETTINGS = [(0.0, 0.0), (0.9, 0.0), (0.0, 1e-3)]  # momentum, weight decay


def build(kind: str, *, tied: bool = True, projection: bool = False) -> RNNModel:
    torch.manual_seed(3)
    return RNNModel(kind, WORDS, WIDTH, WIDTH, 2, 0.3, tied, projection).train()


def text(rows: int) -> Tensor:
    return torch.randint(WORDS, (rows + 1, BATCH), generator=torch.Generator().manual_seed(5))


def sgd(model: RNNModel, lr: float, extras: tuple[float, float]) -> torch.optim.SGD:
    momentum, weight_decay = extras
    return torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)


def plain_losses(
    model: RNNModel, steps: int, lr: float, clip: float, extras: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    torch.manual_seed(7)  # of the dropout
    optimizer = sgd(model, lr, extras)
    criterion, state, found = nn.NLLLoss(), model.init_hidden(BATCH), []
    for input, target in windows(text(steps * BPTT), BPTT):
        optimizer.zero_grad()
        output, state = model(input, detach(state))
        loss = criterion(torch.log_softmax(output.view(-1, WORDS), 1), target)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        found.append(loss.item())
    return found


def our_losses(
    model: RNNModel,
    steps: int,
    lr: float,
    clip: float,
    extras: tuple[float, float] = (0.0, 0.0),
    precision: Precision = "fp32",
) -> list[float]:
    objective = CrossEntropy(DecoderLoss(precision, into_grad=True))
    one = trainer(model, text(steps * BPTT), sgd(model, lr, extras), objective, clip)
    torch.manual_seed(7)
    return losses(one)


def trainer(
    model: RNNModel,
    source: Tensor,
    optimizer: torch.optim.SGD,
    objective: Objective,
    clip: float,
    *,
    schedule: dict[str, Any] | None = None,
    emit: Callable[[Event], None] = lambda event: None,
    folder: Path = Path("nowhere"),
) -> Trainer:
    return Trainer(
        model,
        Splits(source, source, source),
        TrainConfig(batch_size=BATCH, bptt=BPTT, clip=clip, epochs=1),
        objective,
        folder,
        emit=emit,
        control=lambda: None,
        log_offset=lambda: 0,
        optimizer=optimizer,
        scheduler=dict_config(model, optimizer, schedule) if schedule else None,
        log=lambda line: None,
    )


def losses(one: Trainer) -> list[float]:
    """Of an epoch's windows, nothing validated or written."""
    one.begin_epoch()
    return [one.batch().item() for _ in range(one.batches_per_epoch)]


@pytest.mark.parametrize(
    "kind, tied, projection",
    [
        pytest.param(kind, *shape, marks=pytest.mark.slow if of_kind and of_shape else ())
        for of_kind, kind in enumerate(MODELS)
        for of_shape, shape in enumerate(((True, False), (False, False), (True, True)))
    ],
)
def test_two_hundred_losses_and_the_weights_equal_the_plain_loops(
    kind: str, tied: bool, projection: bool
) -> None:
    ours, theirs = (build(kind, tied=tied, projection=projection) for _ in range(2))
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


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_bf16_trains_alike_and_keeps_weights_and_state_in_fp32(kind: str, projection: bool) -> None:
    model = build(kind, projection=projection)
    expected = plain_losses(build(kind, projection=projection), 20, lr=0.5, clip=0.25)
    found = our_losses(model, 20, lr=0.5, clip=0.25, precision="bf16")
    assert found == pytest.approx(expected, abs=2e-2)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_repeats_to_the_bit(precision: Precision) -> None:
    first, second = build("LSTM"), build("LSTM")
    found = [our_losses(m, 5, 1.0, 0.25, precision=precision) for m in (first, second)]
    assert found[0] == found[1]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_norm_is_that_before_clipping(tmp_path: Path) -> None:
    model, events = build("LSTM"), list[Event]()
    one = trainer(
        model,
        text(BPTT),
        torch.optim.SGD(model.parameters(), lr=1e-9),
        CrossEntropy(DecoderLoss(into_grad=True)),
        1e-3,
        emit=events.append,
        folder=tmp_path,
    )
    one.run()
    (step,) = [event for event in events if isinstance(event, Step)]
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert step.grad_norm == pytest.approx(expected.norm().item(), rel=1e-5)
    assert step.grad_norm > 1e-3


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


@pytest.mark.parametrize("kind", ["plain", "transposed", "part", "bf16"])
@pytest.mark.parametrize("clip", [0.0, 0.25, 1e6])
def test_an_update_is_that_of_torch_and_is_seen_as_a_change(clip: float, kind: str) -> None:
    start, gradient = torch.randn(5, 80), torch.randn(5, 40)
    if kind == "transposed":
        gradient = torch.randn(40, 5).t()
    if kind == "bf16":
        start, gradient = start.bfloat16(), gradient.bfloat16()
    wholes = [start, start.clone()]
    weights = [nn.Parameter(w[:, :40] if kind == "part" else w[:, :40].clone()) for w in wholes]
    if kind == "part":
        gradient = torch.randn(5, 80)[:, :40]
    ours, theirs = (torch.optim.SGD([w], lr=0.7, weight_decay=0.01) for w in weights)
    weights[0].grad, weights[1].grad = gradient, gradient.clone()
    before = weights[0]._version
    clipped_update(ours, gradient_norm(weights[:1]), clip)
    if clip:
        nn.utils.clip_grad_norm_(weights[1:], clip)
    theirs.step()
    bound = 1e-2 if kind == "bf16" else 1e-6
    assert torch.allclose(weights[0], weights[1], rtol=bound, atol=bound)
    assert torch.equal(wholes[0][:, 40:], wholes[1][:, 40:])
    assert weights[0]._version > before


class Eager(CrossEntropy):
    """Never replays a graph: a loss that is adjusted cannot be captured."""

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        return super().gradients(model, input, target, hidden, adjust or (lambda loss: loss))


PRUNING: dict[str, Any] = {
    "version": 1,
    "pruners": {
        "p": {
            "class": "AutomatedGradualPruner",
            "initial_sparsity": 0.3,
            "final_sparsity": 0.8,
            "weights": ["rnn.weight_hh_l0", "encoder.weight"],
        }
    },
    "policies": [policy("pruner", "p", 0, 2)],
}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("schedule", [None, PRUNING], ids=["plain", "pruned"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_graph_trains_as_the_eager_step_does(
    precision: Precision, schedule: dict[str, Any] | None
) -> None:
    runs = []
    for kind in (Eager, CrossEntropy):
        torch.manual_seed(3)
        model = RNNModel("LSTM", WORDS, WIDTH, WIDTH, 2, 0.0, True).cuda().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
        source = text(8 * BPTT + 3).cuda()  # the last window is short and falls out of the graph
        objective = kind(DecoderLoss(precision, into_grad=True))
        one = trainer(model, source, optimizer, objective, 0.25, schedule=schedule)
        found = losses(one)
        one.position = Position(epoch=1)
        runs.append([*found, *losses(one)])
        if schedule:
            zeros = [int((p == 0).sum()) / p.numel() for p in (model.encoder.weight,)]
            assert zeros == pytest.approx([0.8], abs=0.01)
    assert runs[1] == pytest.approx(runs[0], abs=1e-3)


class Watched(CrossEntropy):
    """Notes whether a loss was to be adjusted, which takes the graph away."""

    def __init__(self) -> None:
        super().__init__(DecoderLoss(into_grad=True))
        self.adjusted: list[bool] = []

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        self.adjusted.append(adjust is not None)
        return super().gradients(model, input, target, hidden, adjust)


REGULARIZING = {
    "version": 1,
    "regularizers": {"r": {"class": "L1Regularizer", "reg_regims": {"rnn.weight_hh_l0": 0.01}}},
    "policies": [policy("regularizer", "r", 1, 2)],
}
MASKING_GRADIENTS = PRUNING | {"policies": [policy("pruner", "p", 1, 2, mask_gradients=True)]}


@pytest.mark.parametrize(
    "schedule, adjusted",
    [(None, (False, False)), (PRUNING, (False, False)), (REGULARIZING, (False, True)),
     (MASKING_GRADIENTS, (False, True))],
    ids=["none", "pruning", "regularizer", "masked gradients"],
)  # fmt: skip
def test_only_what_changes_the_backward_pass_takes_the_graph_away(
    schedule: dict[str, Any] | None, adjusted: tuple[bool, bool]
) -> None:
    model, objective = build("LSTM"), Watched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    one = trainer(model, text(2 * BPTT), optimizer, objective, 0.25, schedule=schedule)
    losses(one)
    assert objective.adjusted == [adjusted[0]] * 2
    one.position = Position(epoch=1)
    losses(one)
    assert objective.adjusted[2:] == [adjusted[1]] * 2


def test_a_policy_that_masks_gradients_trains_the_pruned_model() -> None:
    """`PRUNING` masks the embedding, whose gradient the fused loss would leave past the hook."""
    runs = []
    for schedule in (PRUNING, MASKING_GRADIENTS):
        early = {**schedule, "policies": [{**p, "starting_epoch": 0} for p in schedule["policies"]]}
        model = build("LSTM")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        objective = CrossEntropy(DecoderLoss(into_grad=True))
        one = trainer(model, text(4 * BPTT), optimizer, objective, 0.25, schedule=early)
        torch.manual_seed(7)
        runs.append(losses(one))
        assert one.model.encoder.weight.grad is not None
    # The masks of the gradients come before the norm in both.
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)


def test_masked_gradients_are_computed_in_bf16_where_the_rest_of_the_run_is() -> None:
    """The fused step and the one with hooks, each in both arithmetics, on the same window."""
    masking = [{**p, "starting_epoch": 0} for p in MASKING_GRADIENTS["policies"]]
    found: dict[str, list[Tensor]] = {}
    for precision in ("fp32", "bf16"):
        model = build("LSTM")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        objective = CrossEntropy(DecoderLoss(precision, into_grad=True))
        schedule = {**MASKING_GRADIENTS, "policies": masking}
        one = trainer(model, text(2 * BPTT), optimizer, objective, 0.0, schedule=schedule)
        torch.manual_seed(7)
        losses(one)
        assert isinstance(one._hidden, tuple)
        assert all(state.dtype == torch.float32 for state in one._hidden)
        found[precision] = [p.grad for p in model.parameters() if p.grad is not None]
    for full, half in zip(found["fp32"], found["bf16"], strict=True):
        off = ((full - half).norm() / full.norm()).item()
        assert 1e-4 < off < 5e-2


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "quantizer", ["QuantAwareTrainRangeLinearQuantizer", "DorefaQuantizer", "PACTQuantizer"]
)
def test_training_on_quantized_images_gives_the_plain_losses_gradients(
    quantizer: str, tied: bool
) -> None:
    """The images of the second window are of weights that the first one moved."""
    runs: list[list[float]] = []
    grads: list[dict[str, Tensor]] = []
    for objective in (CrossEntropy(DecoderLoss(into_grad=True)), ExactCrossEntropy()):
        model = build("LSTM", tied=tied)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        schedule = quantizing(1, quantizer, bits_weights=4, bits_activations=8)
        one = trainer(model, text(4 * BPTT), optimizer, objective, 0.25, schedule=schedule)
        torch.manual_seed(7)
        runs.append(losses(one))
        grads.append({n: p.grad for n, p in one.model.named_parameters() if p.grad is not None})
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)
    assert runs[0][0] != runs[0][1]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "precision, near, apart", [("fp32", 1e-5, 0.0), ("bf16", 2e-2, 1e-4)], ids=["fp32", "bf16"]
)
def test_a_step_in_codes_has_the_gradients_of_plain_torch_on_the_images(
    precision: Precision, near: float, apart: float, tied: bool, learned: bool
) -> None:
    """Wide enough for the compiled kernels, where there are any. Nothing is dropped: torch draws
    masks of a step at a time, and the kernels' caller those of a window."""
    grads: list[dict[str, Tensor]] = []
    for objective in (CrossEntropy(DecoderLoss(precision, into_grad=True)), ExactCrossEntropy()):
        torch.manual_seed(3)
        model = RNNModel("LSTM", WORDS, 64, 64, 2, 0.0, tied).train()
        codes: dict[str, Any] = {"rounding": "codes", "bits_weights": 3, "bits_activations": None}
        schedule = quantizing(1, **codes, learned_scales=learned)
        scheduler = dict_config(model, sgd(model, 0.5, (0.0, 0.0)), schedule)
        assert scheduler.quantizer is not None
        assert scheduler.quantizer.exact_in_bf16
        input = torch.randint(WORDS, (BPTT, 8), generator=torch.Generator().manual_seed(1))
        target = torch.randint(WORDS, (BPTT * 8,), generator=torch.Generator().manual_seed(2))
        objective.gradients(model, input, target, model.init_hidden(8), None)
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert ("encoder.code_learned" in grads[0]) is learned
    for name, grad in grads[1].items():
        off = (grads[0][name] - grad).norm() / grad.norm()
        assert apart <= off <= near, name
