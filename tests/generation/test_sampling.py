"""What the sampling settings leave of a distribution, against plain definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmbench.errors import LmbenchError
from lmbench.generation.sampling import Candidates, Sampling, candidates, draw

LOGITS = st.lists(st.floats(-30, 30, allow_nan=False, width=32), min_size=2, max_size=40).map(
    lambda values: torch.tensor(values, dtype=torch.float32)
)


def dense(among: Candidates, size: int) -> Tensor:
    """The candidates' probabilities as a distribution over all words."""
    out = torch.zeros(size)
    ids = torch.arange(size) if among.ids is None else among.ids
    out[ids] = among.probabilities
    return out


def reference_top_k(logits: Tensor, k: int) -> Tensor:
    kept = logits.argsort(descending=True, stable=True)[:k]
    masked = torch.full_like(logits, -torch.inf)
    masked[kept] = logits[kept]
    return masked.softmax(0)


def reference_top_p(probabilities: Tensor, p: float) -> Tensor:
    """Take words likeliest first until they hold p, then make them sum to 1."""
    out = torch.zeros_like(probabilities)
    mass = 0.0
    for i in probabilities.argsort(descending=True, stable=True).tolist():
        out[i] = probabilities[i]
        mass += float(probabilities[i])
        if mass >= p:
            break
    return out / out.sum()


@given(LOGITS)
def test_without_settings_the_distribution_is_the_plain_softmax(logits: Tensor) -> None:
    among = candidates(logits, Sampling())
    torch.testing.assert_close(dense(among, len(logits)), logits.softmax(0))


@given(LOGITS, st.floats(0.05, 20))
def test_temperature_gives_what_the_original_generator_draws_from(
    logits: Tensor, temperature: float
) -> None:
    weights = logits.double().div(temperature)
    weights = (weights - weights.max()).exp()
    among = candidates(logits, Sampling(temperature=temperature))
    expected = (weights / weights.sum()).float()
    torch.testing.assert_close(dense(among, len(logits)), expected, rtol=1e-3, atol=1e-6)


@given(st.permutations(range(30)), st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest_in_proportion(order: list[int], k: int) -> None:
    logits = torch.tensor(order, dtype=torch.float32) / 5
    among = candidates(logits, Sampling(top_k=k))
    torch.testing.assert_close(dense(among, 30), reference_top_k(logits, k))


@given(st.permutations(range(30)), st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_words_that_hold_p(order: list[int], p: float) -> None:
    logits = torch.tensor(order, dtype=torch.float32) / 5
    among = candidates(logits, Sampling(top_p=p))
    torch.testing.assert_close(dense(among, 30), reference_top_p(logits.softmax(0), p))


@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p_holds_p_and_is_not_needlessly_large_even_with_ties(logits: Tensor, p: float) -> None:
    full = logits.softmax(0).double()
    among = candidates(logits, Sampling(top_p=p))
    assert among.ids is not None
    kept = full[among.ids]
    assert float(kept.sum()) >= p - 1e-6
    assert float(kept.sum() - kept.min()) < p + 1e-6
    outside = torch.ones(len(full), dtype=torch.bool)
    outside[among.ids] = False
    if outside.any():
        assert float(full[outside].max()) <= float(kept.min())


@given(LOGITS, st.floats(0.1, 3), st.integers(0, 45), st.floats(0.05, 1))
def test_whatever_the_settings_the_candidates_sum_to_one(
    logits: Tensor, temperature: float, k: int, p: float
) -> None:
    sampling = Sampling(banned=(0,), temperature=temperature, top_k=k, top_p=p)
    among = candidates(logits, sampling)
    assert float(among.probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert among.probability(0) == 0


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_temperature_zero_takes_the_likeliest_word_whatever_is_drawn(
    logits: Tensor, uniform: float
) -> None:
    among = candidates(logits, Sampling(temperature=0))
    assert among.word(draw(among, uniform)) == int(logits.argmax())


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_a_draw_falls_on_the_word_whose_stretch_of_the_cumulative_mass_holds_it(
    logits: Tensor, uniform: float
) -> None:
    among = candidates(logits, Sampling())
    place = draw(among, uniform)
    mass = among.probabilities.double().cumsum(0)
    target = uniform * float(mass[-1])
    assert float(mass[place]) >= target
    assert place == 0 or float(mass[place - 1]) <= target


def test_draws_are_as_frequent_as_the_words_are_likely() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    among = candidates(logits, Sampling())
    count = 4000
    drawn = torch.bincount(
        torch.tensor([draw(among, (i + 0.5) / count) for i in range(count)]), minlength=4
    )
    torch.testing.assert_close(drawn / count, logits.softmax(0), atol=1e-3, rtol=0)


def test_a_tiny_temperature_neither_overflows_nor_divides_by_nothing() -> None:
    logits = torch.tensor([3e4, -3e4, 2.9e4])
    for temperature in (1e-5, 1e-7, 1e-300):
        among = candidates(logits, Sampling(temperature=temperature))
        assert among.probability(0) == pytest.approx(1)


def test_predictions_that_are_not_numbers_are_an_error_that_says_so() -> None:
    with pytest.raises(LmbenchError, match="not finite"):
        candidates(torch.tensor([1.0, float("nan")]), Sampling())


def test_ruling_out_every_word_is_an_error() -> None:
    with pytest.raises(LmbenchError, match="ruled out"):
        candidates(torch.tensor([1.0]), Sampling(banned=(0,)))
