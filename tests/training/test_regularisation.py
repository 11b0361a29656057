"""AWD-LSTM's regularisation against the paper's formulas in plain torch, with the same masks."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from schedules import quantizing
from torch import Tensor, nn

from lmbench.distiller import CompressionScheduler, dict_config
from lmbench.distiller.pruning.masks import parameters_by_name
from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training import lstm
from lmbench.training import objective as objective_module
from lmbench.training.distillation import Distillation
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import Adjust, CrossEntropy, ExactCrossEntropy, Objective
from lmbench.training.precision import Precision
from lmbench.training.regularisation import OFF, Regularisation
from lmbench.training.step import run_layers

WORDS, WIDTH, STEPS, TEXTS, DROPOUT = 41, 12, 6, 3, 0.3
MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
ALL = Regularisation(0.4, 0.25, 0.35, dropoute=0.2, wdrop=0.5, alpha=2.0, beta=1.0)
EACH = [
    pytest.param(Regularisation(dropouti=0.4), id="dropouti"),
    pytest.param(Regularisation(dropouth=0.4), id="dropouth"),
    pytest.param(Regularisation(dropouto=0.4), id="dropouto"),
    pytest.param(Regularisation(dropoute=0.4), id="dropoute"),
    pytest.param(Regularisation(wdrop=0.4), id="wdrop"),
    pytest.param(Regularisation(alpha=2.0), id="alpha"),
    pytest.param(Regularisation(beta=1.0), id="beta"),
    pytest.param(replace(OFF, dropouti=0.0, dropouth=0.0, dropouto=0.0), id="nothing dropped"),
    pytest.param(ALL, id="all"),
]


def build(kind: str = "LSTM", *, tied: bool = True, layers: int = 2) -> RNNModel:
    torch.manual_seed(3)
    return RNNModel(kind, WORDS, WIDTH, WIDTH, layers, DROPOUT, tied).train()


def text(steps: int = STEPS) -> tuple[Tensor, Tensor]:
    ids = torch.randint(WORDS, (steps + 1, TEXTS), generator=torch.Generator().manual_seed(5))
    return ids[:-1], ids[1:].reshape(-1)


def dropped(x: Tensor, p: float | None) -> Tensor:
    """x [T, B, N] under one mask for all steps; None: under one of each step's own."""
    if p is None:
        return F.dropout(x, DROPOUT)
    return x * torch.empty(1, *x.shape[1:]).bernoulli_(1 - p) / (1 - p) if p else x


def cell(kind: str, x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]) -> tuple[Any, Any]:
    """One step, as torch documents its layers."""
    w_ih, w_hh, b_ih, b_hh = weights
    from_x, from_h = x @ w_ih.T + b_ih, h @ w_hh.T + b_hh
    if kind == "LSTM":
        i, f, g, o = (from_x + from_h).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if kind == "GRU":
        (r, z, n), (hr, hz, hn) = from_x.chunk(3, 1), from_h.chunk(3, 1)
        r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
        return (1 - z) * (n + r * hn).tanh() + z * h, c
    squash = torch.tanh if kind == "RNN_TANH" else torch.relu
    return squash(from_x + from_h), c


def plain(
    model: RNNModel, input: Tensor, target: Tensor, r: Regularisation
) -> tuple[Tensor, Tensor]:
    """What is minimised and the cross-entropy in it, each mask drawn where the paper has it."""
    weight = model.encoder.weight
    if r.dropoute:
        weight = weight * torch.empty(WORDS, 1).bernoulli_(1 - r.dropoute) / (1 - r.dropoute)
    output = dropped(weight[input], r.dropouti)
    for layer in range(model.nlayers):
        if layer:
            output = dropped(output, r.dropouth)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(model.rnn, f"{name}_l{layer}") for name in names]
        if r.wdrop:
            mask = torch.empty_like(weights[1]).bernoulli_(1 - r.wdrop)
            weights[1] = weights[1] * mask / (1 - r.wdrop)
        h = c = torch.zeros(TEXTS, WIDTH)
        steps = []
        for x in output:
            h, c = cell(model.rnn_type, x, h, c, weights)
            steps.append(h)
        output = torch.stack(steps)
    seen = dropped(output, r.dropouto)
    logits = seen.flatten(0, 1) @ model.decoder.weight.T + model.decoder.bias
    entropy = F.cross_entropy(logits, target)
    whole = entropy + r.alpha * (seen**2).mean()
    if len(output) > 1:
        whole = whole + r.beta * ((output[1:] - output[:-1]) ** 2).mean()
    return whole, entropy


def wanted(model: RNNModel, r: Regularisation, steps: int = STEPS) -> tuple[Tensor, list[Tensor]]:
    """The cross-entropy of a window, and autograd's gradients of the plain formula."""
    twin = copy.deepcopy(model)
    torch.manual_seed(11)
    whole, entropy = plain(twin, *text(steps), r)
    whole.backward()
    return entropy.detach(), gradients(twin)


def gradients(model: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters()]
    return [gradient for gradient in found if gradient is not None]


