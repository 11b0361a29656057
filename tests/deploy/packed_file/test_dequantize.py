"""Packing a quantized run: its integers are kept, not rounded a second time."""

import pytest
import torch

from lmbench.config import PackConfig
from lmbench.deploy.packed_file.dequantize import dequantized
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.distiller.quantization import QuantSettings, quantize
from lmbench.distiller.quantization.weights import RangeLinearQuantParamLayerWrapper
from lmbench.model.rnn import RNNModel, shape_of

SETTINGS = {"bits_activations": None, "per_channel_wts": True}
WORDS = [f"w{i}" for i in range(60)]


def shape(kind: str) -> dict:
    return shape_of(RNNModel(kind, len(WORDS), 128, 128, 2, 0.1, True))


def quantized(kind: str, keep: float = 1.0, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    model = RNNModel(kind, len(WORDS), 128, 128, 2, 0.1, True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and keep < 1:
                parameter.mul_(torch.rand_like(parameter) < keep)
    return quantize(model, QuantSettings.from_dict(settings))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
@pytest.mark.parametrize("bits,group,values", [(8, None, "int8"), (4, 64, "int4")])
def test_the_packed_weights_are_those_the_integers_stand_for(tmp_path, kind, bits, group, values):
    settings = {**SETTINGS, "bits_parameters": bits}
    if group:
        settings["group_size"] = group
    model = quantized(kind, **settings)
    taken = dequantized(model, shape(kind))
    assert set(taken.values.values()) == {values}
    assert taken.renewed == ()
    write_packed(taken.model, WORDS, tmp_path / "m.lmpack", grids=taken.grids, auto=taken.values)
    restored = open_packed(tmp_path / "m.lmpack").to_model().state_dict()
    for name, module in {
        "decoder.weight": "decoder",
        "rnn.weight_ih_l0": "rnn.cells.0.fc_gate_x",
        "rnn.weight_hh_l1": "rnn.cells.1.fc_gate_h",
    }.items():
        wrapper = model.get_submodule(module)
        assert isinstance(wrapper, RangeLinearQuantParamLayerWrapper)
        # Scales of int4 are kept in fp16.
        tolerance = 1e-6 if values == "int8" else 2e-3 * float(wrapper.weight.abs().max())
        torch.testing.assert_close(restored[name], wrapper.weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("bits", [8, 4])
def test_unsigned_levels_of_a_matrix_without_negative_weights_are_not_cut(bits):
    torch.manual_seed(0)
    model = RNNModel("GRU", len(WORDS), 16, 16, 1, 0.0, True).eval()
    with torch.no_grad():
        model.encoder.weight.abs_()
    settings = {**SETTINGS, "mode": "ASYMMETRIC_UNSIGNED", "bits_parameters": bits}
    taken = dequantized(quantize(model, QuantSettings.from_dict(settings)), shape_of(model))
    assert "encoder.weight" in taken.renewed
    assert not taken.grids


@pytest.mark.parametrize("sparse", ["auto", "never"])
@pytest.mark.parametrize("group", [64, None])
def test_groups_of_4_bits_that_are_stored_sparse_are_said_to_be_rounded_anew(
    tmp_path, sparse, group
):
    settings = {**SETTINGS, "bits_parameters": 4, "group_size": group}
    taken = dequantized(quantized("RNN_TANH", 0.1, **settings), shape("RNN_TANH"))
    info = write_packed(
        taken.model,
        WORDS,
        tmp_path / "m.lmpack",
        PackConfig(sparse=sparse),
        grids=taken.grids,
        auto=taken.values,
    )
    joined = taken.joined(info)
    assert len(joined) == (5 if sparse == "auto" and group else 0)
    restored = open_packed(tmp_path / "m.lmpack").to_model().state_dict()
    for name in joined:
        assert not torch.equal(restored[name], taken.model.state_dict()[name])
