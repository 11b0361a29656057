"""What scripts and the notebook written for the original do around post-training quantization."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import pytest
import torch
import yaml
from ptq_world import LanguageModel, batchify, part, runner
from torch import Tensor, nn

import lmbench.distiller as distiller
from lmbench.distiller.modules import (
    BatchMatmul,
    Chunk,
    Concat,
    DistillerGRU,
    DistillerLSTM,
    DistillerLSTMCell,
    EltwiseDiv,
    EltwiseMult,
    EltwiseSub,
    Matmul,
    Split,
    Stack,
)
from lmbench.distiller.quantization import (
    ClipMode,
    LinearQuantMode,
    ModuleQuantMode,
    PostTrainLinearQuantizer,
    QuantizationError,
    RangeLinearEmbeddingWrapper,
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantConcatWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantMatmulWrapper,
    add_post_train_quant_args,
    calibrate,
    modular_copy,
)
from lmbench.distiller.quantization.scale_and_zero_point import linear_quantize_clamp
from lmbench.distiller.quantization.wrappers import Grid, attach_grid

DATA = batchify(torch.randint(40, (400,), generator=torch.Generator().manual_seed(0)).numpy(), 8)


def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(40, 12, 1).eval()


def prepared(**arguments: Any) -> PostTrainLinearQuantizer:
    plain = modular_copy(model())
    stats = calibrate(plain, runner(DATA))
    quantizer = PostTrainLinearQuantizer(plain, model_activation_stats=stats, **arguments)
    quantizer.prepare_model()
    return quantizer


def stats_of(**ranges: tuple[float, float]) -> dict[str, Any]:
    def entry(low: float, high: float) -> dict[str, float]:
        return {"min": low, "max": high, "avg_min": low, "avg_max": high, "mean": 0.0, "std": 1.0}

    inputs = [value for key, value in ranges.items() if key != "output"]
    return {
        "inputs": {i: entry(*value) for i, value in enumerate(inputs)},
        "output": entry(*ranges["output"]),
    }


@pytest.mark.parametrize("kind", [DistillerLSTM, DistillerGRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_makes_its_first_state_of_zeros(kind: Any, bidirectional: bool) -> None:
    layer = kind(3, 5, 2, bidirectional=bidirectional).eval()
    state = layer.init_hidden(4)
    parts = state if kind is DistillerLSTM else (state,)
    assert [tuple(p.shape) for p in parts] == [(4 if bidirectional else 2, 4, 5)] * len(parts)
    assert not any(p.any() for p in parts)
    x = torch.randn(6, 4, 3)
    assert torch.equal(layer(x, h=state)[0], layer(x, h=None)[0])
    assert torch.equal(layer(x, h=state)[0], layer(x)[0])


def test_a_cell_makes_its_first_state_of_zeros() -> None:
    cell = DistillerLSTMCell(3, 5)
    h, c = cell.init_hidden(2, device="cpu")
    assert h.shape == c.shape == (2, 5)
    x = torch.randn(2, 3)
    assert torch.equal(cell(x, h=(h, c))[0], cell(x, h=None)[0])


@pytest.mark.parametrize("bias", [True, False])
def test_a_fully_quantized_model_has_a_parameter_that_tells_its_device(bias: bool) -> None:
    plain = model()
    if not bias:
        plain.decoder = nn.Linear(12, 40, bias=False)
        plain.rnn = nn.LSTM(12, 12, bias=False)
    plain = modular_copy(plain)
    stats = calibrate(plain, runner(DATA))
    quantizer = PostTrainLinearQuantizer(plain, model_activation_stats=stats)
    quantized = quantizer.prepare_model()
    weight = next(quantized.parameters())
    assert (weight.device.type, weight.dtype) == ("cpu", torch.float32)
    assert not any(p.requires_grad for p in quantized.parameters())
    assert part(quantized, "rnn").init_hidden(3)[0].shape == (1, 3, 12)


def test_integers_of_ties_are_those_of_the_formula() -> None:
    grid = Grid(21.25, -149.0, 0, 255)
    x = torch.tensor([2.0, -2.0, 0.02352941, 0.0, 100.0, -100.0])
    expected = linear_quantize_clamp(x, grid.scale, grid.zero_point, 0, 255) + grid.zero_point
    assert torch.equal(grid.integers(x), expected)
    assert grid.integers(torch.tensor([2.0])).tolist() == [43 - 149 + 149 - 0.0]
    halves = torch.arange(-6.5, 7.0, 1.0)
    for zero in (-3.0, -2.0, 0.0, 5.0):
        odd = Grid(1.0, zero, -8, 7)
        expected = linear_quantize_clamp(halves, 1.0, zero, -8, 7) + zero
        assert torch.equal(odd.integers(halves), expected)


def test_results_on_a_tie_are_rounded_before_the_zero_point_too() -> None:
    stats = stats_of(a=(-1.0, 2.0), b=(-1.0, 2.0), output=(0.0, 3.0))
    wrapper = RangeLinearQuantEltwiseMultWrapper(
        EltwiseMult(), 2, LinearQuantMode.ASYMMETRIC_SIGNED, ClipMode.NONE, stats
    ).eval()
    half = Grid(2.0, 0.0, -8, 7)
    out = wrapper(
        attach_grid(torch.tensor([0.5, 1.5]), half), attach_grid(torch.tensor([1.0, 1.0]), half)
    )
    # Scale 1 and zero point 2: round(0.5 - 2) + 2, round(1.5 - 2) + 2.
    assert out.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    "made, layer",
    [
        (RangeLinearQuantEltwiseAddWrapper, EltwiseSub()),
        (RangeLinearQuantEltwiseMultWrapper, EltwiseMult()),
    ],
)
def test_elementwise_wrappers_take_the_mode_third(made: Any, layer: nn.Module) -> None:
    stats = stats_of(a=(-1.0, 2.0), b=(-1.0, 2.0), output=(-2.0, 4.0))
    mode = LinearQuantMode.ASYMMETRIC_SIGNED
    wrapper = made(layer, 8, mode, ClipMode.AVG, stats)
    assert wrapper.mode == ModuleQuantMode(mode, mode)
    assert wrapper.clip_acts is ClipMode.AVG
    assert wrapper.num_bits_accum == 32
    assert wrapper.output_grid is not None


def test_a_product_of_two_16_bit_operands_is_the_exact_integer() -> None:
    stats = stats_of(a=(0.0, 1.0), b=(0.0, 1.0), output=(0.0, 1.0))
    mode = LinearQuantMode.SYMMETRIC
    wrapper = RangeLinearQuantEltwiseMultWrapper(
        EltwiseMult(), 16, mode, ClipMode.NONE, stats, num_bits_accum=48
    )
    grid = Grid(1.0, 0.0, -65535, 65535)
    product, _ = wrapper.accumulate([torch.tensor([65535.0]), torch.tensor([65533.0])], [grid] * 2)
    assert product.double().tolist() == [65535 * 65533]


def test_a_fake_quantizer_leaves_its_inputs_alone_unless_asked() -> None:
    stats = stats_of(a=(-1.0, 1.0), output=(-1.0, 1.0))
    mode = LinearQuantMode.SYMMETRIC_RESTRICTED
    x = torch.tensor([0.3, 0.6])
    alone = RangeLinearFakeQuantWrapper(nn.Identity(), 2, mode, ClipMode.NONE, stats).eval()
    assert alone(x).tolist() == [0.0, 1.0]
    fine = RangeLinearFakeQuantWrapper(
        nn.Tanh(), 8, mode, activation_stats=stats, fpq_module="16"
    ).eval()
    torch.testing.assert_close(fine(x), x.tanh(), rtol=0, atol=0.01)
    coarse = RangeLinearFakeQuantWrapper(
        nn.Tanh(),
        2,
        mode,
        activation_stats=stats,
        inputs_quant_auto_fallback=True,
        quantize_inputs=True,
    ).eval()
    assert coarse(x).tolist() == [0.0, 1.0]


def test_an_embedding_wrapper_has_one_scale_as_the_originals() -> None:
    embedding = nn.Embedding(10, 4)
    stats = stats_of(output=(-2.0, 2.0))
    wrapper = RangeLinearEmbeddingWrapper(embedding, 8, LinearQuantMode.SYMMETRIC, stats)
    assert wrapper.w_scale.shape == ()
    assert float(wrapper.w_scale) == pytest.approx(127.5 / 2)


def test_operations_are_modules() -> None:
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    assert isinstance(EltwiseSub(inplace=True), EltwiseSub)
    assert torch.equal(EltwiseSub(inplace=True)(x.clone(), y), x - y)
    assert torch.equal(EltwiseDiv()(x, y), x / y)
    assert torch.equal(Concat(1)(x, y), torch.cat([x, y], 1))
    assert torch.equal(Stack(1)([x, y]), torch.stack([x, y], 1))
    assert [part.shape for part in Split([1, 5], 1)(x)] == [(4, 1), (4, 5)]
    assert [part.shape for part in Chunk(2)(x)] == [(2, 6), (2, 6)]
    assert torch.equal(Matmul()(x, y.T), x @ y.T)
    torch.testing.assert_close(BatchMatmul()(x[None], y.T[None]), (x @ y.T)[None])


class Attention(nn.Module):
    """The operations that are quantized beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.joined, self.product, self.decoder = Concat(1), Matmul(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.joined(x, 2 * x)
        return self.decoder(self.product(joined, joined.T))


def test_joining_and_multiplying_are_quantized() -> None:
    torch.manual_seed(0)
    plain, x = Attention().eval(), torch.randn(4, 3)
    stats = calibrate(plain, lambda m: m(x))
    expected = plain(x)
    quantizer = PostTrainLinearQuantizer(
        plain, mode="ASYMMETRIC_SIGNED", model_activation_stats=stats
    )
    quantized = quantizer.prepare_model()
    assert isinstance(part(quantized, "joined"), RangeLinearQuantConcatWrapper)
    assert isinstance(part(quantized, "product"), RangeLinearQuantMatmulWrapper)
    error = float((quantized(x) - expected).detach().abs().max())
    assert 0 < error < 0.03 * float(expected.detach().abs().max())


def test_statistics_and_parameters_of_a_quantizer_can_be_read_and_set() -> None:
    quantizer = prepared(save_fp_weights=True)
    assert quantizer.model_activation_stats is not None
    assert "decoder" in quantizer.model_activation_stats
    params = quantizer.linear_quant_params
    assert {"encoder.w_scale", "decoder.output_scale", "decoder.w_zero_point"} < set(params)
    assert dict(quantizer.named_linear_quant_params()).keys() == params.keys()
    before = quantizer.model(DATA[:5])[0]
    scale = float(params["decoder.output_scale"])
    quantizer.set_linear_quant_param("decoder.output_scale", scale / 16)
    coarse = quantizer.model(DATA[:5])[0]
    assert len(coarse.unique()) < len(before.unique())
    quantizer.update_linear_quant_params({"decoder.output_scale": scale})
    assert torch.equal(quantizer.model(DATA[:5])[0], before)
    weights = part(quantizer.model, "decoder").weight.clone()
    quantizer.set_linear_quant_param("decoder.w_scale", 3.0)
    assert len(part(quantizer.model, "decoder").weight.unique()) < len(weights.unique())
    with pytest.raises(QuantizationError, match="cannot be set"):
        quantizer.set_linear_quant_param("decoder.speed", 1.0)
    with pytest.raises(QuantizationError, match="cannot be set"):
        quantizer.set_linear_quant_param("nothing.output_scale", 1.0)


def parse(*flags: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    add_post_train_quant_args(parser)
    return parser.parse_args(flags)


def test_a_quantizer_is_made_from_the_originals_flags() -> None:
    args = parse(
        *("--qe", "--qe-mode", "asym_s", "--qe-mode-wts", "SYMMETRIC", "--qe-bits-acts", "6"),
        *("--qe-bits-wts", "4", "--qe-clip-acts", "avg", "--qe-per-channel", "--qencl", "decoder"),
        *("--qe-no-quant-layers", "encoder", "--qe-bits-accum", "24"),
    )
    assert args.quantize_eval
    plain = modular_copy(model())
    quantizer = PostTrainLinearQuantizer.from_args(plain, args)
    base = quantizer.settings.base
    assert (base.bits_activations, base.bits_weights, base.bits_accum) == (6, 4, 24)
    assert base.mode == ModuleQuantMode(
        LinearQuantMode.ASYMMETRIC_SIGNED, LinearQuantMode.SYMMETRIC
    )
    assert (base.clip_acts, base.per_channel_wts) == (ClipMode.AVG, True)
    chosen = quantizer.settings.resolve(["encoder", "decoder"])
    assert chosen["decoder"].clip_acts is ClipMode.NONE
    assert (chosen["encoder"].bits_activations, chosen["encoder"].bits_weights) == (None, None)
    default = PostTrainLinearQuantizer.from_args(plain, parse())
    assert default.settings == PostTrainLinearQuantizer(plain).settings
    for wrong in (["--qe-mode", "odd"], ["--qe-bits-acts", "1"], ["--qe-calibration", "2"]):
        with pytest.raises(Exception, match="argument --qe"):
            parse(*wrong)


def test_a_quantizer_is_made_from_a_file_that_a_flag_names(tmp_path: Any) -> None:
    entry = {"class": "PostTrainLinearQuantizer", "bits_activations": 7, "mode": "SYMMETRIC"}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"quantizers": {"q": entry}}))
    args = parse("--qe-config-file", str(file))
    quantizer = PostTrainLinearQuantizer.from_args(modular_copy(model()), args)
    assert quantizer.settings.base.bits_activations == 7


