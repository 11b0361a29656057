"""Accumulators as wide as sums need, and a warning where they were told to be narrower."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from ptq_world import LanguageModel, part, runner
from torch import nn

from lmbench.distiller.quantization import (
    PostTrainLinearQuantizer,
    QuantSettings,
    calibrate,
    export_state,
    modular_copy,
    quantize,
    restore,
)
from lmbench.distiller.quantization.post_training import SaturationWarning

IDS = torch.randint(40, (30, 4), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    made = LanguageModel(40, 24, 1).eval()
    nn.init.uniform_(made.decoder.weight, 0.5, 1.0)
    nn.init.uniform_(made.encoder.weight, 0.5, 1.0)
    return made


@pytest.fixture(scope="module")
def stats(model: LanguageModel) -> dict[str, Any]:
    return calibrate(modular_copy(model), runner(IDS))


@pytest.mark.parametrize(
    "bits, width", [((8, 8), 32), ((4, 8), 32), ((8, 16), 40), ((16, 16), 48), ((16, None), 32)]
)
def test_without_a_width_accumulators_hold_sums_of_65536_products(bits: Any, width: int) -> None:
    settings = QuantSettings.from_dict({"bits_weights": bits[0], "bits_activations": bits[1]})
    assert settings.base.accumulator_bits == width
    narrow = QuantSettings.from_dict({"bits_weights": 16, "bits_accum": 24})
    assert narrow.base.accumulator_bits == 24


@torch.no_grad()
def test_sixteen_bits_of_both_are_as_good_as_floats(model: LanguageModel, stats: Any) -> None:
    settings = {"mode": "ASYMMETRIC_SIGNED", "bits_weights": 16, "bits_activations": 16}
    expected = model(IDS)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaturationWarning)
        wide = quantize(model, QuantSettings.from_dict(settings), stats)
    assert float((wide(IDS)[0] - expected).abs().max()) < 0.02
    given = QuantSettings.from_dict(settings | {"bits_accum": 32})
    with pytest.warns(SaturationWarning, match="widen bits_accum"):
        narrow = quantize(model, given, stats)
    assert float((narrow(IDS)[0] - expected).abs().max()) > 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaturationWarning)
        restore(model, *export_state(narrow, given))


def test_a_quantizer_takes_the_originals_32_bits_and_warns(
    model: LanguageModel, stats: Any
) -> None:
    quantizer = PostTrainLinearQuantizer(modular_copy(model), 16, 16, model_activation_stats=stats)
    with pytest.warns(SaturationWarning):
        quantizer.prepare_model()
    assert part(quantizer.model, "decoder").num_bits_accum == 32
