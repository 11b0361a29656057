"""What a quantizer knows of the cells: a GRU that remembers for long goes on remembering."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from ptq_world import LanguageModel
from safetensors.torch import load, save
from torch import Tensor, nn

from lmbench.distiller.quantization import (
    ActivationStats,
    QuantSettings,
    calibrate,
    export_state,
    load_preset,
    modular_copy,
    quantization_table,
    quantize,
    restore,
)

WORDS, WIDTH, STEPS = 20, 16, 120
STEPS_16 = ("act_z", "eltwisesub_hidden", "eltwisemult_update")
WHOLE = ("eltwiseadd_gate", "act_r", "act_n", "eltwiseadd_hidden")


@pytest.fixture(scope="module")
def remembering() -> LanguageModel:
    """A GRU whose update gates are nearly always open: what it has read stays in its state."""
    torch.manual_seed(1)
    model = LanguageModel(WORDS, WIDTH, 1, nn.GRU)
    # The update gate has two biases; a sigmoid of 4.6 is 0.99.
    for name in ("bias_ih_l0", "bias_hh_l0"):
        model.rnn.get_parameter(name).detach()[WIDTH : 2 * WIDTH] = 2.3
    return model.eval()


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(WORDS, (STEPS, 8), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def stats(remembering: LanguageModel, text: Tensor) -> ActivationStats:
    def run(model: nn.Module) -> None:
        model(text)

    return calibrate(modular_copy(remembering), run)


@torch.no_grad()
def state_error(model: nn.Module, reference: nn.Module, text: Tensor) -> float:
    """How far the last state is from the float model's, relative to that."""
    wanted, found = reference(text)[1], model(text)[1]
    return float((found - wanted).norm() / wanted.norm())


def int8_best(**changes: Any) -> QuantSettings:
    return QuantSettings.from_dict({**load_preset("int8-best").to_dict(), **changes})


def test_a_state_that_is_kept_for_long_is_kept(
    remembering: LanguageModel, stats: ActivationStats, text: Tensor
) -> None:
    aware = state_error(quantize(remembering, int8_best(), stats), remembering, text)
    blind = state_error(quantize(remembering, int8_best(net_aware=False), stats), remembering, text)
    assert aware < 0.5 * blind


def test_the_table_tells_which_steps_stay_wide(
    remembering: LanguageModel, stats: ActivationStats
) -> None:
    rows = {
        row.name.rpartition(".")[2]: row
        for row in quantization_table(quantize(remembering, int8_best(), stats))
    }
    assert {rows[name].bits_activations for name in STEPS_16} == {16}
    assert {rows[name].bits_activations for name in WHOLE} == {8}
    assert {rows[name].clip_acts for name in (*STEPS_16, *WHOLE)} == {"NONE"}
    assert rows["eltwiseadd_new"].clip_acts == "AVG"


def test_an_override_has_the_last_word(remembering: LanguageModel, stats: ActivationStats) -> None:
    own = {"bits_activations": 8, "clip_acts": "AVG"}
    chosen = int8_best(overrides={".*eltwisesub_hidden": own})
    rows = {
        row.name.rpartition(".")[2]: row
        for row in quantization_table(quantize(remembering, chosen, stats))
    }
    assert rows["eltwisesub_hidden"].bits_activations == 8
    assert rows["eltwisesub_hidden"].clip_acts == "AVG"
    assert rows["eltwisemult_update"].bits_activations == 16


def lstm_clips(**changes: Any) -> dict[str, str | None]:
    """How each module of an LSTM gets its range, by its last name."""
    torch.manual_seed(3)
    model = LanguageModel(WORDS, WIDTH, 1)

    def run(copy: nn.Module) -> None:
        copy(torch.randint(WORDS, (30, 4), generator=torch.Generator().manual_seed(4)))

    found = calibrate(modular_copy(model), run)
    rows = quantization_table(quantize(model, int8_best(**changes), found))
    return {row.name.rpartition(".")[2]: row.clip_acts for row in rows}


def test_the_cell_state_has_a_range_of_its_own_choice() -> None:
    memory = ("eltwisemult_cell_forget", "eltwiseadd_cell")
    clips = lstm_clips()
    assert {clips[name] for name in memory} == {"GAUSS"}
    assert clips["eltwisemult_cell_input"] == "AVG"
    assert clips["decoder"] == "NONE"
    assert {lstm_clips(clip_state=None)[name] for name in memory} == {"AVG"}
    own = lstm_clips(overrides={".*eltwiseadd_cell": {"clip_acts": "MSE"}})
    assert [own[name] for name in memory] == ["GAUSS", "MSE"]


def test_an_elman_net_keeps_what_cancels() -> None:
    torch.manual_seed(5)
    model = LanguageModel(WORDS, WIDTH, 1, nn.RNN)

    def run(copy: nn.Module) -> None:
        copy(torch.randint(WORDS, (30, 4), generator=torch.Generator().manual_seed(6)))

    found = calibrate(modular_copy(model), run)
    rows = quantization_table(quantize(model, int8_best(), found))
    clips = {row.name.rpartition(".")[2]: row.clip_acts for row in rows}
    assert (clips["fc_gate_x"], clips["fc_gate_h"]) == ("NONE", "NONE")
    assert clips["eltwiseadd_gate"] == "AVG"


def test_it_is_restored_as_it_was_kept(
    remembering: LanguageModel, stats: ActivationStats, text: Tensor
) -> None:
    quantized = quantize(remembering, int8_best(), stats)
    tensors, meta = export_state(quantized, int8_best())
    fresh = LanguageModel(WORDS, WIDTH, 1, nn.GRU)
    again = restore(fresh, load(save(tensors)), json.loads(json.dumps(meta)))
    with torch.no_grad():
        assert torch.equal(again(text)[0], quantized(text)[0])
