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
        return [line for line in advice(tmp_path, config) if "persistent" in line]

    assert not told(fits)
    assert not told(far)
    for nhid in misses:
        (line,) = told(nhid)
        assert f"--nhid {nhid}" in line
        assert f"{fits} units backward" in line


@pytest.mark.parametrize(
    "amx, missing, value, good",
    [
        (False, "no AMX", "no, the processor has none: torch's kernels train", None),
        (True, None, "built", True),
        (True, "g++ failed: x", "no, g++ failed: x: torch's kernels train", False),
    ],
)
def test_it_says_whether_training_is_on_amx(monkeypatch, tmp_path, amx, missing, value, good):
    monkeypatch.setattr(native, "has_amx", lambda: amx)
    monkeypatch.setattr(native, "why_not", lambda: missing)
    line = next(f for f in doctor.examine(tmp_path) if f.what == "training on AMX")
    assert (line.value, line.good) == (value, good)
