"""Training under codes whose bits fall: resumed to the bit, taught, and pruned."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from schedules import quantizing
from training_world import (
    AGP,
    REGULARISED,
    WORDS,
    Recorder,
    resumed_as_uninterrupted,
    small,
    trainer,
)

from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.trained_grid import trained_grids
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.distiller.schedules.preset_files import preset_path
from lmbench.model import build_model
from lmbench.session.events import Epoch
from lmbench.training.distillation import Distillation
from lmbench.training.evaluate import Evaluation, evaluate


def falling(**more: Any) -> dict[str, Any]:
    return quantizing(
        3, bits_activations=None, bits_weights=8, bits_schedule={1: 3, 2: 1}, rounding="codes",
        group_size=8, **more,
    )  # fmt: skip


FALLING, LEARNED = falling(), falling(learned_scales=True)


def pruned_too(*, scales_are_learned: bool = False) -> dict[str, Any]:
    both = copy.deepcopy(AGP)
    both["quantizers"] = (LEARNED if scales_are_learned else FALLING)["quantizers"]
    both["policies"] += FALLING["policies"]
    return both


def begun_later() -> dict[str, Any]:
    later = quantizing(
        3, bits_activations=None, bits_weights=2, rounding="codes", group_size=8,
        learned_scales=True,
    )  # fmt: skip
    later["policies"][0]["starting_epoch"] = 1
    return later


def taught() -> Distillation:
    torch.manual_seed(9)
    return Distillation(build_model(small(), WORDS), 2.0, 0.7)


@pytest.mark.parametrize(
    "stops", [(25,), pytest.param((1, 26, 40, 51, 70), marks=pytest.mark.slow)]
)
def test_a_resumed_run_has_the_codes_of_an_uninterrupted_one_to_the_bit(
    stops: tuple[int, ...], tmp_path: Path
) -> None:
    config = small(momentum=0.5, dropout=0.3, lr=1.0, tied=True)
    recorder = resumed_as_uninterrupted(config, tmp_path, stops, FALLING)
    told = [line for line in recorder.lines if "from here on" in line]
    assert told == [f"| {bits}-bit weights from here on" for bits in (3, 1)]


def test_and_so_it_is_under_a_teacher_and_under_pruning(tmp_path: Path) -> None:
    config = small(lr=1.0, tied=True)
    resumed_as_uninterrupted(config, tmp_path, (40,), pruned_too(), taught)


def test_and_so_are_scales_that_are_learned(tmp_path: Path) -> None:
    config = small(momentum=0.5, dropout=0.3, lr=1.0, tied=True)
    resumed_as_uninterrupted(config, tmp_path, (55,), LEARNED)


@pytest.mark.parametrize(
    "model, scales_are_learned, stop_after",
    [
        *(("LSTM", True, 55), ("GRU", False, 10)),
        pytest.param("LSTM", False, 40, marks=pytest.mark.slow),
        pytest.param("RNN_TANH", True, 40, marks=pytest.mark.slow),
    ],
)
def test_and_so_it_is_with_masks_inside_the_layers_of_codes_that_are_pruned(
    model: str, scales_are_learned: bool, stop_after: int, tmp_path: Path
) -> None:
    config = small(model=model, momentum=0.5, dropout=0.3, lr=1.0, tied=True, **REGULARISED)
    schedule = pruned_too(scales_are_learned=scales_are_learned)
    resumed_as_uninterrupted(config, tmp_path, (stop_after,), schedule)


def test_the_best_epoch_is_one_of_the_fewest_bits_however_good_those_before_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter((0.0, 1.0, 2.0))

    def costly(*arguments: Any) -> Evaluation:
        found = evaluate(*arguments)
        return dataclasses.replace(found, loss=found.loss + next(costs))

    monkeypatch.setattr("lmbench.training.trainer.evaluate", costly)
    recorder = Recorder()
    trained = trainer(small(tied=True, lr=1.0), tmp_path, recorder, schedule=FALLING)
    trained.run()
    assert [epoch.best_epoch for epoch in recorder.of(Epoch)] == [1, 2, 3]
    best = load_file(tmp_path / "best" / "model.safetensors")
    for row in best["rnn.weight_hh_l1"]:
        assert all(len(group.unique()) <= 2 for group in row.split(8))
    found = trained_grids(trained.plain_model(), trained.model.state_dict())
    assert set(found.values.values()) == {"code1"}
    assert set(found.groups.values()) == {8}


def test_before_its_first_epoch_a_quantizer_trains_the_floats(tmp_path: Path) -> None:
    config = small(momentum=0.5, dropout=0.3, lr=1.0, tied=True)
    recorder = resumed_as_uninterrupted(config, tmp_path, (10, 40), begun_later())
    assert [line for line in recorder.lines if "from here on" in line] == [
        "| 2-bit weights from here on"
    ]


def test_the_best_epoch_is_one_of_a_quantizer_that_begins_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[set[str]] = []
    costs = iter((0.0, 1.0, 2.0))

    def costly(model: Any, *arguments: Any) -> Evaluation:
        kinds.append(set(trained_grids(model, trained.model.state_dict()).values.values()))
        found = evaluate(model, *arguments)
        return dataclasses.replace(found, loss=found.loss + next(costs))

    monkeypatch.setattr("lmbench.training.trainer.evaluate", costly)
    recorder = Recorder()
    trained = trainer(small(tied=True, lr=1.0), tmp_path, recorder, schedule=begun_later())
    trained.run()
    assert kinds == [set(), {"code2"}, {"code2"}]
    assert [epoch.best_epoch for epoch in recorder.of(Epoch)] == [1, 2, 2]


@pytest.mark.parametrize("more", [{}, REGULARISED], ids=["plain", "regularised"])
@pytest.mark.parametrize("scales_are_learned", [False, True])
def test_pruned_weights_stay_zero_among_codes_and_are_packed_with_them(
    tmp_path: Path, scales_are_learned: bool, more: dict[str, Any]
) -> None:
    schedule = pruned_too(scales_are_learned=scales_are_learned)
    trained = trainer(small(tied=True, lr=1.0, **more), tmp_path, Recorder(), schedule=schedule)
    trained.run()
    steps = dict(trained.model.named_parameters()).get("encoder.code_learned")
    assert (steps is not None) == scales_are_learned
    if steps is not None:
        # With one bit a step is the scale that was fitted, until it is moved.
        held = trained.model.get_submodule("encoder")
        fitted = held.get_buffer("code_fitted").sum(0) * held.get_buffer("code_unit")
        assert not torch.equal(steps.detach(), fitted)
    plain = trained.plain_model().state_dict()
    for name in ("encoder.weight", "rnn.weight_hh_l0"):
        pruned = plain[name] == 0
        assert float(pruned.float().mean()) == pytest.approx(0.6, abs=0.01)
    found = trained_grids(trained.plain_model(), trained.model.state_dict())
    assert found.values["encoder.weight"] == found.values["rnn.weight_ih_l1"] == "code1"
    words, path = [f"w{i}" for i in range(WORDS)], tmp_path / "m.lmpack"
    write_packed(
        trained.plain_model(), words, path,
        grids=found.grids, groups=found.groups, auto=found.values, exact=True,
    )  # fmt: skip
    packed = open_packed(path)
    assert packed.specs["encoder.weight"].layout == "bitmask"
    assert np.array_equal(packed.dense("encoder.weight"), plain["encoder.weight"].numpy())


@pytest.mark.parametrize("preset", ["hold", "code4", "code3", "code2"])
def test_a_pruned_model_trains_on_under_a_preset_and_keeps_its_zeros(
    tmp_path: Path, preset: str
) -> None:
    schedule = yaml.safe_load(preset_path(preset).read_text())
    trained = trainer(small(tied=True, lr=1.0), tmp_path, Recorder(), schedule=schedule)
    named = trained.model.named_parameters()
    matrices = {n: p for n, p in named if p.dim() == 2 and not n.endswith("code_learned")}
    pruned = {
        name: weight.detach().abs() < weight.abs().quantile(0.6)
        for name, weight in matrices.items()
    }
    begun = {}
    for name, weight in matrices.items():
        weight.data[pruned[name]] = 0
        begun[name] = weight.detach().clone()
    trained.run()
    for name, weight in matrices.items():
        assert torch.equal(weight == 0, pruned[name]), name
        assert not torch.equal(weight, begun[name])
    found = trained_grids(trained.plain_model(), trained.model.state_dict())
    assert set(found.values.values()) == (set() if preset == "hold" else {preset})
