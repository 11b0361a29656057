"""A quantized model on disk, its size, its table, presets, rounding and the search."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from ptq_world import LanguageModel, batchify, load_tiny, mean_loss, part, read_vectors, runner, tie
from safetensors.torch import load, save
from torch import nn

from lmbench.distiller.modules import EltwiseAdd
from lmbench.distiller.modules.recurrent import run_cell
from lmbench.distiller.quantization import (
    Budget,
    QuantizationError,
    QuantSettings,
    auto_quantize,
    calibrate,
    collect_input_moments,
    export_state,
    gptq_round,
    load_preset,
    modular_copy,
    preset_names,
    quantization_table,
    quantize,
    quantized_bytes,
    restore,
)
from lmbench.distiller.quantization.clipping import ClipMode
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantMode,
    linear_dequantize,
    linear_quantize_clamp,
)
from lmbench.distiller.quantization.weights import weight_params

_, ARRAYS = read_vectors()
TEST = batchify(ARRAYS["test_tokens"])[:71]
CALIBRATION = batchify(ARRAYS["calib_tokens"])[:106]


@pytest.fixture(scope="module")
def model():
    return load_tiny(ARRAYS, tied=True)


@pytest.fixture(scope="module")
def stats(model):
    return calibrate(model, runner(CALIBRATION))


@pytest.fixture(scope="module")
def moments(model):
    return collect_input_moments(model, runner(CALIBRATION))


@pytest.mark.parametrize("preset", preset_names())
@torch.no_grad()
def test_every_preset_quantizes_and_comes_back_to_the_last_bit(preset, model, stats, moments):
    settings = load_preset(preset)
    quantized = quantize(model, settings, stats, moments)
    loss = mean_loss(quantized, TEST)
    assert loss == pytest.approx(mean_loss(model, TEST), abs=0.06)
    tensors, meta = export_state(quantized, settings)
    again = restore(load_tiny(ARRAYS, tied=True), load(save(tensors)), json.loads(json.dumps(meta)))
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])
    assert quantized_bytes(again) == quantized_bytes(quantized)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_acts": "AVG"},
        {"clip_acts": "N_STD", "clip_n_stds": 1.5},
        {"overrides": {"decoder": {"clip_acts": "PERCENTILE"}}},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_dynamic_model_comes_back_too(changes, model):
    preset = load_preset("int8-asymmetric-per-channel").to_dict()
    settings = QuantSettings.from_dict(preset | changes)
    quantized = quantize(model, settings)
    tensors, meta = export_state(quantized, settings, dynamic=True)
    again = restore(model, tensors, meta)
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_state": "PERCENTILE"},
        {"clip_state": "N_STD", "clip_n_stds": 2.0},
        {"clip_weights": "AVG"},
        {"clip_weights": "GAUSS"},
        {"overrides": {"decoder": {"clip_weights": "LAPLACE"}}},
        {"overrides": {"decoder": {"input_overrides": {0: {"clip_acts": "PERCENTILE"}}}}},
        {"group_size": 8},
        {"group_size": 1000, "per_channel_wts": False},
        {"save_fp_weights": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_whatever_chose_its_ranges_a_model_comes_back(changes, model, stats):
    settings = QuantSettings.from_dict({**load_preset("int8-best").to_dict(), **changes})
    quantized = quantize(model, settings, stats)
    tensors, meta = export_state(quantized, settings)
    again = restore(load_tiny(ARRAYS, tied=True), load(save(tensors)), json.loads(json.dumps(meta)))
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])
    if settings.save_fp_weights:
        kept = part(again, "rnn.cells.0.fc_gate_h").float_weight
        assert torch.equal(kept, part(quantized, "rnn.cells.0.fc_gate_h").float_weight)
        assert kept.abs().max() > 0


class Sum(nn.Module):
    def __init__(self, add: nn.Module) -> None:
        super().__init__()
        self.add = add

    def forward(self, x):
        return self.add(x, 2 * x, -x)


class OwnAdd(EltwiseAdd):
    pass


@pytest.mark.parametrize("kind", [EltwiseAdd, OwnAdd])
@torch.no_grad()
def test_a_sum_of_three_comes_back(kind):
    x, settings = torch.randn(4, 5), QuantSettings()
    plain = Sum(kind())
    quantized = quantize(plain, settings, calibrate(plain, lambda model: model(x)))
    again = restore(plain, *export_state(quantized, settings))
    assert torch.equal(again(x), quantized(x))


@torch.no_grad()
def test_a_layer_in_two_places_is_quantized_in_both_and_comes_back():
    layer, x, settings = nn.Linear(8, 8), torch.randn(4, 8), QuantSettings()
    plain = nn.Sequential(layer, nn.Tanh(), layer)
    quantized = quantize(plain, settings, calibrate(plain, lambda model: model(x)))
    assert part(quantized, "0") is part(quantized, "2")
    again = restore(plain, *export_state(quantized, settings))
    assert torch.equal(again(x), quantized(x))


@torch.no_grad()
def test_what_was_written_before_floats_were_kept_comes_back(model, stats):
    """And with one scale for a matrix, where a group of a whole row has one for each row now."""
    changes = {"save_fp_weights": True, "group_size": 1000, "per_channel_wts": False}
    settings = QuantSettings.from_dict({**load_preset("int8-symmetric").to_dict(), **changes})
    earlier = {**settings.to_dict(), "save_fp_weights": False, "group_size": None}
    quantized = quantize(model, QuantSettings.from_dict(earlier), stats)
    tensors, meta = export_state(quantized, settings)
    again = restore(load_tiny(ARRAYS, tied=True), load(save(tensors)), json.loads(json.dumps(meta)))
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])


@pytest.mark.parametrize("mode", [LinearQuantMode.SYMMETRIC, LinearQuantMode.ASYMMETRIC_SIGNED])
def test_a_last_group_that_is_short_is_clipped_as_it_is_alone(mode):
    weight = torch.randn(16, 70, generator=torch.Generator().manual_seed(3))

    def error(columns, clip):
        part = weight[:, columns]
        scale, zero = weight_params(part, 4, mode, clip, group_size=64)
        q = linear_quantize_clamp(part, scale, zero, *mode.quantized_range(4))
        return (linear_dequantize(q, scale, zero) - part)[:, -6:].square().mean()

    alone, beside = slice(64, 70), slice(0, 70)
    assert error(beside, ClipMode.MSE) < 1.05 * error(alone, ClipMode.MSE)
    assert error(beside, ClipMode.MSE) < error(beside, ClipMode.NONE)


@pytest.mark.parametrize(
    "changes",
    [
        {"overrides": {"decoder": {"bits_weights": None}}},
        {"overrides": {"decoder": {"bits_weights": None, "clip_acts": "AVG"}}},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_decoder_of_floats_in_a_quantized_model_makes_its_state(changes, model, stats):
    settings = QuantSettings.from_dict(load_preset("int8-symmetric").to_dict() | changes)
    quantized = quantize(model, settings, stats)
    assert mean_loss(quantized, TEST) == pytest.approx(mean_loss(model, TEST), abs=0.06)


def test_a_group_of_a_whole_row_has_a_scale_for_each_row():
    weight = torch.randn(5, 24)
    symmetric = LinearQuantMode.SYMMETRIC
    assert weight_params(weight, 8, symmetric)[0].numel() == 1
    for size in (24, 64):
        assert weight_params(weight, 8, symmetric, group_size=size)[0].shape == (5, 1)


def test_a_tied_matrix_that_was_quantized_alike_is_stored_and_counted_once(model, stats):
    settings = load_preset("int8-best")
    quantized = quantize(model, settings, stats)
    tensors, meta = export_state(quantized, settings)
    assert meta["shared"]["decoder.weight_q"] == "encoder.weight_q"
    assert "decoder.weight_q" not in tensors
    sizes = quantized_bytes(quantized)
    assert sizes["weights"] == 97 * 24 + 4 * 96 * 24
    assert sizes["scales"] == 4 * (97 + 4 * 96)
    assert sizes["biases"] == 4 * (97 + 4 * 96)
    assert sizes["other"] == 0


def test_four_bit_groups_count_their_bits_and_scales(model, stats, moments):
    sizes = quantized_bytes(quantize(model, load_preset("int4-weights"), stats, moments))
    assert sizes["weights"] == (97 * 24 + 4 * 96 * 24) // 2


def test_tensors_of_another_model_are_refused(model, stats):
    settings = load_preset("int8-best")
    tensors, meta = export_state(quantize(model, settings, stats), settings)
    with pytest.raises(QuantizationError, match="of another model"):
        restore(LanguageModel(97, 24, 1), tensors, meta)
    with pytest.raises(QuantizationError, match="newer"):
        restore(model, tensors, meta | {"format": 99})
    with pytest.raises(QuantizationError, match="not quantized"):
        export_state(model, settings)


def test_the_table_names_each_module_with_its_settings_and_errors(model, stats):
    quantized = quantize(model, load_preset("int8-best"), stats)
    rows = {row.name: row for row in quantization_table(quantized, model, runner(TEST[:20]))}
    assert len(rows) == 26
    gate = rows["rnn.cells.0.fc_gate_h"]
    assert (gate.kind, gate.bits_weights, gate.bits_activations) == ("Linear", 8, 8)
    assert gate.weight_sqnr is not None
    assert gate.weight_sqnr > 35
    assert gate.output_sqnr is not None
    assert 15 < gate.output_sqnr < 60
    assert "SYMMETRIC" in gate.mode
    assert json.dumps(asdict(gate))
    coarse = quantize(model, QuantSettings.from_dict({"bits_weights": 4}), stats)
    worse = {row.name: row for row in quantization_table(coarse, model)}
    fine, rough = rows["decoder"].weight_sqnr, worse["decoder"].weight_sqnr
    assert fine is not None
    assert rough is not None
    assert rough < fine - 15


def test_settings_survive_their_plain_form():
    for name in preset_names():
        settings = load_preset(name)
        assert QuantSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(QuantizationError, match="use one of fp16, int8-symmetric"):
        load_preset("int7")


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_compensated_rounding_changes_outputs_less_and_leaves_zeros(bits):
    generator = torch.Generator().manual_seed(bits)
    mixing = torch.randn(32, 32, generator=generator)
    x = torch.randn(500, 32, generator=generator) @ mixing
    weight = torch.randn(48, 32, generator=generator)
    weight[torch.rand(48, 32, generator=generator) < 0.5] = 0
    moments = (x.T @ x).double() / len(x)
    scale = (2 ** (bits - 1) - 1) / weight.abs().amax(1, keepdim=True)
    zero, limits = torch.zeros_like(scale), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def error(integers):
        return float(((linear_dequantize(integers, scale, zero) - weight) @ x.T).square().mean())

    compensated = gptq_round(weight, moments, scale, zero, *limits)
    assert bool((compensated[weight == 0] == 0).all())
    assert error(compensated) < error(linear_quantize_clamp(weight, scale, zero, *limits))


def test_rounding_without_moments_says_what_is_missing(model, stats):
    with pytest.raises(QuantizationError, match="collect_input_moments"):
        quantize(model, QuantSettings.from_dict({"rounding": "gptq"}), stats)


def short_loss(candidate):
    return mean_loss(candidate, TEST[:36])


@pytest.fixture(scope="module")
def within_a_size(model, stats):
    """A budget of three quarters of INT8's bytes, and what was found; others go on from that."""
    full = quantized_bytes(quantize(model, load_preset("int8-best"), stats))["total"]
    budget = Budget(bytes=int(0.75 * full))
    return budget, auto_quantize(model, stats, short_loss, budget, bits=(8, 4))


