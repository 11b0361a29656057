"""What the benchmark scripts do with a device; what they measure is no test."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from places import REPOSITORY

from lmbench.deploy.benchmark import Entrant
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.model.rnn import RNNModel, shape_of

SCRIPTS = REPOSITORY / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["inference", "training"])
def test_a_card_that_is_not_there_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick", "--device", "cuda:99"])
    assert script(name).main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert "--device cuda:99: torch sees" in line


@pytest.mark.parametrize(
    "arguments, batches, warmup",
    [
        (("--device", "cpu"), 3, 3),
        (("--device", "cuda"), 50, 50),
        (("--device", "cuda:1", "--batches", "7"), 7, 50),
    ],
)
def test_a_turn_on_a_gpu_is_long_enough_that_waiting_for_it_is_little(
    arguments: tuple[str, ...], batches: int, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = script("training")
    monkeypatch.setattr(sys, "argv", ["training.py", *arguments])
    args = training.parse()
    assert (args.batches, args.warmup) == (batches, warmup)


def dense(tmp_path: Path, device: str) -> LoadedModel:
    torch.manual_seed(0)
    model = RNNModel("LSTM", 50, 8, 8, 2, 0.0, True).eval().requires_grad_(False)
    words = [f"w{i}" for i in range(50)]
    path = tmp_path / "dense.lmpack"
    write_packed(model, words, path)
    return LoadedModel(model.to(device), words, shape_of(model), "dense", path)


def test_on_a_gpu_the_dense_model_runs_where_a_gpu_can_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = script("inference")
    loaded = dense(tmp_path, "meta")
    monkeypatch.setattr(LoadedModel, "device", torch.device("cuda"))
    asked: list[str] = []

    def entrants(models: list[LoadedModel], names: list[str]) -> list[Entrant]:
        asked.extend(names)
        return []

    monkeypatch.setattr(inference, "entrants", entrants)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _, missing = inference.contestants(loaded, {}, None)
    assert asked == ["naive", "torch", "cuda"]
    assert not missing


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpus_runtimes_are_measured(tmp_path: Path) -> None:
    inference = script("inference")
    loaded = dense(tmp_path, "cuda")
    found, _ = inference.contestants(loaded, {}, None)
    rows = inference.benchmark(found, np.arange(40) % 50, words=3, rounds=1)
    measured = inference.against_dense([asdict(row) for row in rows])
    assert [row["runtime"] for row in measured] == ["naive", "torch", "cuda"]
    assert all(row["step_vs_naive"] > 0 for row in measured)


@pytest.mark.parametrize(
    "device, missing, kernels",
    [("cpu", None, "amx"), ("cpu", "no compiler", "torch"), ("cuda", None, "torch")],
)
def test_a_training_benchmark_names_the_kernels_that_it_took(
    device: str, missing: str | None, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = script("training")
    monkeypatch.setattr(training.native, "best", lambda: "amx")
    monkeypatch.setattr(training.native, "why_not", lambda kernels: missing)
    monkeypatch.setattr(training, "machine_key", str)
    monkeypatch.setattr(sys, "argv", ["training.py", "--device", device])
    assert training.machine(training.parse())["kernels"] == kernels
