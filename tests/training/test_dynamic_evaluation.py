"""Dynamic evaluation against its formulas in plain torch, segment by segment."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.generation.cache import NeuralCache, evaluate_with_caches
from lmbench.model.rnn import RNNModel, detach
from lmbench.training.dynamic_evaluation import Dynamic, evaluate_dynamically, gradient_rms

KINDS = ("LSTM", "GRU", "RNN_TANH")
WORDS = 15


def model(
    kind: str = "LSTM", *, tied: bool = True, dropout: float = 0.3, projection: bool = False
) -> RNNModel:
    torch.manual_seed(0)
    emsize = 5 if projection else 8
    net = RNNModel(kind, WORDS, emsize, 8, 2, dropout, tied, projection)
    net.eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        # A projection of large weights makes of rounding another model.
        parameter.mul_(1 if name == "projection.weight" else 4)
    return net


def text(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randint(0, WORDS, (rows, columns), generator=torch.Generator().manual_seed(seed))


def segment_loss(
    net: RNNModel, weights: dict[str, Tensor], data: Tensor, start: int, stop: int, hidden: object
) -> tuple[Tensor, object]:
    logits, hidden = torch.func.functional_call(net, weights, (data[start:stop], hidden))
    target = data[start + 1 : stop + 1]
    return F.cross_entropy(logits.flatten(0, 1), target.flatten()), hidden


def by_formula(
    net: RNNModel,
    data: Tensor,
    bptt: int,
    settings: Dynamic,
    rms: dict[str, Tensor] | None = None,
) -> float:
    """The summed loss; `rms` by name of the parameter."""
    trained = {name: p.detach().clone() for name, p in net.named_parameters()}
    weights = {name: p.clone() for name, p in trained.items()}
    hidden: object = net.init_hidden(data.shape[1])
    total, rows = 0.0, len(data) - 1
    for start in range(0, rows, bptt):
        stop = min(start + bptt, rows)
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        loss, hidden = segment_loss(net, leaves, data, start, stop, hidden)
        hidden = detach(hidden)  # pyright: ignore[reportArgumentType]
        total += loss.item() * (stop - start) * data.shape[1]
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        for name, g in gradients.items():
            back = settings.decay
            if rms is not None:
                mean = sum(float(r.mean()) for r in rms.values()) / len(rms)
                g = g / (rms[name] + 2e-5)
                back = (settings.decay * rms[name] / mean).clamp(max=1.0)
            weights[name] = weights[name] - settings.lr * g + back * (trained[name] - weights[name])
    return total


def mean_squares(net: RNNModel, data: Tensor, bptt: int) -> dict[str, Tensor]:
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}
    hidden: object = net.init_hidden(data.shape[1])
    starts = range(0, len(data) - 1, bptt)
    for start in starts:
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        stop = min(start + bptt, len(data) - 1)
        loss, hidden = segment_loss(net, leaves, data, start, stop, hidden)
        hidden = detach(hidden)  # pyright: ignore[reportArgumentType]
        for name, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            squares[name] += g**2 / len(starts)
    return {name: square.sqrt() for name, square in squares.items()}


def as_list(net: RNNModel, by_name: dict[str, Tensor]) -> list[Tensor]:
    return [by_name[name] for name, _ in net.named_parameters()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied, projection", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("bptt, columns", [(1, 1), (4, 3), (7, 2), (100, 3)])
def test_plain_steps_are_the_papers(
    kind: str, tied: bool, projection: bool, bptt: int, columns: int
) -> None:
    net, data = model(kind, tied=tied, projection=projection), text(31, columns)
    settings = Dynamic("sgd", 0.3, 0.05)
    score, _ = evaluate_dynamically(net, data, bptt, settings)
    assert score.tokens == 30 * columns
    assert score.nll == pytest.approx(by_formula(net, data, bptt, settings), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.02, 0.9])
def test_steps_divided_by_the_training_gradients_are_the_papers(kind: str, decay: float) -> None:
    net, data, settings = model(kind), text(31, 2), Dynamic("rms", 0.01, decay)
    rms = mean_squares(net, text(40, 2, seed=5), 4)
    score, _ = evaluate_dynamically(net, data, 4, settings, as_list(net, rms))
    assert score.nll == pytest.approx(by_formula(net, data, 4, settings, rms), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_statistics_are_the_roots_of_mean_squared_gradients(kind: str) -> None:
    net, data = model(kind), text(40, 2, seed=5)
    found = gradient_rms(net, data, 7)
    for r, expected in zip(found, as_list(net, mean_squares(net, data, 7)), strict=True):
        torch.testing.assert_close(r, expected, rtol=1e-3, atol=1e-6)


def test_a_segment_is_scored_before_its_step_and_after_those_of_all_before() -> None:
    net, settings, data = model(), Dynamic("sgd", 2.0, 0.0), text(13, 2)
    own = NaiveRuntime(LoadedModel(net, [], {"ntoken": WORDS}, "", None))  # pyright: ignore[reportArgumentType]
    sums = [evaluate_dynamically(net, data[: n + 1], 4, settings)[0].nll for n in (4, 8, 12)]
    still = [own.evaluate(data[: n + 1], 4).nll for n in (4, 8, 12)]
    assert sums[0] == pytest.approx(still[0], rel=1e-5)
    for n in (1, 2):
        assert sums[n] - sums[n - 1] != pytest.approx(still[n] - still[n - 1], rel=1e-2)
    assert sums[2] == pytest.approx(by_formula(net, data, 4, settings), rel=1e-4)


@pytest.mark.parametrize("form", ["sgd", "rms"])
def test_a_step_of_nothing_is_the_model_itself_and_the_model_stays(
    form: Literal["sgd", "rms"],
) -> None:
    net, data = model(), text(31, 3)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    own = NaiveRuntime(LoadedModel(net, [], {"ntoken": WORDS}, "", None))  # pyright: ignore[reportArgumentType]
    rms = gradient_rms(net, data, 5) if form == "rms" else None
    still = evaluate_dynamically(net, data, 5, Dynamic(form, 0.0, 0.1), rms)[0]
    assert still.nll == pytest.approx(own.evaluate(data, 5).nll, rel=1e-5)
    evaluate_dynamically(net, data, 5, Dynamic(form, 0.1, 0.1), rms)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert net.drop.p == 0.3


def test_weights_that_were_pruned_stay_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    import lmbench.training.dynamic_evaluation as module

    net, adapted = model(tied=False), []
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter[torch.rand_like(parameter) < 0.7] = 0.0
    original = module._trainable_copy

    def kept(source: RNNModel) -> RNNModel:
        adapted.append(original(source))
        return adapted[-1]

    monkeypatch.setattr(module, "_trainable_copy", kept)
    data = text(31, 2)
    rms = gradient_rms(net, data, 4)
    evaluate_dynamically(net, data, 4, Dynamic("sgd", 0.5, 0.01))
    evaluate_dynamically(net, data, 4, Dynamic("rms", 0.01, 0.01), rms)
    assert len(adapted) == 3
    for copy in adapted[1:]:
        moved = 0
        for (name, own), after in zip(net.named_parameters(), copy.parameters(), strict=True):
            if own.dim() > 1:
                assert torch.equal(own == 0, after == 0), name
            moved += int((own != after).sum())
        assert moved > 100


def test_a_cache_and_steps_together_blend_what_the_adapted_model_gives() -> None:
    net, data, cache = model(), text(31, 2), NeuralCache(9, 0.5, 0.3)
    # Without a step they are the cache alone, and without a share the steps alone.
    still, [cached] = evaluate_dynamically(net, data, 4, Dynamic("sgd", 0.0, 0.0), None, [cache])
    own, [expected] = evaluate_with_caches(net, data, 4, [cache])
    assert (still.nll, cached.nll) == pytest.approx((own.nll, expected.nll), rel=1e-5)
    settings = Dynamic("sgd", 0.3, 0.05)
    nothing = NeuralCache(9, 0.5, 0.0)
    moved, both = evaluate_dynamically(net, data, 4, settings, None, [cache, nothing])
    assert moved.nll == pytest.approx(by_formula(net, data, 4, settings), rel=1e-4)
    assert both[1].nll == pytest.approx(moved.nll, rel=1e-4)
    assert both[0].nll != pytest.approx(cached.nll, rel=1e-3)
    # The last segment's words by hand: weights after all segments before, and the past as it was
    # read by the weights of its time.
    assert both[0].nll == pytest.approx(blended_by_hand(net, data, 4, settings, cache), rel=1e-4)


def blended_by_hand(
    net: RNNModel, data: Tensor, bptt: int, settings: Dynamic, cache: NeuralCache
) -> float:
    trained = {name: p.detach().clone() for name, p in net.named_parameters()}
    weights = {name: p.clone() for name, p in trained.items()}
    hidden: object = net.init_hidden(data.shape[1])
    states: list[Tensor] = []
    total = 0.0
    own = RNNModel("LSTM", WORDS, 8, 8, 2, 0.0, True)
    for start in range(0, len(data) - 1, bptt):
        stop = min(start + bptt, len(data) - 1)
        own.load_state_dict({**weights, "decoder.weight": weights["encoder.weight"]})
        own.zero_grad()
        features, hidden = own.features(data[start:stop], hidden)  # pyright: ignore[reportArgumentType]
        hidden = detach(hidden)
        log_p = own.decoder(features).log_softmax(-1)
        (-log_p.gather(-1, data[start + 1 : stop + 1, :, None]).mean()).backward()
        states += list(features.detach())
        for t in range(start, stop):
            for column in range(data.shape[1]):
                word = int(data[t + 1, column])
                p = float(log_p[t - start, column, word].detach().exp())
                past = range(max(0, t - cache.size), t)
                if past:
                    likeness = torch.stack([states[t][column] @ states[i][column] for i in past])
                    share = (cache.theta * likeness).softmax(0)
                    hit = torch.tensor([int(data[i + 1, column]) == word for i in past])
                    p = (1 - cache.share) * p + cache.share * float(share[hit].sum())
                total -= float(torch.tensor(p, dtype=torch.float64).log())
        for name, parameter in own.named_parameters():
            assert parameter.grad is not None
            back = settings.decay * (trained[name] - weights[name])
            weights[name] = weights[name] - settings.lr * parameter.grad + back
    return total


def test_a_text_that_repeats_itself_is_easier_with_steps() -> None:
    net = model()
    data = torch.tensor([3, 9, 4, 14, 2, 7] * 20).view(-1, 1)
    still = evaluate_dynamically(net, data, 6, Dynamic("sgd", 0.0, 0.0))[0]
    moved = evaluate_dynamically(net, data, 6, Dynamic("sgd", 0.3, 0.001))[0]
    assert moved.ppl < 0.8 * still.ppl