def test_the_search_meets_a_size_and_does_not_repeat_what_it_resumes(model, stats, within_a_size):
    budget, result = within_a_size
    assert result.bytes <= budget.bytes
    assert result.loss - result.float_loss < 0.2
    quantized = quantize(model, result.settings, stats)
    assert quantized_bytes(quantized)["total"] == result.bytes
    assert short_loss(quantized) == pytest.approx(result.loss, abs=1e-6)
    again = auto_quantize(
        model,
        stats,
        lambda candidate: pytest.fail("measured again"),
        budget,
        bits=(8, 4),
        resume=result.trials,
    )
    assert again.settings == result.settings


def test_the_search_meets_a_loss_with_the_smallest_model_it_finds(model, stats, within_a_size):
    def search(budget, known):
        return auto_quantize(model, stats, short_loss, budget, bits=(8, 4), resume=known)

    result = search(Budget(loss=0.05), within_a_size[1].trials)
    assert result.loss - result.float_loss <= 0.05
    careful = quantized_bytes(quantize(model, load_preset("int8-best"), stats))["total"]
    assert result.bytes < careful
    with pytest.raises(QuantizationError, match="cannot be met"):
        search(Budget(bytes=100), result.trials)
    with pytest.raises(QuantizationError, match="one of them"):
        Budget()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_every_kind_of_layer_quantizes_with_little_loss(kind):
    torch.manual_seed(1)
    model = tie(LanguageModel(50, 16, 2, kind)).eval()
    nn.init.uniform_(model.encoder.weight, -0.5, 0.5)
    data = torch.randint(50, (60, 6))
    stats = calibrate(modular_copy(model), runner(data))
    quantized = quantize(model, load_preset("int8-best"), stats)
    difference = mean_loss(quantized, data) - mean_loss(model, data)
    assert abs(difference) < 0.01
    assert math.isfinite(difference)


