"""The peak memory of a runtime is its own, whatever the process that measures it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.peak_memory import peak_memory
from lmbench.model.rnn import RNNModel

HELD = 600 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is inherited on Linux")
def test_the_memory_of_the_process_that_measures_is_not_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "m.lmpack"
    write_packed(
        RNNModel("LSTM", 50, 16, 16, 1, 0.0, True).eval(), [str(i) for i in range(50)], path
    )
    held = bytearray(HELD)
    held[::4096] = b"x" * len(held[::4096])
    peak = peak_memory(path, "best", "naive")
    assert held[0] == ord("x")
    assert peak is not None
    assert peak < HELD // 4


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs the peak of the process alone"
)
def test_a_larger_model_has_the_larger_peak(tmp_path: Path) -> None:
    peaks = []
    for words in (50, 200_000):
        path = tmp_path / f"{words}.lmpack"
        model = RNNModel("LSTM", words, 64, 64, 1, 0.0, True).eval()
        write_packed(model, [str(i) for i in range(words)], path)
        peaks.append(peak_memory(path, "best", "torch"))
    small, large = peaks
    # 51 MB of weights.
    assert large - small > 40e6


def test_a_module_of_the_users_in_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed(
        RNNModel("LSTM", 50, 16, 16, 1, 0.0, True).eval(),
        [str(i) for i in range(50)],
        tmp_path / "m.lmpack",
    )
    (tmp_path / "numpy.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    assert peak_memory(tmp_path / "m.lmpack", "best", "naive") is not None
