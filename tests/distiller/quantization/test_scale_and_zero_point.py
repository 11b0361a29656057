"""Scales, zero points and integers against the original's, and the properties behind them."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import VECTORS

from lmbench.distiller.compat import q_utils
from lmbench.distiller.quantization.clipping import (
    ClipMode,
    get_quant_params_from_stats_dict,
    get_quant_params_from_tensor,
)
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.histogram import Histogram
from lmbench.distiller.quantization.modes import LinearQuantMode, check_bits
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantizeSTE,
    linear_dequantize,
    linear_quantize_clamp,
)

KNOWN = json.loads((VECTORS / "quant_params.json").read_text(encoding="utf-8"))
TENSORS = {
    name: torch.tensor(entry["data"]).view(entry["shape"])
    for name, entry in KNOWN["tensors"].items()
}


def assert_params(got, case):
    scale, zero_point = got
    torch.testing.assert_close(
        scale.flatten(),
        torch.tensor(case["scale"]),
        rtol=1e-6,
        atol=0,
        msg=lambda m: f"{case}: {m}",
    )
    assert zero_point.flatten().tolist() == pytest.approx(case["zp"], rel=1e-6), case


def test_every_scale_and_zero_point_from_a_tensor_is_the_originals():
    for case in KNOWN["from_tensor"]:
        arguments = (
            TENSORS[case["tensor"]],
            case["bits"],
            LinearQuantMode[case["mode"]],
            ClipMode[case["clip"]],
            case["per_channel"],
            KNOWN["n_stds"] if case["clip"] == "N_STD" else None,
        )
        if "exception" in case:
            with pytest.raises(ValueError, match="per channel"):
                get_quant_params_from_tensor(*arguments)
        else:
            got = get_quant_params_from_tensor(*arguments)
            assert_params(got, case)
            if "shape" in case:
                assert list(got[0].shape) == case["shape"]


def test_every_scale_and_zero_point_from_statistics_is_the_originals():
    for case in KNOWN["from_stats"]:
        got = get_quant_params_from_stats_dict(
            KNOWN["stats"][case["stats"]],
            case["bits"],
            LinearQuantMode[case["mode"]],
            ClipMode[case["clip"]],
            KNOWN["n_stds"] if case["clip"] == "N_STD" else None,
            case["half_range"],
        )
        assert_params(got, case)


def test_every_scalar_range_gives_the_originals_parameters():
    for case in KNOWN["scalars"]:
        function = getattr(q_utils, case["fn"])
        if "exception" in case:
            with pytest.raises(ValueError, match="saturation"):
                function(*case["args"])
            continue
        arguments = {key: value for key, value in case.items() if key not in ("fn", "out", "bits")}
        got = function(case["bits"], **arguments)
        assert [float(value) for value in got] == pytest.approx(case["out"], rel=1e-6), case


def test_quantized_ranges_are_the_originals():
    for case in KNOWN["quantized_ranges"]:
        got = q_utils.get_quantized_range(case["bits"], case["signed"], case["restrict"])
        assert list(got) == case["out"]


def test_integers_and_their_values_are_the_originals():
    for case in KNOWN["quant_dequant"]:
        x = TENSORS[case["tensor"]] if "values" not in case else torch.tensor(case["values"])
        scale, zero_point = torch.tensor(case["scale"]), torch.tensor(case["zp"])
        if len(scale) > 1:
            scale, zero_point = scale[:, None], zero_point[:, None]
        q = linear_quantize_clamp(x, scale, zero_point, case["qmin"], case["qmax"])
        assert q.flatten().tolist() == case["q"]
        if "dq" in case:
            back = linear_dequantize(q, scale, zero_point).flatten()
            torch.testing.assert_close(back, torch.tensor(case["dq"]), rtol=1e-6, atol=1e-12)


def test_scales_as_multiplier_and_shift_are_the_originals():
    for case in KNOWN["scale_approx"]:
        multiplier, shift = q_utils.get_scale_approximation_params(
            case["fp32_scale"], case["mult_bits"]
        )
        assert (float(multiplier), float(shift)) == (case["multiplier"], case["shift"]), case
        limited = q_utils.get_scale_approximation_params(
            case["fp32_scale"], case["mult_bits"], limit=True
        )
        assert [float(v) for v in limited] == [case["limited_multiplier"], case["limited_shift"]]
        approx = q_utils.approx_scale_as_mult_and_shift(case["fp32_scale"], case["mult_bits"])
        assert float(approx) == pytest.approx(case["approx"], rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(3), 8, LinearQuantMode.SYMMETRIC, ClipMode.NONE, True), "2 or 4 dimensions"),
        ((torch.zeros(3, 3), 8, LinearQuantMode.SYMMETRIC, ClipMode.N_STD), "needs clip_n_stds"),
        ((torch.ones(3, 3), 8, LinearQuantMode.SYMMETRIC, ClipMode.N_STD, False, 0.0), "above 0"),
        ((torch.ones(3, 3), 16, LinearQuantMode.SYMMETRIC, ClipMode.GAUSS), "up to 8 bits"),
    ],
)
def test_a_range_that_cannot_be_chosen_says_why(arguments, message):
    with pytest.raises(QuantizationError, match=message):
        get_quant_params_from_tensor(*arguments)


def test_statistics_without_the_needed_entry_are_refused_by_name():
    stats = {"min": -1.0, "max": 1.0, "mean": 0.0, "avg_min": -1.0}
    for clip, missing in ((ClipMode.LAPLACE, "'b'"), (ClipMode.MSE, "histogram")):
        with pytest.raises(QuantizationError, match=missing):
            get_quant_params_from_stats_dict(stats, 8, LinearQuantMode.SYMMETRIC, clip)


@pytest.mark.parametrize("bits", [1, 17, 8.0, True, "8"])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(QuantizationError, match="2 to 16"):
        check_bits(bits, "bits_weights")


modes = st.sampled_from(list(LinearQuantMode))
values = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


@settings(max_examples=60)
@given(values, modes, st.integers(2, 16), st.sampled_from([ClipMode.NONE, ClipMode.MSE]))
def test_zero_is_exact_and_values_inside_the_range_are_within_half_a_step(xs, mode, bits, clip):
    x = torch.tensor(xs)
    scale, zero_point = get_quant_params_from_tensor(x, bits, mode, clip)
    low, high = mode.quantized_range(bits)
    q = linear_quantize_clamp(x, scale, zero_point, low, high)
    back = linear_dequantize(q, scale, zero_point)
    zero = linear_quantize_clamp(torch.zeros(()), scale, zero_point, low, high)
    assert float(linear_dequantize(zero, scale, zero_point)) == 0.0
    assert q.min() >= low
    assert q.max() <= high
    inside = (q > low) & (q < high)
    limit = (0.5 + 2**-7) / float(scale) + 1e-6
    assert bool(((back - x).abs()[inside] <= limit).all())


def test_the_straight_through_gradient_is_the_identity():
    x = torch.randn(5, requires_grad=True)
    y = LinearQuantizeSTE.apply(x, torch.tensor(3.0), torch.tensor(0.0), True, False)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.ones(5))


@pytest.mark.parametrize("clip", [ClipMode.MSE, ClipMode.PERCENTILE, ClipMode.KL])
@pytest.mark.parametrize("mode", [LinearQuantMode.SYMMETRIC, LinearQuantMode.ASYMMETRIC_SIGNED])
def test_fitted_ranges_beat_the_full_range_when_there_are_outliers(clip, mode):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, generator=generator)
    x[:3] = torch.tensor([40.0, -35.0, 30.0])

    def error(chosen):
        scale, zero_point = get_quant_params_from_tensor(x, 4, mode, chosen)
        q = linear_quantize_clamp(x, scale, zero_point, *mode.quantized_range(4))
        return float((linear_dequantize(q, scale, zero_point) - x)[3:].square().mean())

    assert error(clip) < error(ClipMode.NONE) / 4


def test_mse_clipping_is_never_worse_than_no_clipping():
    generator = torch.Generator().manual_seed(0)
    for mode in LinearQuantMode:
        x = torch.randn(64, 50, generator=generator)
        errors = {}
        for clip in (ClipMode.NONE, ClipMode.MSE):
            scale, zero_point = get_quant_params_from_tensor(x, 4, mode, clip, per_channel=True)
            q = linear_quantize_clamp(x, scale, zero_point, *mode.quantized_range(4))
            errors[clip] = float((linear_dequantize(q, scale, zero_point) - x).square().mean())
        assert errors[ClipMode.MSE] < errors[ClipMode.NONE]


@settings(max_examples=40)
@given(st.lists(values, min_size=1, max_size=5))
def test_a_growing_histogram_counts_everything_and_keeps_the_mean(batches):
    tensors = [torch.tensor(batch) for batch in batches]
    histogram = Histogram.of(tensors[0])
    for tensor in tensors[1:]:
        histogram = histogram.add(tensor)
    everything = torch.cat(tensors).double()
    assert histogram.total == len(everything)
    assert float(histogram.sums.sum()) == pytest.approx(float(everything.sum()), abs=1e-6)
    assert histogram.low <= float(everything.min())
    assert histogram.high >= float(everything.max())
    mean = float(everything.mean())
    deviation = float((everything - mean).abs().mean())
    assert histogram.mean_deviation(mean) == pytest.approx(deviation, abs=histogram.width)
