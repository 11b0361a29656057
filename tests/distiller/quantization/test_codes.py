"""Alternating multi-bit codes against a plain search, and quantized models of them."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptq_world import batchify, load_tiny, mean_loss, read_vectors
from safetensors.torch import load, save

from lmbench.distiller.quantization import (
    QuantizationError,
    QuantSettings,
    export_state,
    quantize,
    quantized_bytes,
    restore,
)
from lmbench.distiller.quantization.codes import fit_codes, keeps_zeros, nearest_levels

_, ARRAYS = read_vectors()
TEST = batchify(ARRAYS["test_tokens"])[:71]
CODES = ((1, None), (2, None), (2, 8), (3, None), (4, 8))


def values(weight: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    pruned = keeps_zeros(weight, bits)
    unit, steps = fit_codes(weight, bits, group, pruned=pruned)
    return nearest_levels(weight, unit, steps, group, pruned=pruned) * unit


def plainly(row: np.ndarray, bits: int, rounds: int) -> float:
    """The squared error of a row after the paper's algorithm 2, by numpy's least squares."""
    left, planes = row.astype(np.float64), []
    for _ in range(bits):
        planes.append(np.where(left >= 0, 1.0, -1.0))
        left = left - np.abs(left).mean() * planes[-1]
    table = np.array(list(itertools.product((-1.0, 1.0), repeat=bits)))
    codes = np.stack(planes, 1)  # (n, k)
    error = np.inf
    for _ in range(rounds):
        alpha = np.linalg.lstsq(codes, row.astype(np.float64), rcond=None)[0]
        codes = table[np.abs(row[:, None] - table @ alpha).argmin(1)]
        error = float(np.square(row - codes @ alpha).sum())
    return error


def error(weight: torch.Tensor, bits: int, group: int | None = None) -> float:
    return float((values(weight, bits, group) - weight).square().sum())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_error_is_that_of_the_papers_algorithm(bits):
    weight = torch.randn(60, 200, generator=torch.Generator().manual_seed(bits))
    wanted = sum(plainly(row, bits, 16) for row in weight.numpy())
    # Rounding the scales to a row's unit costs least where the error is large.
    assert error(weight, bits) == pytest.approx(wanted, rel=0.05 if bits == 4 else 0.02)


def test_normal_weights_come_near_the_best_quantizer_that_there_is():
    """Max 1960: the least mean squared error of a normal variable in 2, 4 and 8 levels."""
    weight = torch.randn(300, 2000, generator=torch.Generator().manual_seed(5))
    # Three scales do not make any eight levels.
    for bits, best, near in ((1, 0.3634, 0.01), (2, 0.1175, 0.01), (3, 0.03454, 0.08)):
        assert error(weight, bits) / weight.numel() == pytest.approx(best, rel=near)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_each_weight_is_the_nearest_sum_of_its_groups_scales(bits, rows, columns, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[::3] *= 1e-3
    unit, steps = fit_codes(weight, bits, 16)
    levels = nearest_levels(weight, unit, steps, 16)
    assert levels.abs().max() <= 127
    assert torch.equal(levels, levels.round())
    assert torch.equal(torch.frexp(unit).mantissa, torch.full_like(unit, 0.5))
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits)))  # (2^k, k)
    for g, part in enumerate(weight.split(16, dim=1)):
        sums = steps[:, :, g].T.float() @ signs.T * unit  # (rows, 2^k)
        nearest = (part[..., None] - sums[:, None]).abs().min(2).values
        found = (part - levels[:, g * 16 : (g + 1) * 16] * unit).abs()
        torch.testing.assert_close(found, nearest)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_what_has_few_values_is_kept_and_zeros_stay_zeros(bits):
    weight = torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.0] * 4, [2.0] * 4, [-1e-30] * 4])
    assert torch.equal(values(weight, bits), values(values(weight, bits), bits))
    assert torch.equal(values(weight, bits)[1], weight[1])
    torch.testing.assert_close(values(weight, bits), weight, rtol=0.01, atol=0)


@pytest.mark.parametrize("bits,group", [(1, None), (2, None), (3, None), (1, 128), (2, 128)])
def test_zeros_of_a_pruned_weight_stay_and_do_not_count(bits, group):
    """The error is that of the paper's algorithm for the weights that are left, alone."""
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(60, 512, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < 0.2
    weight[7] = 0.0
    found = values(weight, bits, group)
    assert not found[weight == 0].any()
    assert (found != 0).sum() > 0.95 * (weight != 0).sum()
    wanted = sum(
        plainly(part[part != 0], bits, 16)
        for row in weight.numpy()
        for part in np.split(row, 4 if group else 1)
        if part.any()
    )
    assert float((found - weight).square().sum()) == pytest.approx(wanted, rel=0.03)


def test_scales_for_groups_leave_less_than_scales_for_rows():
    scales = torch.rand(50, 4).repeat_interleave(64, 1)[:, :200]
    weight = torch.randn(50, 200, generator=torch.Generator().manual_seed(2)) * scales
    assert error(weight, 2, 64) < 0.8 * error(weight, 2)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group", [None, 8])
@torch.no_grad()
def test_a_model_of_codes_comes_back_to_the_last_bit_and_counts_its_bits(bits, group):
    settings = QuantSettings.from_dict(
        {
            "bits_activations": None,
            "bits_weights": bits,
            "rounding": "codes",
            "group_size": group,
            # Of no account to codes.
            "mode": "ASYMMETRIC_UNSIGNED",
        }
    )
    quantized = quantize(load_tiny(ARRAYS, tied=True), settings)
    tensors, meta = export_state(quantized, settings)
    again = restore(load_tiny(ARRAYS, tied=True), load(save(tensors)), json.loads(json.dumps(meta)))
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])
    sizes = quantized_bytes(quantized)
    assert sizes == quantized_bytes(again)
    plain = load_tiny(ARRAYS, tied=True)
    matrices = [p for p in plain.parameters() if p.dim() == 2]
    assert sizes["weights"] == sum(-(-p.numel() * bits // 8) for p in matrices)
    groups = [-(-p.shape[1] // (group or p.shape[1])) for p in matrices]
    counted = sum(2 * bits * len(p) * n for p, n in zip(matrices, groups, strict=True))
    assert sizes["scales"] == counted


@torch.no_grad()
def test_more_bits_lose_less_and_activations_may_be_integers_too():
    model = load_tiny(ARRAYS, tied=True)
    base = {"bits_activations": None, "rounding": "codes"}
    losses = [
        mean_loss(quantize(model, QuantSettings.from_dict({**base, "bits_weights": bits})), TEST)
        for bits in (1, 2, 3, 4)
    ]
    assert losses[3] == pytest.approx(mean_loss(model, TEST), abs=0.03)
    assert abs(losses[3] - mean_loss(model, TEST)) < abs(losses[0] - mean_loss(model, TEST))
    both = QuantSettings.from_dict({"rounding": "codes", "bits_weights": 4})
    assert mean_loss(quantize(model, both), TEST) == pytest.approx(losses[3], abs=0.01)


@torch.no_grad()
def test_a_module_that_is_rounded_to_nearest_beside_codes_comes_back():
    settings = QuantSettings.from_dict(
        {
            "bits_activations": None,
            "bits_weights": 2,
            "rounding": "codes",
            "overrides": {"decoder": {"rounding": "nearest", "bits_weights": 8}},
        }
    )
    quantized = quantize(load_tiny(ARRAYS, tied=False), settings)
    tensors, meta = export_state(quantized, settings)
    again = restore(load_tiny(ARRAYS, tied=False), tensors, json.loads(json.dumps(meta)))
    assert torch.equal(again(TEST[:35])[0], quantized(TEST[:35])[0])


# Of four scales for the three weights that are left of a group of eight, there is little to gain.
@pytest.mark.parametrize(
    "bits, group, kept, share",
    [
        *((bits, group, 1.0, 0.65) for bits, group in CODES),
        *((bits, group, 0.4, 1.0 if bits == 4 else 0.85) for bits, group in CODES),
    ],
)
@torch.no_grad()
def test_calibrated_codes_are_sums_too_and_change_outputs_less(bits, group, kept, share):
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(500, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
    layer = torch.nn.Linear(24, 400)
    weight = layer.weight.copy_(torch.randn(400, 24, generator=generator))
    weight *= torch.rand(400, 24, generator=generator) < kept

    def rounded(rounding: str) -> Any:
        chosen = {"bits_activations": None, "bits_weights": bits, "group_size": group}
        settings = QuantSettings.from_dict({**chosen, "rounding": rounding})
        moments = {"0": (x.T @ x).double() / len(x)}
        return quantize(torch.nn.Sequential(layer), settings, None, moments)[0]

    plain, calibrated = rounded("codes"), rounded("calibrated-codes")
    assert bool((calibrated.weight[weight == 0] == 0).all())
    nearest = nearest_levels(
        calibrated.weight, 1 / calibrated.w_scale, calibrated.w_steps, group, pruned=kept < 1
    )
    assert torch.equal(nearest, calibrated.weight_q.float())
    plainly, less = (
        float(((one.weight - weight) @ x.T).square().mean()) for one in (plain, calibrated)
    )
    assert less < share * plainly


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"rounding": "codes"}, "8 bits is out of range, use 1 to 4"),
        ({"rounding": "calibrated-codes"}, "8 bits is out of range, use 1 to 4"),
        ({"bits_weights": 1}, "1 bits is out of range, use 2 to 16"),
        ({"rounding": "codes", "bits_weights": 2, "group_size": 12}, "multiple of 8"),
    ],
)
def test_settings_that_no_codes_have_are_refused(settings, words):
    with pytest.raises(QuantizationError, match=words):
        QuantSettings.from_dict(settings)
