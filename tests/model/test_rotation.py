"""A projection before the decoder, and the rotation of an embedding that it allows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmbench import distiller
from lmbench.config import TrainConfig
from lmbench.deploy.packed_file.dequantize import dequantized
from lmbench.deploy.packed_file.metadata import checked_shape
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.distiller.quantization import QuantSettings, quantize
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, build_model, shape_of
from lmbench.model.rotation import rotated
from lmbench.model_shapes import GATES

WORDS, WIDTH = 300, 24


def plain(kind: str = "LSTM", *, tied: bool = True) -> RNNModel:
    """A model whose embedding has most of its energy along a few directions, in no column alone."""
    torch.manual_seed(0)
    model = RNNModel(kind, WORDS, WIDTH, WIDTH, 2, 0.0, tied).eval().requires_grad_(False)
    for matrix in {id(p): p for p in (model.encoder.weight, model.decoder.weight)}.values():
        basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
        matrix.copy_(torch.randn(WORDS, WIDTH) * 0.7 ** torch.arange(WIDTH) @ basis)
    model.decoder.bias.normal_()
    return model


def tensors(model: RNNModel) -> dict[str, Tensor]:
    return dict(model.named_parameters())  # a tied one once


def logits(model: RNNModel) -> Tensor:
    ids = torch.randint(WORDS, (9, 3), generator=torch.Generator().manual_seed(1))
    return model(ids, model.init_hidden(3))[0].detach()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", GATES)
def test_a_rotated_model_predicts_the_same(kind: str, tied: bool) -> None:
    model = plain(kind, tied=tied)
    other = rotated(model)
    assert other.tied == tied
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=2e-5)


def test_the_largest_tenth_holds_more_of_the_energy_than_along_the_principal_axes() -> None:
    def largest_tenth(matrix: Tensor) -> float:
        energy = matrix.square().flatten().sort(descending=True).values
        return float(energy[: len(energy) // 10].sum() / energy.sum())

    model = plain()
    # Words of a few kinds, each along a direction of its own, which are not orthogonal.
    kinds = torch.nn.functional.normalize(torch.randn(8, WIDTH) + 1.0)
    model.encoder.weight.copy_(kinds[torch.arange(WORDS) % 8] + 0.05 * torch.randn(WORDS, WIDTH))
    # All of them count the same.
    model.decoder.bias.zero_()
    before = model.encoder.weight
    after = rotated(model).encoder.weight.detach()
    assert after.square().sum() == pytest.approx(float(before.square().sum()), rel=1e-5)
    principal = before @ torch.linalg.svd(before).Vh.T
    assert largest_tenth(before) < largest_tenth(principal) < largest_tenth(after) - 0.02


def test_frequent_words_count_for_more() -> None:
    """Ten words of a high bias get an axis of their own, whatever all others have."""
    model = plain()
    model.encoder.weight[:10] = torch.randn(WIDTH)
    model.decoder.bias[:10] = 20.0
    model.decoder.bias[10:] = 0.0
    for bias, wanted in ((20.0, True), (-20.0, False)):
        model.decoder.bias[:10] = bias
        frequent = rotated(model).encoder.weight[0].square()
        assert (frequent.max() > 0.99 * frequent.sum()) == wanted


@pytest.mark.parametrize("tied", [True, False])
def test_more_of_a_rotated_embedding_can_be_cut_for_the_same_error(tied: bool) -> None:
    def error_of_cut(model: RNNModel) -> float:
        before = logits(model)
        for matrix in {id(p): p for p in (model.encoder.weight, model.decoder.weight)}.values():
            bound = matrix.abs().flatten().kthvalue(int(0.8 * matrix.numel())).values
            matrix.mul_(matrix.abs() > bound)
        return float((logits(model) - before).square().mean())

    model = plain(tied=tied)
    other = rotated(model).requires_grad_(False)
    assert error_of_cut(other) < 0.5 * error_of_cut(model)


def test_what_is_rotated_needs_one_width() -> None:
    model = RNNModel("LSTM", WORDS, 12, WIDTH, 1, 0.0, False)
    with pytest.raises(LmbenchError, match="12 wide and its layers 24"):
        rotated(model)


@pytest.mark.parametrize("tied", [True, False])
def test_all_other_weights_are_drawn_as_without_a_projection(tied: bool) -> None:
    built = []
    for projection in (False, True):
        torch.manual_seed(0)
        built.append(RNNModel("GRU", WORDS, WIDTH, WIDTH, 2, 0.0, tied, projection))
    ours, theirs = (tensors(model) for model in built)
    assert set(theirs) - set(ours) == {"projection.weight"}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize(
    "kind,tied,projection", itertools.product(GATES, [True, False], [True, False])
)
def test_the_shapes_that_are_told_are_the_model_s(kind: str, tied: bool, projection: bool) -> None:
    emsize = 10 if projection or not tied else WIDTH
    config = TrainConfig.model_validate(
        {"model": kind, "emsize": emsize, "nhid": WIDTH, "tied": tied, "projection": projection}
    )
    model = build_model(config, WORDS)
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert list(config.parameter_shapes(WORDS).items()) == list(found.items())
    assert model.decoder_width == model.decoder.in_features
    assert shape_of(model)["projection"] == projection


def test_tied_weights_of_two_widths_need_a_projection() -> None:
    with pytest.raises(LmbenchError, match="or give --projection"):
        TrainConfig(tied=True, emsize=10, nhid=20).check()
    TrainConfig(tied=True, emsize=10, nhid=20, projection=True).check()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", GATES)
def test_units_go_with_their_columns_of_the_projection_and_leave_the_embedding(
    kind: str, tied: bool
) -> None:
    model = rotated(plain(kind, tied=tied))
    before = model.encoder.weight.clone()
    schedule = distiller.schedule_from_dict(
        {
            "version": 1,
            "pruners": {
                "units": {
                    "class": "L1RankedStructureParameterPruner",
                    "desired_sparsity": 0.5,
                    "group_type": "HiddenUnits",
                    "weights": ["rnn.weight_hh_l0", "rnn.weight_hh_l1"],
                }
            },
            "policies": [{"pruner": {"instance_name": "units"}, "epochs": [0]}],
        }
    )
    plan = distiller.plan_for_model(schedule, model, epochs=1)
    scheduler = distiller.build_scheduler(schedule, model)
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    assert plan.final_nonzero == sum(
        int(torch.count_nonzero(p)) for p in model.parameters() if p.dim() == 2
    )
    assert torch.equal(model.encoder.weight, before)
    small = distiller.thin(model)
    assert small.nhid == WIDTH // 2
    assert small.projection is not None
    assert small.projection.weight.shape == (WIDTH, WIDTH // 2)
    assert torch.equal(small.encoder.weight, before)
    assert small.tied == tied
    torch.testing.assert_close(logits(small), logits(model), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bits,values", [(8, "int8"), (4, "int4")])
def test_a_quantized_model_with_a_projection_is_packed_as_it_is(
    tmp_path: Path, bits: int, values: str
) -> None:
    model = rotated(plain())
    words = [f"w{i}" for i in range(WORDS)]
    settings = QuantSettings.from_dict(
        {"mode": "SYMMETRIC", "per_channel_wts": True, "bits_parameters": bits}
    )
    quantized = quantize(model, settings)
    taken = dequantized(quantized, shape_of(model))
    assert taken.values["projection.weight"] == values
    write_packed(taken.model, words, tmp_path / "m.lmpack", grids=taken.grids, auto=taken.values)
    packed = open_packed(tmp_path / "m.lmpack")
    assert packed.shape["projection"]
    assert b'"version":"6"' in packed.path.read_bytes()[:500]
    assert packed.specs["projection.weight"].values == values
    torch.testing.assert_close(
        logits(packed.to_model()), logits(taken.model), rtol=0, atol=1e-5 if bits == 8 else 2e-2
    )


def test_a_file_that_says_nothing_of_a_projection_has_none() -> None:
    shape: dict[str, Any] = {**shape_of(plain()), "emsize": 10}
    assert checked_shape(Path("m"), {**shape, "projection": True})["projection"] is True
    del shape["projection"]
    with pytest.raises(LmbenchError, match="'tied' is missing or impossible"):
        checked_shape(Path("m"), shape)
    assert checked_shape(Path("m"), {**shape, "emsize": WIDTH})["projection"] is False
    for wrong in (None, 1, "yes"):
        with pytest.raises(LmbenchError, match="'projection' is impossible"):
            checked_shape(Path("m"), {**shape, "emsize": WIDTH, "projection": wrong})
