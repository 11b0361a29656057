"""The neural cache against its definition, word by word."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.interface import Score
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.generation.cache import NeuralCache, evaluate_with_caches, step_with_caches
from lmbench.generation.sampler import Sampler
from lmbench.model.rnn import RNNModel


def model(projection: bool = False) -> RNNModel:
    torch.manual_seed(0)
    net = RNNModel("LSTM", 15, 5 if projection else 8, 8, 1, 0.0, True, projection)
    net.eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.mul_(4)
    return net


def evaluate_with_cache(net: RNNModel, data: torch.Tensor, bptt: int, cache: NeuralCache) -> Score:
    [score] = evaluate_with_caches(net, data, bptt, [cache])[1]
    return score


def by_definition(net: RNNModel, data: torch.Tensor, cache: NeuralCache) -> float:
    total = 0.0
    features, _ = net.features(data[:-1], net.init_hidden(data.shape[1]))
    probabilities = net.decoder(features).softmax(-1)
    for column in range(data.shape[1]):
        for t in range(len(data) - 1):
            word = int(data[t + 1, column])
            p = float(probabilities[t, column, word])
            past = range(max(0, t - cache.size), t)
            if past:
                weights = [
                    math.exp(cache.theta * float(features[t, column] @ features[i, column]))
                    for i in past
                ]
                hits = sum(
                    w
                    for i, w in zip(past, weights, strict=True)
                    if int(data[i + 1, column]) == word
                )
                p = (1 - cache.share) * p + cache.share * hits / sum(weights)
            total -= math.log(p)
    return total


@pytest.mark.parametrize("bptt", [1, 4, 7, 100])
@pytest.mark.parametrize("size", [1, 5, 200])
@pytest.mark.parametrize("projection", [False, True])
def test_the_score_is_the_papers_whatever_the_window(
    bptt: int, size: int, projection: bool
) -> None:
    net = model(projection)
    data = torch.randint(0, 15, (31, 3), generator=torch.Generator().manual_seed(1))
    cache = NeuralCache(size, theta=0.5, share=0.3)
    score = evaluate_with_cache(net, data, bptt, cache)
    assert score.tokens == 90
    assert score.nll == pytest.approx(by_definition(net, data, cache), rel=1e-5)


def test_a_share_of_zero_is_the_model_alone() -> None:
    net = model()
    data = torch.randint(0, 15, (20, 2), generator=torch.Generator().manual_seed(2))
    alone = NaiveRuntime(LoadedModel(net, [], {"ntoken": 15}, "", None)).evaluate(data, 6)  # pyright: ignore[reportArgumentType]
    assert evaluate_with_cache(net, data, 6, NeuralCache(10, share=0)).nll == pytest.approx(
        alone.nll, rel=1e-5
    )


def test_a_text_that_repeats_itself_is_easier_with_the_cache() -> None:
    net = model()
    data = torch.tensor([3, 9, 4, 14, 2, 7] * 12).view(-1, 1)
    plain = evaluate_with_cache(net, data, 10, NeuralCache(50, share=0))
    cached = evaluate_with_cache(net, data, 10, NeuralCache(50, theta=2.0, share=0.3))
    assert cached.ppl < 0.8 * plain.ppl


def test_many_caches_score_as_each_alone_and_beside_them_is_the_model_itself() -> None:
    net = model()
    data = torch.randint(0, 15, (31, 3), generator=torch.Generator().manual_seed(1))
    caches = [NeuralCache(7, theta, share) for theta in (0.2, 1.0) for share in (0.1, 0.5)]
    own, cached = evaluate_with_caches(net, data, 4, caches)
    alone = NaiveRuntime(LoadedModel(net, [], {"ntoken": 15}, "", None)).evaluate(data, 6)  # pyright: ignore[reportArgumentType]
    assert own.nll == pytest.approx(alone.nll, rel=1e-5)
    assert [s.nll for s in cached] == [evaluate_with_cache(net, data, 4, c).nll for c in caches]


@pytest.mark.parametrize("bptt", [4, 100])
def test_a_runtimes_steps_score_as_whole_windows(bptt: int) -> None:
    net, caches = model(), [NeuralCache(7, 0.5, share) for share in (0.0, 0.3)]
    data = torch.randint(0, 15, (31, 3), generator=torch.Generator().manual_seed(1))
    runtime = NaiveRuntime(LoadedModel(net, [], {"ntoken": 15}, "", None))  # pyright: ignore[reportArgumentType]
    seen: list[tuple[int, int]] = []
    own, found = step_with_caches(runtime, data, bptt, caches, lambda *at: seen.append(at))
    alone, expected = evaluate_with_caches(net, data, 5, caches)
    assert [s.nll for s in (own, *found)] == pytest.approx([s.nll for s in (alone, *expected)])
    assert (own.tokens, seen[-1]) == (90, (30, 30))


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("size", [2, 50])
def test_a_text_is_written_with_what_it_is_scored_with(size: int, share: float) -> None:
    """A word that is written is as likely as in a text that is scored, word for word."""
    net, cache = model(), NeuralCache(size, theta=0.5, share=share)
    words = [str(i) for i in range(15)]
    text = [3, 9, 4, 3, 9, 2, 9, 3, 4, 4, 9, 3]
    runtime = NaiveRuntime(LoadedModel(net, words, {"ntoken": 15}, "", Path()))
    sampler = Sampler(runtime, words, cache=cache)
    sampler.read(text[:3])
    bits = [sampler.take(id).surprisal_bits for id in text[3:]]
    scored = [
        evaluate_with_cache(net, torch.tensor(text[:end]).view(-1, 1), 100, cache).nll
        for end in (3, len(text))
    ]
    assert sum(bits) * math.log(2) == pytest.approx(scored[1] - scored[0], rel=1e-5)


def test_a_text_that_is_rewound_recalls_what_it_recalled_there() -> None:
    words = [str(i) for i in range(15)]
    runtime = NaiveRuntime(LoadedModel(model(), words, {"ntoken": 15}, "", Path()))
    sampler = Sampler(runtime, words, cache=NeuralCache(20, theta=0.5, share=0.5))
    sampler.read([3, 9, 4])
    place = sampler.snapshot()
    first = list(sampler.words(10, alternatives=15))
    sampler.restore(place)
    assert list(sampler.words(10, alternatives=15)) == first
    assert sum(other.before for other in first[-1].alternatives) == pytest.approx(1)
