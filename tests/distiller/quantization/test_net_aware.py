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
    QuantizationError,
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
    return calibrate(modular_copy(remembering), lambda model: model(text))


@torch.no_grad()
def state_error(model: nn.Module, reference: nn.Module, text: Tensor) -> float:
    """How far the last state is from the float model's, relative to that."""
    wanted, found = reference(text)[1], model(text)[1]
    return float((found - wanted).norm() / wanted.norm())


def int8_best(**changes: Any) -> QuantSettings:
    return QuantSettings.from_dict({**load_preset("int8-best").to_dict(), **changes})


def rows_of(
    model: nn.Module, stats: ActivationStats, **changes: Any
) -> dict[str, tuple[int | None, str | None]]:
    """The bits of each module, and how it gets its range, by its last name."""
    rows = quantization_table(quantize(model, int8_best(**changes), stats))
    return {row.name.rpartition(".")[2]: (row.bits_activations, row.clip_acts) for row in rows}


def calibrated(kind: type[nn.RNNBase]) -> tuple[LanguageModel, ActivationStats]:
    torch.manual_seed(3)
    model = LanguageModel(WORDS, WIDTH, 1, kind)
    ids = torch.randint(WORDS, (30, 4), generator=torch.Generator().manual_seed(4))
    return model, calibrate(modular_copy(model), lambda copy: copy(ids))


def test_a_state_that_is_kept_for_long_is_kept(
    remembering: LanguageModel, stats: ActivationStats, text: Tensor
) -> None:
    aware = state_error(quantize(remembering, int8_best(), stats), remembering, text)
    blind = state_error(quantize(remembering, int8_best(net_aware=False), stats), remembering, text)
    assert aware < 0.5 * blind


def test_the_table_tells_which_steps_stay_wide(
    remembering: LanguageModel, stats: ActivationStats
) -> None:
    rows = rows_of(remembering, stats)
    assert {rows[name] for name in STEPS_16} == {(16, "NONE")}
    assert {rows[name] for name in WHOLE} == {(8, "NONE")}
    assert rows["eltwiseadd_new"][1] == "PERCENTILE"


def test_an_override_has_the_last_word(remembering: LanguageModel, stats: ActivationStats) -> None:
    own = {"bits_activations": 8, "clip_acts": "AVG"}
    rows = rows_of(remembering, stats, overrides={".*eltwisesub_hidden": own})
    assert rows["eltwisesub_hidden"] == (8, "AVG")
    assert rows["eltwisemult_update"][0] == 16


def test_the_cell_state_has_bits_and_a_range_of_its_own() -> None:
    memory = ("eltwisemult_cell_forget", "eltwiseadd_cell")
    lstm = calibrated(nn.LSTM)
    rows = rows_of(*lstm)
    assert {rows[name] for name in memory} == {(16, "NONE")}
    assert rows["eltwisemult_cell_input"] == (8, "PERCENTILE")
    assert rows["decoder"] == (8, "NONE")
    for bits, clip, wanted in ((None, "GAUSS", (8, "GAUSS")), (12, None, (12, "PERCENTILE"))):
        rows = rows_of(*lstm, bits_state=bits, clip_state=clip)
        assert {rows[name] for name in memory} == {wanted}
    own = rows_of(*lstm, overrides={".*eltwiseadd_cell": {"clip_acts": "MSE"}})
    assert [own[name] for name in memory] == [(16, "NONE"), (16, "MSE")]
    # One about weights alone changes nothing here.
    same = rows_of(*lstm, overrides={"rnn.*": {"per_channel_wts": True}})
    assert {same[name] for name in memory} == {(16, "NONE")}
    narrow = rows_of(*lstm, overrides={".*eltwiseadd_cell": {"bits_activations": 8}})
    assert narrow["eltwiseadd_cell"] == (8, "NONE")


def test_bits_that_no_state_has_are_refused() -> None:
    with pytest.raises(QuantizationError, match="bits_state: 17 bits is out of range, use 2 to 16"):
        int8_best(bits_state=17)


def test_what_counts_upwards_costs_the_rest_of_the_state_nothing() -> None:
    """Units of an LSTM that count with every word, beside units that stay small."""
    torch.manual_seed(7)
    model = LanguageModel(WORDS, WIDTH, 1)
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            gates = model.rnn.get_parameter(name).view(4, WIDTH)
            # Two units keep what they have and add one; see `torch.nn.LSTM` for the gates' order.
            gates[:2, :2] = 4.0
            gates[2, :2] = 2.0
    ids = torch.randint(WORDS, (60, 4), generator=torch.Generator().manual_seed(8))
    found = calibrate(modular_copy(model), lambda copy: copy(ids))

    def off(**changes: Any) -> float:
        with torch.no_grad():
            state = quantize(model, int8_best(**changes), found)(ids)[1][1]
            exact = model(ids)[1][1]
        return float((state - exact)[..., 2:].norm() / exact[..., 2:].norm())

    assert off() < 0.5 * off(bits_state=None)


def test_an_elman_net_keeps_what_cancels() -> None:
    rows = rows_of(*calibrated(nn.RNN))
    assert (rows["fc_gate_x"][1], rows["fc_gate_h"][1]) == ("NONE", "NONE")
    assert rows["eltwiseadd_gate"][1] == "PERCENTILE"


def test_it_is_restored_as_it_was_kept(
    remembering: LanguageModel, stats: ActivationStats, text: Tensor
) -> None:
    quantized = quantize(remembering, int8_best(), stats)
    tensors, meta = export_state(quantized, int8_best())
    fresh = LanguageModel(WORDS, WIDTH, 1, nn.GRU)
    again = restore(fresh, load(save(tensors)), json.loads(json.dumps(meta)))
    with torch.no_grad():
        assert torch.equal(again(text)[0], quantized(text)[0])