def found(
    model: RNNModel, objective: Objective, steps: int = STEPS, adjust: Adjust | None = None
) -> tuple[Tensor, list[Tensor], Hidden]:
    model.zero_grad(set_to_none=True)
    objective.start_epoch(TEXTS)
    torch.manual_seed(11)
    entropy, state = objective.gradients(model, *text(steps), model.init_hidden(TEXTS), adjust)
    return entropy, gradients(model), state


def fused(r: Regularisation, precision: Precision = "fp32") -> CrossEntropy:
    return CrossEntropy(DecoderLoss(precision, into_grad=True), r)


@pytest.mark.parametrize("exact", [False, True], ids=["fused", "exact"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("regularisation", EACH)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    regularisation: Regularisation, kind: str, exact: bool
) -> None:
    # Between the layers torch's own draw the masks of --dropout in an order of their own.
    layers = 2 if regularisation.inside_layers else 1
    for tied in (True, False):
        model = build(kind, tied=tied, layers=layers)
        entropy, expected = wanted(model, regularisation)
        objective = ExactCrossEntropy(regularisation) if exact else fused(regularisation)
        ours, theirs, _ = found(model, objective)
        torch.testing.assert_close(ours, entropy, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-6)


def test_with_all_off_a_window_is_what_it_was_to_the_bit() -> None:
    """The layers whole, and the model's own dropout in the order of its forward pass."""
    for kind in MODELS:
        model = build(kind)
        twin = copy.deepcopy(model)
        torch.manual_seed(11)
        input, target = text()
        logits, state = twin(input, twin.init_hidden(TEXTS))
        entropy = F.nll_loss(F.log_softmax(logits.flatten(0, 1), dim=1), target)
        entropy.backward()
        ours, theirs, after = found(model, ExactCrossEntropy())
        assert torch.equal(ours, entropy)
        assert all(map(torch.equal, theirs, gradients(twin)))
        assert all(map(torch.equal, after, state))


def test_a_window_of_one_word_has_nothing_that_changes_in_time() -> None:
    model = build(layers=1)
    entropy, expected = wanted(model, ALL, steps=1)
    ours, theirs, _ = found(model, fused(ALL), steps=1)
    torch.testing.assert_close(ours, entropy)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_the_state_goes_on_in_the_form_that_the_next_window_takes(kind: str) -> None:
    model = build(kind)
    _, _, state = found(model, fused(ALL))
    before = model.init_hidden(TEXTS)
    shapes = [part.shape for part in (before if isinstance(before, tuple) else (before,))]
    assert [part.shape for part in (state if isinstance(state, tuple) else (state,))] == shapes
    again, _ = fused(ALL).gradients(model.zero_grad() or model, *text(), state, None)
    assert torch.isfinite(again)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_in_bf16_a_window_is_that_in_fp32_to_its_rounding(kind: str) -> None:
    model = build(kind)
    entropy, expected = wanted(model, ALL)
    ours, theirs, state = found(model, fused(ALL, "bf16"))
    torch.testing.assert_close(ours, entropy, rtol=2e-2, atol=0.0)
    for one, other in zip(theirs, expected, strict=True):
        assert (one - other).norm() < 5e-2 * other.norm()
    assert all(part.dtype == torch.float32 for part in state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_fast_layers_are_under_the_masks_that_torchs_own_are(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of bf16 stand for all that `lstm.layer_for` may give."""
    model = build()
    monkeypatch.setattr(lstm, "layer_for", lambda *_: lstm._in_bf16)
    torch.manual_seed(11)
    zeros = model.init_hidden(TEXTS)
    x = torch.randn(STEPS, TEXTS, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(11)
    fast, _ = run_layers(model.rnn, x, zeros, precision, ALL)
    torch.manual_seed(11)
    torchs, _ = run_layers(model.rnn, x, zeros, None, ALL)
    torch.testing.assert_close(fast, torchs, rtol=5e-2, atol=5e-3)
    fast.sum().backward()
    ours = gradients(model.rnn)
    model.zero_grad()
    torchs.sum().backward()
    for one, other in zip(ours, gradients(model.rnn), strict=True):
        assert (one - other).norm() < 3e-2 * other.norm()
    # What was dropped of the recurrent weights is given no gradient.
    assert 0.3 < torch.count_nonzero(ours[1]) / ours[1].numel() < 0.7


def test_a_student_is_regularised_and_its_teacher_is_not() -> None:
    model, teacher = build(), build("GRU")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3.0)
    kept = teacher.state_dict()
    # All of the loss is cross-entropy, then all of it the teacher's.
    entropy, expected = wanted(model, ALL)
    ours, theirs, _ = found(model, Distillation(teacher, 2.0, 0.0, ALL))
    torch.testing.assert_close(ours, entropy)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-6)
    _, taught, _ = found(model, Distillation(teacher, 2.0, 1.0, ALL))
    assert any(not torch.allclose(one, other) for one, other in zip(taught, theirs, strict=True))
    torch.manual_seed(11)
    again = Distillation(teacher, 2.0, 1.0, ALL)
    _, same, _ = found(model, again)
    assert all(map(torch.equal, taught, same))
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())


def test_what_a_schedule_adds_to_the_loss_is_added_beside() -> None:
    model = build()
    entropy, expected = wanted(model, ALL)

    def adjust(loss: Tensor) -> Tensor:
        torch.testing.assert_close(loss.detach(), entropy)  # without the penalty
        return loss + 0.5 * model.decoder.bias.add(1.0).pow(2).sum()

    ours, theirs, _ = found(model, fused(ALL), adjust=adjust)
    torch.testing.assert_close(ours, entropy)
    names = [name for name, _ in model.named_parameters()]
    for name, one, other in zip(names, theirs, expected, strict=True):
        added = 1.0 if name == "decoder.bias" else 0.0
        torch.testing.assert_close(one, other + added, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision, within", [("fp32", 1e-4), ("bf16", 5e-2)])
def test_where_a_policy_watches_a_gradient_autograd_computes_under_the_same_masks(
    precision: Precision, within: float
) -> None:
    model = build()
    entropy, expected = wanted(model, ALL)
    seen: list[Tensor] = []
    model.encoder.weight.register_hook(lambda gradient: seen.append(gradient))
    ours, theirs, _ = found(model, fused(ALL, precision))
    assert seen
    torch.testing.assert_close(ours, entropy, rtol=within, atol=0.0)
    for one, other in zip(theirs, expected, strict=True):
        assert (one - other).norm() < within * other.norm()


def quantized(model: RNNModel, **arguments: Any) -> CompressionScheduler:
    """The model under a training-time quantizer, its epoch begun."""
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = dict_config(model, optimizer, quantizing(1, **arguments))
    scheduler.on_epoch_begin(0, optimizer)
    return scheduler


NEAREST = {"bits_activations": None, "bits_weights": 4}
CODES = {"bits_activations": None, "bits_weights": 2, "rounding": "codes", "group_size": 8}
QUANTIZERS = [
    pytest.param(NEAREST, id="nearest"),
    pytest.param(CODES, id="codes"),
    pytest.param({**CODES, "learned_scales": True}, id="learned"),
    pytest.param({**NEAREST, "overrides": {r".*fc_gate_h": {"bits_weights": 32}}}, id="floats"),
]


@pytest.mark.parametrize(
    "kind, tied",
    [("LSTM", True), ("LSTM", False), ("GRU", True), ("RNN_TANH", False), ("RNN_RELU", True)],
)
@pytest.mark.parametrize("regularisation", [ALL, Regularisation(wdrop=0.4)], ids=["all", "wdrop"])
@pytest.mark.parametrize("arguments", QUANTIZERS)
def test_under_a_quantizer_the_masks_fall_on_its_image(
    arguments: dict[str, Any], regularisation: Regularisation, kind: str, tied: bool
) -> None:
    """Loss and gradients, passed straight through, are those of the plain formula of the image."""
    model = build(kind, tied=tied)
    name_of_pruned = "rnn.weight_hh_l1"
    weight = model.get_parameter(name_of_pruned)
    pruned = torch.rand_like(weight) < 0.5
    with torch.no_grad():
        weight[pruned] = 0.0
    scheduler = quantized(model, **arguments)
    assert scheduler.quantizer is not None
    image = scheduler.quantizer.plain_model()
    assert isinstance(image, RNNModel)
    assert bool((image.get_parameter(name_of_pruned)[pruned] == 0).all())
    entropy, expected = wanted(image, regularisation)
    ours, _, _ = found(model, fused(regularisation))
    torch.testing.assert_close(ours, entropy, rtol=1e-5, atol=1e-6)
    trained = parameters_by_name(model, scheduler.zeros_mask_dict)
    for (name, _), gradient in zip(image.named_parameters(), expected, strict=True):
        found_there = trained[name].grad
        torch.testing.assert_close(found_there, gradient, rtol=1e-4, atol=1e-6)
        if "weight_hh" in name:
            # What was dropped, and nothing else, is given none.
            assert 0.2 < (gradient == 0).float().mean() < 0.8
            assert torch.equal(found_there == 0, gradient == 0)
    # And it is there again.
    after = scheduler.quantizer.plain_model().state_dict()
    assert all(torch.equal(after[name], value) for name, value in image.state_dict().items())


@pytest.mark.parametrize(
    "regularisation, replay, taken",
    [(OFF, True, "graph"), (OFF, False, "eager"), (Regularisation(wdrop=0.1), True, "eager")],
)
def test_on_cuda_only_windows_that_are_alike_and_unmasked_are_replayed(
    regularisation: Regularisation, replay: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def graphed(*_: Any) -> Any:
        return lambda *_: "graph"

    monkeypatch.setattr(objective_module, "GraphedGradients", graphed)
    monkeypatch.setattr(objective_module, "compute_gradients", lambda *_: "eager")
    there: Any = SimpleNamespace(device=torch.device("cuda"))
    objective = CrossEntropy(DecoderLoss(into_grad=True), regularisation, replay=replay)
    model = build()
    assert objective.gradients(model, there, there, model.init_hidden(1), None) == taken