WALKED: list[dict[str, Any]] = [
    {},
    {"mode": "ASYMMETRIC_SIGNED", "per_channel_wts": True, "clip_acts": "AVG"},
    {"mode": "ASYMMETRIC_UNSIGNED", "bits_activations": 6},
    {"scale_approx_mult_bits": 8, "clip_acts": "GAUSS"},
    {"bits_activations": 12, "bits_weights": 12, "bits_accum": 20},
    {"mode": "ASYMMETRIC_SIGNED", "bits_state": 16},
    {"mode": "ASYMMETRIC_SIGNED", "bits_activations": 16, "bits_accum": 30},
    {"mode": "ASYMMETRIC_SIGNED", "bits_activations": 16},
    {"mode": "ASYMMETRIC_SIGNED", "overrides": {".*act.*": {"precision": "16"}}},
    {"group_size": 8},
    {"overrides": {"rnn.cells.1.fc_gate_h": {"group_size": 16}}},
]


@pytest.mark.parametrize(
    "kind, changes",
    [
        pytest.param(kind, changes, marks=pytest.mark.slow if apart and number > 1 else ())
        for apart, kind in enumerate((nn.LSTM, nn.GRU, nn.RNN))
        for number, changes in enumerate(WALKED)
    ],
)
@torch.no_grad()
def test_the_fast_walk_gives_the_wrappers_integers_to_the_last_bit(changes, kind, model, stats):
    if kind is not nn.LSTM:
        torch.manual_seed(2)
        model = tie(LanguageModel(97, 24, 2, kind)).eval()
        stats = calibrate(modular_copy(model), runner(TEST[:70]))
    fast = quantize(model, QuantSettings.from_dict(changes), stats)
    slow = quantize(model, QuantSettings.from_dict(changes), stats)
    part(slow, "rnn")._runner = run_cell
    state_fast = state_slow = None
    for ids in TEST[:70].split(35):
        logits_fast, state_fast = fast(ids, state_fast)
        logits_slow, state_slow = slow(ids, state_slow)
        assert torch.equal(logits_fast, logits_slow)
        for ours, theirs in zip(state_fast, state_slow, strict=True):
            assert torch.equal(ours, theirs)


