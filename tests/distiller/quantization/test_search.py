"""The search for clip modes and bits: what it chooses, and what it measures for that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ptq_world import LanguageModel, batchify, mean_loss, runner, tie
from torch import nn

from lmbench.distiller.quantization import (
    ActivationStats,
    Budget,
    ClipMode,
    QuantSettings,
    RangeLinearQuantWrapper,
    Trial,
    auto_quantize,
    calibrate,
    export_state,
    load_preset,
    modular_copy,
    quantization_table,
    quantize,
    quantized_bytes,
)
from lmbench.distiller.quantization.search import _front

CELL = "rnn.cells.0.eltwiseadd_cell"
GATES = "rnn.cells.1.eltwiseadd_gate"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(4)
    return tie(LanguageModel(60, 12, 2)).eval()


@pytest.fixture(scope="module")
def data() -> torch.Tensor:
    return batchify(torch.randint(60, (800,)).numpy(), 8)


@pytest.fixture(scope="module")
def stats(model: LanguageModel, data: torch.Tensor) -> ActivationStats:
    return calibrate(modular_copy(model), runner(data))


def clips_of(candidate: nn.Module) -> dict[str, ClipMode]:
    return {
        name: module.clip_acts
        for name, module in candidate.named_modules()
        if isinstance(module, RangeLinearQuantWrapper)
    }


def wanting(likes: dict[str, tuple[ClipMode, float]]):
    """A loss that is lower by so much where a module has the clip mode that it likes; every other
    module likes AVG a little."""

    def evaluate(candidate: nn.Module) -> float:
        loss = 5.0
        for name, clip in clips_of(candidate).items():
            liked, gain = likes.get(name, (ClipMode.AVG, 0.01))
            loss -= gain * (clip is liked)
        return loss

    return evaluate


def test_each_module_gets_the_clip_mode_that_lowers_the_loss(
    model: LanguageModel, stats: ActivationStats
) -> None:
    likes = {
        CELL: (ClipMode.MSE, 0.05),
        "decoder": (ClipMode.NONE, 0.02),
        # Less than can be told from chance.
        GATES: (ClipMode.MSE, 1e-6),
    }
    trials: list[Trial] = []
    result = auto_quantize(
        model, stats, wanting(likes), Budget(loss=10.0), bits=(8, 4), on_try=trials.append
    )
    chosen = clips_of(quantize(model, result.settings, stats))
    assert chosen.pop(CELL) is ClipMode.MSE
    assert chosen.pop("decoder") is ClipMode.NONE
    assert set(chosen.values()) == {ClipMode.AVG}
    assert len([t for t in trials if t.phase == "clip"]) <= 3 + 2 * (len(chosen) + 2)


def test_the_widths_are_narrowed_beside_the_clip_modes(
    model: LanguageModel, stats: ActivationStats
) -> None:
    likes = {"decoder": (ClipMode.NONE, 0.05), "rnn.cells.1.fc_gate_h": (ClipMode.MSE, 0.05)}
    small = quantized_bytes(
        quantize(
            model, QuantSettings.from_dict({"bits_weights": 4, "per_channel_wts": True}), stats
        )
    )["total"]
    result = auto_quantize(model, stats, wanting(likes), Budget(bytes=small), bits=(8, 4))
    chosen = result.settings.resolve(
        clips_of(quantize(model, result.settings, stats)) | {"encoder": 0}
    )
    assert {name: chosen[name].bits_weights for name in ("encoder", *likes)} == dict.fromkeys(
        ("encoder", *likes), 4
    )
    assert {name: chosen[name].clip_acts for name in likes} == {k: v[0] for k, v in likes.items()}
    # The tied matrix is one: what the decoder likes for its outputs is no business of its bits.
    assert result.bytes <= small


def test_clip_modes_that_change_nothing_are_not_measured(
    model: LanguageModel, stats: ActivationStats
) -> None:
    same = {
        name: {
            "inputs": {
                k: {**v, "avg_min": v["min"], "avg_max": v["max"]} for k, v in e["inputs"].items()
            },
            "output": {**e["output"], "avg_min": e["output"]["min"], "avg_max": e["output"]["max"]},
        }
        for name, e in stats.items()
    }
    trials: list[Trial] = []
    auto_quantize(
        model,
        same,
        wanting({}),
        Budget(loss=10.0),
        bits=(8,),
        clips=(ClipMode.NONE, ClipMode.AVG),
        on_try=trials.append,
    )
    assert [set(t.choice) for t in trials if t.phase == "clip"] == [{"*"}, {"*"}]


def test_a_real_search_is_no_worse_than_its_best_common_clip_mode_and_resumes(
    model: LanguageModel, stats: ActivationStats, data: torch.Tensor
) -> None:
    calls = []

    def evaluate(candidate: nn.Module) -> float:
        calls.append(candidate)
        return mean_loss(candidate, data[:36])

    base = load_preset("int8-best")
    trials: list[Trial] = []
    base = QuantSettings.from_dict({**base.to_dict(), "bits_activations": 4})
    result = auto_quantize(
        model, stats, evaluate, Budget(loss=1.0), base, bits=(8,), on_try=trials.append
    )
    common = [t.loss for t in trials if t.phase == "clip" and set(t.choice) == {"*"}]
    assert result.loss <= min(common)
    half, before = trials[: len(trials) // 2], len(calls)
    again = auto_quantize(model, stats, evaluate, Budget(loss=1.0), base, bits=(8,), resume=half)
    assert again.settings == result.settings
    assert len(calls) - before == len({(t.phase, str(t.choice)) for t in trials[len(half) :]})


def test_the_front_has_the_least_predicted_loss_for_every_size() -> None:
    steps = {
        "big": [(8, 0.0, 0), (6, 0.01, 800), (4, 0.05, 1600)],
        "small": [(8, 0.0, 0), (6, 0.015, 100), (4, 0.2, 200)],
    }
    every = [
        (big[1] + small[1], big[2] + small[2], big[0], small[0])
        for big in steps["big"]
        for small in steps["small"]
    ]
    front = _front(steps, {})
    found = [
        tuple(choice.get(name, {}).get("bits_weights", 8) for name in steps) for choice in front
    ]
    # Each is on the front that trying all of them gives, and none is missing.
    wanted = [
        (big, small)
        for rise, saved, big, small in sorted(every, key=lambda entry: entry[1])
        if saved and not any(r <= rise and s > saved for r, s, *_ in every)
    ]
    assert found == wanted
    assert (6, 6) in found
    assert found[-1] == (4, 4)


def test_one_width_for_all_is_taken_where_it_is_measured_to_be_better(
    model: LanguageModel, stats: ActivationStats
) -> None:
    def loss(candidate: nn.Module) -> float:
        """Narrow weights cost only beside wider ones: no sum of single costs foretells that."""
        widths = {row.bits_weights for row in quantization_table(candidate)} - {None}
        return 1.0 if len(widths) > 1 else 0.5

    weights = {"bits_activations": None, "per_channel_wts": True}
    plain = quantize(model, QuantSettings.from_dict({**weights, "bits_weights": 4}), stats)
    size = quantized_bytes(plain)["total"]
    found = auto_quantize(model, stats, loss, Budget(bytes=size), QuantSettings.from_dict(weights))
    assert found.loss == 0.5
    assert found.bytes == size
    smallest = auto_quantize(model, stats, loss, Budget(loss=0.1), QuantSettings.from_dict(weights))
    assert smallest.loss == 0.5
    assert smallest.bytes < size


def weights_of(candidate: nn.Module) -> dict[str, int]:
    return {row.name: row.bits_weights for row in quantization_table(candidate) if row.bits_weights}


def test_an_override_of_the_base_does_not_undo_what_the_search_chooses(
    model: LanguageModel, stats: ActivationStats, data: torch.Tensor
) -> None:
    base = load_preset("int8-best")
    narrow = replace(base, base=replace(base.base, bits_weights=4))
    budget = quantized_bytes(quantize(model, narrow, stats))["total"]
    result = auto_quantize(
        model,
        stats,
        lambda candidate: mean_loss(candidate, data),
        Budget(bytes=budget),
        base,
        bits=(8, 4),
    )
    assert result.bytes <= budget
    found = quantize(model, result.settings, stats)
    assert set(weights_of(found).values()) == {4}
    # The tied matrix stays one, and the decoder and the cell state keep what the base gives them.
    _, meta = export_state(found, result.settings)
    assert meta["shared"]["decoder.weight_q"] == "encoder.weight_q"
    rows = {row.name: row for row in quantization_table(found)}
    assert rows["decoder"].clip_acts == "NONE"
    assert rows[CELL].bits_activations == 16


def test_a_module_keeps_the_bits_of_its_role_when_its_clip_mode_is_chosen(
    model: LanguageModel, stats: ActivationStats
) -> None:
    likes = {CELL: (ClipMode.MSE, 0.05)}
    base = replace(load_preset("int8-best"), clip_state=None)
    result = auto_quantize(model, stats, wanting(likes), Budget(loss=10.0), base, bits=(8, 4))
    chosen = {row.name: row for row in quantization_table(quantize(model, result.settings, stats))}
    assert (chosen[CELL].clip_acts, chosen[CELL].bits_activations) == ("MSE", 16)


@pytest.mark.parametrize("budget", [Budget(loss=0.5), Budget(bytes=10**6)])
def test_the_search_is_never_worse_than_settings_that_are_given_whole(
    model: LanguageModel, stats: ActivationStats, budget: Budget
) -> None:
    whole = {name: load_preset(name) for name in ("fp16", "int4-weights", "int8-best")}
    best = "fp16" if budget.bytes else "int4-weights"

    def evaluate(candidate: nn.Module) -> float:
        rows = quantization_table(candidate)
        if not rows:
            return 5.0
        floats = any(row.precision for row in rows)
        four = set(weights_of(candidate).values()) == {4}
        alone = all(row.bits_activations is None for row in rows)
        # All that computes in integers is much worse.
        return 5.0 if floats else 5.4 if four and alone else 6.0

    result = auto_quantize(model, stats, evaluate, budget, bits=(8, 4), whole=whole)
    assert result.settings == whole[best]
    assert result.bytes == quantized_bytes(quantize(model, whole[best], stats))["total"]
    again: list[Trial] = []
    auto_quantize(
        model,
        stats,
        lambda candidate: pytest.fail("measured again"),
        budget,
        bits=(8, 4),
        whole=whole,
        resume=[Trial.from_dict(trial.to_dict()) for trial in result.trials],
        on_try=again.append,
    )
    assert len(again) == len(result.trials)
