"""What the doctor says about kernels, and about a width where there is a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmbench.config import TrainConfig, validate
from lmbench.training import doctor, native
from lmbench.training.doctor import advice


@pytest.mark.parametrize(
    "model, fits, misses, far",
    [
        ("LSTM", 128, (129, 192, 208), 209),
        ("GRU", 128, (129, 208), 209),
        ("RNN_TANH", 256, (257, 384, 400), 401),
        ("RNN_RELU", 256, (257, 400), 401),
    ],
)
def test_a_width_that_just_misses_the_fast_kernels_of_its_cell_is_told(
    model: str,
    fits: int,
    misses: tuple[int, ...],
    far: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def told(nhid: int) -> list[str]:
        config = validate(TrainConfig, {"model": model, "nhid": nhid, "emsize": nhid})
        return [line for line in advice(tmp_path, config, 0.5) if "persistent" in line]

    assert not told(fits)
    assert not told(far)
    for nhid in misses:
        (line,) = told(nhid)
        assert f"--nhid {nhid}" in line
        assert f"{fits} units backward" in line


@pytest.mark.parametrize(
    "best, missing, given, cuda, advised",
    [
        ("avx2", None, {}, False, True),
        ("avx2", None, {"gradient_samples": 64}, False, False),
        ("avx2", None, {"precision": "exact"}, False, False),
        ("avx512", None, {}, False, True),
        ("avx2", "no compiler", {}, False, False),
        ("amx", None, {}, False, False),
        ("avx2", None, {}, True, False),
    ],
)
def test_a_sampled_gradient_is_advised_where_it_saves_time(
    monkeypatch, tmp_path, best, missing, given, cuda, advised
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(native, "best", lambda: best)
    monkeypatch.setattr(native, "why_not", lambda kernels: missing)
    for speedup in (0.5, 2.0):
        lines = advice(tmp_path, validate(TrainConfig, given), speedup)
        assert any(line.startswith("with --gradient-samples 256") for line in lines) == advised


@pytest.mark.parametrize(
    "best, missing, value, good",
    [
        ("torch", None, "torch's, on this processor", None),
        ("amx", None, "AMX", True),
        ("avx2", "g++ failed: x", "torch's, and none for AVX2: g++ failed: x", False),
    ],
)
def test_it_says_which_kernels_train(monkeypatch, tmp_path, best, missing, value, good):
    monkeypatch.setattr(native, "best", lambda: best)
    monkeypatch.setattr(native, "why_not", lambda kernels: missing)
    line = next(f for f in doctor.examine(tmp_path, 0.5) if f.what == "kernels that train")
    assert (line.value, line.good) == (value, good)
