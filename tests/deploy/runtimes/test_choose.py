"""`--runtime auto` takes the fastest runtime that is accurate enough, and remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes import choose
from lmbench.deploy.runtimes.choose import Measured, choose_runtime, measure, open_runtime
from lmbench.deploy.runtimes.interface import Runtime
from lmbench.deploy.runtimes.table import RUNTIMES
from lmbench.model.rnn import RNNModel


def loaded(seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    model = RNNModel("LSTM", 50, 16, 16, 1, 0.0, True).eval().requires_grad_(False)
    shape = {"model": "LSTM", "ntoken": 50, "tied": True}
    return LoadedModel(model, [], shape, "tiny", Path())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Made-up measurements, and what was asked to be measured."""
    asked: list[list[str]] = []
    seconds = {"naive": 9.0, "torch": 5.0, "onnx": 4.0, "bf16": 3.0, "int8": 2.0, "int4": 1.0}
    divergences = {"bf16": 2e-3, "int8": 5e-4, "int4": 6e-3}

    def pretend(model: LoadedModel, entries: list[type[Runtime]], purpose: str) -> list[Measured]:
        names = [entry.name for entry in entries if entry.name in seconds]
        asked.append(names)
        return [Measured(n, seconds[n], divergences.get(n, 0.0)) for n in names]

    monkeypatch.setattr(choose, "measure", pretend)
    return asked


def test_the_fastest_that_the_wanted_accuracy_allows_is_taken(measured: list[list[str]]) -> None:
    model = loaded()
    assert choose_runtime(model, "step", "exact") == "onnx"
    assert choose_runtime(model, "step", "close") == "int8"
    assert choose_runtime(model, "step", "coarse") == "int4"
    assert "int4" not in measured[1]  # not even measured where it is not wanted


def test_a_choice_is_remembered_for_these_weights_and_this_purpose(
    measured: list[list[str]],
) -> None:
    for _ in range(3):
        choose_runtime(loaded(), "step")
    assert len(measured) == 1
    choose_runtime(loaded(), "score")
    choose_runtime(loaded(seed=1), "step")
    assert len(measured) == 3
    choose_runtime(loaded(), "step")
    assert len(measured) == 3


def test_a_choice_for_one_accuracy_is_none_for_another(
    measured: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the same runtimes are on offer, they are not all near enough for each."""
    offered = [RUNTIMES["torch"], RUNTIMES["bf16"]]
    monkeypatch.setattr(choose, "supported", lambda _: offered)
    assert choose_runtime(loaded(), "step", "coarse") == "bf16"
    assert choose_runtime(loaded(), "step", "close") == "torch"
    assert choose_runtime(loaded(), "step", "coarse") == "bf16"
    assert len(measured) == 2


def test_where_nothing_is_accurate_enough_fp32_in_torch_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choose, "measure", lambda *_: [Measured("int8", 1.0, float("inf"))])
    assert choose_runtime(loaded(), "step") == "torch"


def test_measuring_tells_exact_runtimes_from_coarse_ones() -> None:
    names = ["naive", "torch", "onnx", "int8", "int4"]
    for purpose in ("step", "score"):
        results = measure(loaded(), [RUNTIMES[name] for name in names], purpose)
        assert [result.name for result in results] == names
        divergence = {result.name: result.divergence for result in results}
        assert max(divergence["naive"], divergence["torch"], divergence["onnx"]) < 1e-9
        assert 1e-9 < divergence["int8"] < divergence["int4"]
        assert all(result.seconds > 0 for result in results)


def test_a_runtime_that_cannot_hold_the_model_is_none_to_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise ValueError("encoder.weight holds a number that is not finite")

    monkeypatch.setattr(RUNTIMES["int8"], "__init__", refused)
    results = measure(loaded(), [RUNTIMES[name] for name in ("int8", "torch")], "step")
    assert [result.name for result in results] == ["torch"]


def test_where_predictions_are_no_numbers_nothing_is_measured() -> None:
    broken = loaded()
    broken.recurrent.decoder.bias[3] = torch.nan
    assert choose_runtime(broken, "step") == "torch"


def test_auto_opens_what_was_chosen(
    measured: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    assert open_runtime("auto", loaded(), "step").name == "int8"
    assert open_runtime("auto", loaded(), "step", "exact").name == "onnx"
    assert open_runtime("onnx", loaded(), "step").name == "onnx"
    assert (tmp_path / "runtimes.json").is_file()