@torch.no_grad()
def test_a_zero_point_between_two_integers_is_walked_by_the_wrappers(model, stats):
    fast, slow = (quantize(model, QuantSettings(), stats) for _ in range(2))
    part(slow, "rnn")._runner = run_cell
    for quantized in (fast, slow):
        wrapper = part(quantized, "rnn.cells.0.eltwiseadd_gate")
        wrapper.set_linear_quant_param("output_zero_point", 0.4)
    assert torch.equal(fast(TEST[:5])[0], slow(TEST[:5])[0])


@torch.no_grad()
def test_a_cell_state_of_16_bits_is_walked_without_a_call_of_any_element_wise_module(model, stats):
    quantized = quantize(model, load_preset("int8-best"), stats)
    quantized(TEST[:5])
    calls = []
    wrapper = type(part(quantized, "rnn.cells.0.eltwiseadd_cell"))
    forward = wrapper.forward
    wrapper.forward = lambda self, *inputs: calls.append(self) or forward(self, *inputs)
    try:
        quantized(TEST[:5])
    finally:
        wrapper.forward = forward
    assert calls == []


def test_a_tied_matrix_in_half_precision_counts_once(model, stats):
    sizes = quantized_bytes(quantize(model, load_preset("fp16"), stats))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sizes == {"weights": 0, "scales": 0, "biases": 0} | dict.fromkeys(
        ("other", "total"), 2 * parameters
    )