def test_numbers_give_numbers_and_tensors_tensors() -> None:
    q_utils = distiller.quantization.q_utils
    scale, zero = q_utils.symmetric_linear_quantization_params(8, 4.0)
    assert (type(scale), type(zero)) == (float, float)
    assert scale == 127.5 / 4
    both = q_utils.asymmetric_linear_quantization_params(8, -1.0, 3.0)
    assert both == (63.75, -64.0)
    assert [type(value) for value in q_utils.get_scale_approximation_params(0.3, 8)] == [float] * 2
    assert type(q_utils.approx_scale_as_mult_and_shift(0.3, 8)) is float
    tensors = q_utils.asymmetric_linear_quantization_params(8, torch.tensor(-1.0), torch.ones(2))
    assert all(isinstance(value, Tensor) for value in tensors)


def test_measures_of_a_tensor_are_the_originals() -> None:
    q_utils = distiller.quantization.q_utils
    t = torch.tensor([[-4.0, 1.0, 2.0], [-1.0, 0.0, 5.0]])
    assert float(q_utils.get_tensor_avg_max_abs(t, across_dim=0)) == 3.5
    assert float(q_utils.get_tensor_avg_max_abs(t)) == 5.0
    low, high = q_utils.get_tensor_mean_n_stds_min_max(t, dim=0, n_stds=1)
    for row, a, b in zip(t, low, high, strict=True):
        assert float(a) == pytest.approx(max(float(row.min()), float(row.mean() - row.std())))
        assert float(b) == pytest.approx(min(float(row.max()), float(row.mean() + row.std())))
    assert q_utils.get_tensor_mean_n_stds_max_abs(t, n_stds=2).shape == ()
    with pytest.raises(ValueError, match="per_dim: 2"):
        q_utils.get_tensor_min_max(t, 2)
    with pytest.raises(ValueError, match="dim: 1"):
        q_utils.get_tensor_mean_n_stds_min_max(t, 1, 1)
