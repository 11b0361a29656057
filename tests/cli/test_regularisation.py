"""AWD-LSTM's regularisation from the command line: the whole recipe, and under a quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_world import answer
from safetensors.torch import load_file
from small_runs import pruning_schedule, quantizing_schedule

from lmbench.config import TrainConfig
from lmbench.jobs.kinds.train import build_objective
from lmbench.session import Home
from lmbench.training.objective import CrossEntropy, ExactCrossEntropy
from lmbench.training.regularisation import Regularisation

RECIPE = (
    *("--dropouti", "0.3", "--dropouth", "0.2", "--dropouto", "0.3", "--dropoute", "0.1"),
    *("--wdrop", "0.4", "--alpha", "2", "--beta", "1", "--bptt-spread", "5"),
)


def test_a_regularised_pruning_leaves_a_plain_model_as_sparse_as_its_schedule_says(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pruned.yaml").write_text(pruning_schedule(2), encoding="utf-8")
    schedule = ("--schedule", "pruned.yaml", "--epochs", "2", "--threads", "1")
    plain = answer(capsys, "prune", "1", *schedule)
    ours = answer(capsys, "prune", "1", *schedule, *RECIPE)
    tensors = [
        load_file(home.find_run(done["run"]).path / "best" / "model.safetensors")
        for done in (plain, ours)
    ]
    assert {name: value.shape for name, value in tensors[0].items()} == {
        name: value.shape for name, value in tensors[1].items()
    }
    assert ours["results"]["nonzero"] == plain["results"]["nonzero"]
    assert ours["results"]["nonzero"] < ours["results"]["parameters"]
    assert ours["results"]["valid_ppl"] != plain["results"]["valid_ppl"]
    # The scored model is the whole one, of which nothing is dropped.
    [scored] = answer(capsys, "evaluate", ours["run"], "--threads", "1")
    assert scored["test_ppl"] == pytest.approx(ours["results"]["test_ppl"], rel=1e-5)


def test_a_training_under_a_quantizer_is_regularised_inside_its_layers_too(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("quantized.yaml").write_text(quantizing_schedule(1), encoding="utf-8")
    schedule = ("--schedule", "quantized.yaml", "--epochs", "1", "--threads", "1")
    inside = ("--wdrop", "0.4", "--dropouth", "0.2")
    plain = answer(capsys, "prune", "1", *schedule)
    ours = answer(capsys, "prune", "1", *schedule, *inside)
    assert ours["results"]["valid_ppl"] != plain["results"]["valid_ppl"]
    best = load_file(home.find_run(ours["run"]).path / "best" / "model.safetensors")
    assert len(best["rnn.weight_hh_l0"].unique()) <= 16


@pytest.mark.parametrize("precision, kind", [("fp32", CrossEntropy), ("exact", ExactCrossEntropy)])
def test_a_run_has_the_regularisation_of_its_settings(precision: Any, kind: type) -> None:
    config = TrainConfig(
        precision=precision,
        dropouti=0.0,
        dropouth=0.1,
        dropouto=0.2,
        dropoute=0.3,
        wdrop=0.4,
        alpha=0.5,
        beta=0.6,
    )
    unused: Any = type("Unused", (), {"home": None, "session": type("", (), {"name": ""})})
    objective: Any
    objective, _ = build_objective(unused, config, unused, "fp32", torch.device("cpu"), 0)
    assert type(objective) is kind
    wanted = Regularisation(0.0, 0.1, 0.2, dropoute=0.3, wdrop=0.4, alpha=0.5, beta=0.6)
    assert objective._regularisation == wanted
