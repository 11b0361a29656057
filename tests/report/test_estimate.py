"""What a training will take is said before it starts, and what would fit when it was too much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmbench.config import TrainConfig, validate
from lmbench.jobs.kinds import train
from lmbench.model import build_model, count_weights
from lmbench.report.estimate import estimate, fitting

MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


def config(**changes: Any) -> TrainConfig:
    return validate(TrainConfig, changes)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("nlayers", [1, 3])
def test_parameters_are_counted_as_the_model_has_them(model: str, tied: bool, nlayers: int) -> None:
    settings = config(model=model, tied=tied, nlayers=nlayers, emsize=12, nhid=12)
    weights, _, biases = count_weights(build_model(settings, 50))
    told = estimate(settings, 50)
    assert (told.weights, told.biases) == (weights, biases)


def test_the_large_tied_model_has_the_published_number_of_weights() -> None:
    told = estimate(config(emsize=1500, nhid=1500, tied=True), 33_278)
    assert told.weights == 85_917_000
    assert told.parameters == 85_974_278


def test_windows_of_many_lengths_take_the_memory_of_long_ones() -> None:
    varied, longer = config(bptt=35, bptt_spread=5.0), config(bptt=50)
    assert estimate(varied, 33_278) == estimate(longer, 33_278)


def test_words_are_drawn_from_exponentials_of_fp32() -> None:
    drawn, all_words = (
        estimate(config(precision="bf16", gradient_samples=n), 33_278).bytes for n in (9, 0)
    )
    assert drawn - all_words == 700 * 33_278 * 2


def test_a_teachers_predictions_of_a_window_are_counted() -> None:
    alone = estimate(config(), 33_278).bytes
    logits = 700 * 33_278 * 4
    assert estimate(config(teacher="1"), 33_278).bytes - alone == logits
    softened = config(teacher="1", distill_temp=2.0)
    assert estimate(softened, 33_278).bytes - alone == 2 * logits
    assert estimate(config(teacher="1", teacher_samples=32), 33_278).bytes == alone


@given(
    batch_size=st.integers(1, 4096),
    bptt=st.integers(1, 512),
    available=st.integers(2**28, 2**36),
)
def test_what_is_said_to_fit_fits_and_is_no_larger_than_wanted(
    batch_size: int, bptt: int, available: int
) -> None:
    wanted = config(batch_size=batch_size, bptt=bptt)
    fits = fitting(wanted, 33_278, available)
    if fits is None:
        smallest = wanted.model_copy(update={"batch_size": 1, "bptt": 1})
        assert estimate(smallest, 33_278).bytes > available
    else:
        assert estimate(fits, 33_278).bytes <= available
        assert fits.batch_size <= batch_size
        assert fits.bptt <= bptt


def test_running_out_of_memory_says_what_was_tried_and_what_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Memory:
        available = 2 * 2**30

    monkeypatch.setattr(train.psutil, "virtual_memory", Memory)
    wanted = config(batch_size=4000, bptt=70)
    line = train.out_of_memory_line(wanted, 33_278, torch.device("cpu"))
    assert "tried --batch-size 4000 --bptt 70" in line
    fits = fitting(wanted, 33_278, Memory.available)
    assert fits is not None
    assert f"--batch-size {fits.batch_size} --bptt {fits.bptt} should fit" in line


def test_of_several_processes_each_has_its_part_of_the_batch_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Memory:
        available = 2 * 2**30

    monkeypatch.setattr(train.psutil, "virtual_memory", Memory)
    wanted = config(batch_size=4000, bptt=70, gpus=4, nodes=2, allow_cpu=True)
    line = train.out_of_memory_line(wanted, 33_278, torch.device("cpu"))
    part = fitting(config(batch_size=500, bptt=70), 33_278, Memory.available)
    assert part is not None
    assert "tried --batch-size 4000 --bptt 70" in line
    assert f"--batch-size {8 * part.batch_size} --bptt {part.bptt} should fit" in line


def test_the_allocators_own_words_are_recognised() -> None:
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"
    )
    assert train.is_out_of_memory(error)
    assert not train.is_out_of_memory(RuntimeError("shapes do not match"))
