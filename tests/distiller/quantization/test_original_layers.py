"""Quantized layers as code written for the original builds, marks, reads and changes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ptq_world import LanguageModel, batchify, part, runner
from torch import Tensor, nn
from torch.nn import functional as F

from lmbench.distiller.compat.range_linear import TensorQuantMetadata
from lmbench.distiller.modules import Concat, EltwiseAdd, EltwiseMult, Matmul
from lmbench.distiller.quantization import (
    ClipMode,
    LinearQuantMode,
    PostTrainLinearQuantizer,
    QuantizationError,
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantConcatWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantMatmulWrapper,
    RangeLinearQuantParamLayerWrapper,
    calibrate,
    distiller_qparams_to_pytorch,
    distiller_quantized_tensor_to_pytorch,
    linear_dequantize,
    linear_quantize_clamp,
    modular_copy,
)
from lmbench.distiller.quantization.clipping import get_quant_params_from_tensor
from lmbench.distiller.quantization.wrappers import Grid, attach_grid

SYMMETRIC, UNSIGNED = LinearQuantMode.SYMMETRIC, LinearQuantMode.ASYMMETRIC_UNSIGNED
DATA = batchify(torch.randint(40, (400,), generator=torch.Generator().manual_seed(0)).numpy(), 8)


def quantizer_of(**arguments: Any) -> PostTrainLinearQuantizer:
    torch.manual_seed(0)
    plain = modular_copy(LanguageModel(40, 12, 1).eval())
    stats = calibrate(plain, runner(DATA))
    quantizer = PostTrainLinearQuantizer(plain, model_activation_stats=stats, **arguments)
    quantizer.prepare_model()
    return quantizer


def image(values: Tensor, bits: int, mode: LinearQuantMode, per_channel: bool = False) -> Tensor:
    params = get_quant_params_from_tensor(values, bits, mode, per_channel=per_channel)
    integers = linear_quantize_clamp(values, *params, *mode.quantized_range(bits))
    return linear_dequantize(integers, *params)


@pytest.mark.parametrize(
    "made",
    [
        RangeLinearQuantConcatWrapper,
        RangeLinearQuantEltwiseAddWrapper,
        RangeLinearQuantEltwiseMultWrapper,
        RangeLinearQuantMatmulWrapper,
    ],
)
def test_a_wrapper_refuses_a_module_that_it_cannot_stand_in_for(made: Any) -> None:
    with pytest.raises(ValueError, match=r"not a Tanh"):
        made(nn.Tanh(), 8)


@pytest.mark.parametrize(
    "made, layer",
    [
        (RangeLinearQuantConcatWrapper, Concat()),
        (RangeLinearQuantEltwiseAddWrapper, EltwiseAdd()),
        (RangeLinearQuantEltwiseMultWrapper, EltwiseMult()),
    ],
)
def test_operations_at_one_scale_need_statistics(made: Any, layer: nn.Module) -> None:
    with pytest.raises(NotImplementedError, match="calibrate first"):
        made(layer, 8, SYMMETRIC)
    floats = made(layer, None).eval()(torch.ones(2), torch.ones(2))
    assert torch.equal(floats, layer(torch.ones(2), torch.ones(2)))


def test_a_matrix_product_needs_no_statistics() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.randn(3, 5)
    out = RangeLinearQuantMatmulWrapper(Matmul(), 8).eval()(x, y)
    torch.testing.assert_close(out, x @ y, rtol=0, atol=0.1)


def test_a_tensor_may_carry_the_scale_under_the_originals_names() -> None:
    torch.manual_seed(0)
    layer = RangeLinearQuantParamLayerWrapper(nn.Linear(6, 4), 8, 8).eval()
    x = torch.randn(3, 6)
    expected = layer(attach_grid(x.clone(), Grid(2.0, 0.0, -128, 127)))
    x.quant_metadata = TensorQuantMetadata(  # type: ignore[attr-defined]
        torch.tensor(2.0), torch.tensor(0.0), -128, 127
    )
    assert torch.equal(layer(x), expected)
    del x.quant_metadata  # type: ignore[attr-defined]
    assert not torch.equal(layer(x), expected)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_alone_are_the_image_of_the_layers_own(per_channel: bool, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(9, 5, bias=bias)
    layer = RangeLinearQuantParamLayerWrapper(
        copy.deepcopy(plain), None, 8, 16, UNSIGNED, per_channel_wts=per_channel
    ).eval()
    inner: Any = layer.wrapped_module
    weight = image(plain.weight.detach(), 8, UNSIGNED, per_channel)
    kept = image(plain.bias.detach(), 16, UNSIGNED) if bias else None
    assert torch.equal(inner.weight, weight)
    if kept is not None:
        assert torch.equal(inner.bias, kept)
    x = torch.randn(3, 9)
    assert torch.equal(layer(x), F.linear(x, weight, kept))


def test_a_wrapped_layer_shows_its_wrappers_parameters_and_has_none() -> None:
    torch.manual_seed(0)
    for wrapper in (
        RangeLinearQuantParamLayerWrapper(nn.Linear(6, 4), 8, 4),
        RangeLinearEmbeddingWrapper(nn.Embedding(6, 4), 4),
    ):
        inner: Any = wrapper.wrapped_module
        assert not [name for name in wrapper.state_dict() if "wrapped_module" in name]
        assert not list(inner.parameters())
        twin: Any = copy.deepcopy(wrapper)
        twin.set_linear_quant_param("w_scale", 1.0)
        assert torch.equal(inner.weight, wrapper.weight)
        assert torch.equal(twin.wrapped_module.weight, twin.weight)
        assert not torch.equal(twin.weight, wrapper.weight)
        assert type(inner).__name__ in ("Linear", "Embedding")


def test_settings_of_a_wrapper_have_the_originals_names() -> None:
    quantizer = quantizer_of(
        clip_acts="AVG",
        clip_n_stds=0,
        per_channel_wts=True,
        bits_parameters=5,
        overrides={"rnn.cells.0.eltwisemult_hidden": {"clip_acts": "N_STD", "clip_n_stds": 2}},
    )
    hidden = part(quantizer.model, "rnn.cells.0.eltwisemult_hidden").output_quant_settings
    assert hidden == (8, SYMMETRIC, ClipMode.N_STD, 2, False, False)
    decoder = part(quantizer.model, "decoder")
    assert decoder.output_quant_settings.clip_mode is ClipMode.AVG
    assert decoder.weights_quant_settings == (5, SYMMETRIC, ClipMode.NONE, 0, False, True)


def test_a_changed_scale_reaches_the_walk_of_a_whole_cell() -> None:
    quantizer = quantizer_of()
    with torch.no_grad():
        before = quantizer.model(DATA[:5])[0]
        quantizer.set_linear_quant_param("rnn.cells.0.act_o.output_scale", 1.0)
        assert part(quantizer.model, "rnn.cells.0.fc_gate_h").force_readjust.item() is True
        after = quantizer.model(DATA[:5])[0]
        assert part(quantizer.model, "rnn.cells.0.fc_gate_h").force_readjust.item() is False
    assert not torch.equal(after, before)


def test_so_does_one_that_is_set_on_its_wrapper_alone() -> None:
    model = quantizer_of().model
    with torch.no_grad():
        before = model(DATA[:5])[0]
        part(model, "rnn.cells.0.act_o").set_linear_quant_param("output_scale", 1.0)
        after = model(DATA[:5])[0]
    assert not torch.equal(after, before)


def test_an_embedding_gets_one_scale_which_can_be_set_without_the_floats() -> None:
    embedding = part(quantizer_of().model, "encoder")
    assert embedding.w_scale.shape == ()
    scale = float(embedding.w_scale)
    before = embedding.weight
    embedding.set_linear_quant_param("w_scale", scale / 2)
    torch.testing.assert_close(embedding.weight, before, rtol=0, atol=1.001 / scale)
    rows = part(quantizer_of(overrides={"encoder": {"per_row_embedding": True}}).model, "encoder")
    assert rows.w_scale.shape == (40, 1)


def test_a_filter_leaves_out_weights_whose_floats_are_gone() -> None:
    for kept in (False, True):
        quantizer = quantizer_of(save_fp_weights=kept)
        names = {name for name, _ in quantizer.named_linear_quant_params(filter=True)}
        assert ("decoder.w_scale" in names) is kept
        assert "decoder.output_scale" in names
        assert "decoder.w_scale" in quantizer.linear_quant_params


def test_a_prepared_quantizer_shows_the_statistics_that_it_used() -> None:
    torch.manual_seed(0)
    plain = modular_copy(LanguageModel(40, 12, 1).eval())
    stats = calibrate(plain, runner(DATA))
    stats["rnn.cells.0.eltwiseadd_gate"]["output"].update(min=-15.6, max=15.4, avg_min=-6.4)
    quantizer = PostTrainLinearQuantizer(plain, model_activation_stats=stats)
    quantizer.prepare_model()
    assert quantizer.model_activation_stats is not None
    used = quantizer.model_activation_stats["rnn.cells.0.eltwiseadd_gate"]["output"]
    assert (used["min"], used["max"], used["avg_min"]) == (-6.0, 6.0, -6.0)
    assert stats["rnn.cells.0.eltwiseadd_gate"]["output"]["min"] == -15.6


def test_the_settings_of_each_module_are_saved_as_overrides(tmp_path: Path) -> None:
    mode = {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC"}
    quantizer = quantizer_of(
        mode=mode, clip_acts="AVG", overrides={"decoder": {"bits_weights": 4, "mode": "SYMMETRIC"}}
    )
    quantizer.save_per_layer_parameters(tmp_path)
    text = (tmp_path / "layer_quant_params.yaml").read_text(encoding="utf-8")
    again = quantizer_of(bits_parameters=2, overrides=text)
    with torch.no_grad():
        assert torch.equal(again.model(DATA[:5])[0], quantizer.model(DATA[:5])[0])
    # Sigmoids and tanhs stay integers where only the rest is computed in fp16.
    halves = quantizer_of(fpq_module="16")
    halves.save_per_layer_parameters(tmp_path)
    text = (tmp_path / "layer_quant_params.yaml").read_text(encoding="utf-8")
    for own in ({}, {"fpq_module": "16"}):
        again = quantizer_of(overrides=text, **own)
        for name, module in halves.model.named_modules():
            assert type(again.model.get_submodule(name)) is type(module)
    fresh = PostTrainLinearQuantizer(modular_copy(LanguageModel(40, 12, 1).eval()))
    with pytest.raises(QuantizationError, match="call prepare_model first"):
        fresh.save_per_layer_parameters(tmp_path)


@pytest.mark.parametrize("mode", list(LinearQuantMode))
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_become_torchs_quantized_tensors(
    mode: LinearQuantMode, dtype: torch.dtype, per_channel: bool
) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 50) + 0.3
    params = get_quant_params_from_tensor(values, 8, mode, per_channel=per_channel)
    integers = linear_quantize_clamp(values, *params, *mode.quantized_range(8))
    found = distiller_quantized_tensor_to_pytorch(integers, *params, 8, mode, dtype, per_channel)
    assert found.dtype == dtype
    torch.testing.assert_close(found.dequantize(), linear_dequantize(integers, *params))
    flat = (each.squeeze() for each in params)
    same = distiller_quantized_tensor_to_pytorch(integers, *flat, 8, mode, dtype, per_channel)
    assert torch.equal(same.dequantize(), found.dequantize())


@pytest.mark.parametrize("mode", list(LinearQuantMode))
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8])
def test_a_reduced_range_has_half_as_many_steps(mode: LinearQuantMode, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(400) + 0.3
    params = get_quant_params_from_tensor(values, 8, mode)
    scale, zero = distiller_qparams_to_pytorch(*params, 8, mode, dtype, reduce_range=True)
    integers = torch.quantize_per_tensor(values, float(scale), int(zero), dtype).int_repr().int()
    low, high = (-64, 63) if dtype == torch.qint8 else (0, 127)
    assert low - 1 <= int(integers.min()) <= int(integers.max()) <= high + 1
    near = (integers - zero) * scale
    torch.testing.assert_close(near, values, rtol=0, atol=float(scale))
