"""Code written for the original calls ours: the names, order and defaults of the arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from ptq_world import LanguageModel, part
from torch import nn

from lmbench.distiller.modules import DistillerGRU, DistillerLSTM, DistillerLSTMCell
from lmbench.distiller.quantization import (
    ClipMode,
    DorefaQuantizer,
    LinearQuantMode,
    PACTQuantizer,
    PostTrainLinearQuantizer,
    QuantAwareTrainRangeLinearQuantizer,
    QuantizationError,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    WRPNQuantizer,
)

CLIPPED = {"bits_activations": 32, "bits_weights": 32, "bits_bias": None, "overrides": None}
WRAPPER = {
    "mode": LinearQuantMode.SYMMETRIC,
    "clip_acts": ClipMode.NONE,
    "activation_stats": None,
    "clip_n_stds": None,
    "clip_half_range": False,
    "scale_approx_mult_bits": None,
    "input_overrides": None,
    "inputs_quant_auto_fallback": False,
}
SIGNATURES: list[tuple[type, dict[str, Any]]] = [
    (
        PostTrainLinearQuantizer,
        {
            "bits_activations": 8,
            "bits_parameters": 8,
            "bits_accum": 32,
            "overrides": None,
            "mode": LinearQuantMode.SYMMETRIC,
            "clip_acts": ClipMode.NONE,
            "per_channel_wts": False,
            "model_activation_stats": None,
            "fp16": False,
            "clip_n_stds": None,
            "clip_half_range": False,
            "scale_approx_mult_bits": None,
            "inputs_quant_auto_fallback": True,
            "fpq_module": None,
            "save_fp_weights": False,
            "also_clip_weights": False,
        },
    ),
    (
        QuantAwareTrainRangeLinearQuantizer,
        {
            "optimizer": None,
            "bits_activations": 32,
            "bits_weights": 32,
            "bits_bias": 32,
            "overrides": None,
            "mode": LinearQuantMode.SYMMETRIC,
            "ema_decay": 0.999,
            "per_channel_wts": False,
            "quantize_inputs": True,
            "num_bits_inputs": None,
        },
    ),
    (DorefaQuantizer, {"optimizer": None, **CLIPPED}),
    (WRPNQuantizer, {"optimizer": None, **CLIPPED}),
    (
        PACTQuantizer,
        {"optimizer": None, **CLIPPED, "act_clip_init_val": 8.0, "act_clip_decay": None},
    ),
    (
        DistillerLSTM,
        {
            "bias": True,
            "batch_first": False,
            "dropout": 0.5,
            "bidirectional": False,
            "bidirectional_type": 2,
        },
    ),
    (DistillerLSTMCell, {"bias": True}),
    *(
        (made, WRAPPER)
        for made in (RangeLinearQuantEltwiseAddWrapper, RangeLinearQuantEltwiseMultWrapper)
    ),
]
FIRST = {
    DistillerLSTM: ["input_size", "hidden_size", "num_layers"],
    DistillerLSTMCell: ["input_size", "hidden_size"],
    RangeLinearQuantEltwiseAddWrapper: ["wrapped_module", "num_bits_acts"],
    RangeLinearQuantEltwiseMultWrapper: ["wrapped_module", "num_bits_acts"],
}


@pytest.mark.parametrize(
    "made, wanted", SIGNATURES, ids=lambda value: getattr(value, "__name__", "")
)
def test_arguments_are_the_originals(made: type, wanted: dict[str, Any]) -> None:
    found = [
        (p.name, p.default)
        for p in inspect.signature(made).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    first = FIRST.get(made, ["model"])
    assert [name for name, _ in found[: len(first)]] == first
    assert found[len(first) :] == list(wanted.items())


def test_a_new_lstm_drops_half_and_a_converted_one_what_it_dropped() -> None:
    assert DistillerLSTM(3, 4, 2).dropout.p == 0.5
    assert DistillerGRU(3, 4, 2).dropout.p == 0.0
    for share in (0.0, 0.3):
        assert DistillerLSTM.from_pytorch_impl(nn.LSTM(3, 4, 2, dropout=share)).dropout.p == share


@pytest.mark.parametrize(
    "quantizer",
    [DorefaQuantizer, PACTQuantizer, WRPNQuantizer, QuantAwareTrainRangeLinearQuantizer],
)
def test_32_bits_leave_alone_everywhere_and_in_an_override(quantizer: Any) -> None:
    torch.manual_seed(0)
    model = LanguageModel(20, 8, 1)
    ids = torch.randint(20, (4, 3))
    before = model.eval()(ids)[0]
    quantizer(model, None).prepare_model()
    assert torch.allclose(model.eval()(ids)[0], before, rtol=0, atol=1e-6)
    model = LanguageModel(20, 8, 1)
    quantizer(
        model,
        None,
        32,
        4,
        overrides={"encoder": {"bits_weights": 32}, r".*act_f": {"bits_activations": 4}},
    ).prepare_model()
    assert not hasattr(part(model, "encoder"), "float_weight")
    assert hasattr(part(model, "decoder"), "float_weight")
    assert hasattr(part(model, "rnn.cells.0.act_f"), "quantize")
    assert not hasattr(part(model, "rnn.cells.0.act_i"), "quantize")
    with pytest.raises(QuantizationError, match="31 bits is out of range"):
        quantizer(model, None, 31)


def test_the_modes_of_weights_and_activations_may_differ() -> None:
    model = LanguageModel(20, 8, 1)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        model,
        None,
        4,
        4,
        mode={"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC_RESTRICTED"},
    )
    quantizer.prepare_model()
    with torch.no_grad():
        model.train()(torch.randint(20, (4, 3)))
    weight = part(model, "decoder").weight
    # Restricted: as many steps below zero as above it.
    steps = (weight / weight.abs().max() * 7).round()
    assert int(steps.min()) >= -7
    assert torch.allclose(steps / 7 * weight.abs().max(), weight, atol=1e-6)
    assert part(model, "rnn.cells.0.act_g").quantize.mode is LinearQuantMode.ASYMMETRIC_UNSIGNED


class Floats(nn.Module):
    """A model that reads floats."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(x)


def test_inputs_are_quantized_where_they_are_floats() -> None:
    model, seen = Floats(), []
    quantizer = QuantAwareTrainRangeLinearQuantizer(model, None, 3, 8)
    quantizer.prepare_model()
    part(model, "decoder").register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = torch.randn(50, 6)
    model.train()(x)
    assert len(seen[0].unique()) <= 8 < len(x.unique())
    plain = quantizer.plain_model().eval()
    assert set(plain.state_dict()) == {"decoder.weight", "decoder.bias"}
    model.eval()
    assert not torch.equal(plain(x), model(x))
    without: list[dict[str, Any]] = [{"quantize_inputs": False}, {"num_bits_inputs": 32}]
    for arguments in without:
        plain = Floats()
        QuantAwareTrainRangeLinearQuantizer(plain, None, 3, 8, **arguments).prepare_model()
        assert not hasattr(plain, "inputs_quant")
    words = LanguageModel(20, 8, 1)
    QuantAwareTrainRangeLinearQuantizer(words, None, 3, 8).prepare_model()
    assert not hasattr(words, "inputs_quant")


def test_what_quantizes_lives_where_the_model_does() -> None:
    with torch.device("meta"):
        model = LanguageModel(20, 8, 1)
    QuantAwareTrainRangeLinearQuantizer(model, None, 4, None).prepare_model()
    assert {buffer.device.type for buffer in model.buffers()} == {"meta"}
