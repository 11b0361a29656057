"""A model that was quantized while it trained packs on its own grid, and nothing is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lmbench.config import PackConfig
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.header import open_container
from lmbench.deploy.packed_file.metadata import PackedInfo
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.packed_file.trained_grid import TrainedGrids, trained_grids
from lmbench.deploy.packed_file.writing import packed_bytes, write_packed
from lmbench.deploy.runtimes.table import as_is_runtime, build_runtime
from lmbench.distiller.quantization.training_time import (
    DorefaQuantizer,
    QuantAwareTrainRangeLinearQuantizer,
    WRPNQuantizer,
)
from lmbench.model.rnn import RNNModel

CODES: dict[str, Any] = {"rounding": "codes"}
WORDS = [f"w{i}" for i in range(300)]


def trained(
    kind: Any,
    bits: int,
    sparsity: float = 0.0,
    *,
    widths: tuple[int, int] = (72, 72),
    **more: Any,
) -> tuple[RNNModel, dict[str, torch.Tensor]]:
    """The values of a quantizer in training, and the state of the model that it trains; of two
    widths (embedding and layers) it has a projection."""
    torch.manual_seed(0)
    projection = widths[0] != widths[1]
    model = RNNModel("LSTM", len(WORDS), *widths, 1, 0.0, True, projection).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_().mul_(0.3)
            if parameter.dim() == 2:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
    quantizer = kind(model, None, None, bits, **more)
    quantizer.prepare_model()
    plain = quantizer.plain_model()
    assert isinstance(plain, RNNModel)
    return plain.eval().requires_grad_(False), model.state_dict()


def pack(model: RNNModel, found: TrainedGrids, path: Path) -> PackedInfo:
    return write_packed(
        model,
        WORDS,
        path,
        grids=found.grids,
        groups=found.groups,
        auto=found.values,
        exact=True,
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.7])
@pytest.mark.parametrize(
    "kind, bits, more, stored",
    [
        (QuantAwareTrainRangeLinearQuantizer, 4, {}, "int4"),
        (QuantAwareTrainRangeLinearQuantizer, 4, {"per_channel_wts": True}, "int4"),
        (QuantAwareTrainRangeLinearQuantizer, 4, {"mode": "ASYMMETRIC_SIGNED"}, None),
        (QuantAwareTrainRangeLinearQuantizer, 8, {}, "int8"),
        (DorefaQuantizer, 3, {}, "int4"),
        (DorefaQuantizer, 4, {}, "int8"),
        (WRPNQuantizer, 4, {}, "int4"),
        (QuantAwareTrainRangeLinearQuantizer, 1, CODES, "code1"),
        (QuantAwareTrainRangeLinearQuantizer, 2, CODES, "code2"),
        (QuantAwareTrainRangeLinearQuantizer, 3, {**CODES, "group_size": 16}, "code3"),
        (QuantAwareTrainRangeLinearQuantizer, 4, {**CODES, "group_size": 64}, "code4"),
    ],
)
def test_every_weight_keeps_its_value(
    tmp_path: Path,
    kind: Any,
    bits: int,
    more: dict[str, Any],
    stored: str | None,
    sparsity: float,
) -> None:
    (model, state), path = trained(kind, bits, sparsity, **more), tmp_path / "m.lmpack"
    found = trained_grids(model, state)
    assert len(found.values) == 3
    info = pack(model, found, path)
    packed = open_packed(path).to_model().state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(packed[name], weight, rtol=1e-6, atol=0)
    assert info.ratio > 3
    codes = bool(stored and stored.startswith("code"))
    if stored and (codes or not sparsity):
        assert set(found.values.values()) == {stored}
        assert {t.spec.values for t in info.tensors if len(t.spec.shape) == 2} == {stored}
    if codes:
        layout = "bitmask" if sparsity else "dense"
        assert {t.spec.layout for t in info.tensors if len(t.spec.shape) == 2} == {layout}
        told = packed_bytes(model, WORDS, found.values, found.groups, found.grids)
        assert told == sum(tensor.stored for tensor in info.tensors) + info.vocabulary


@pytest.mark.parametrize("widths", [(70, 70), (20, 70), (72, 64)])
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_codes_of_any_width_are_packed_and_run(
    tmp_path: Path, widths: tuple[int, int], sparsity: float
) -> None:
    (model, state) = trained(
        QuantAwareTrainRangeLinearQuantizer, 3, sparsity, widths=widths, **CODES
    )
    path, found = tmp_path / "m.lmpack", trained_grids(model, state)
    assert set(found.values.values()) == {"code3"}
    assert ("projection.weight" in found.values) == (widths[0] != widths[1])
    pack(model, found, path)
    loaded = load_packed(path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(
            loaded.recurrent.state_dict()[name], weight, rtol=1e-6, atol=0, msg=name
        )
    data = torch.randint(len(WORDS), (20, 2), generator=torch.Generator().manual_seed(0))
    wanted = build_runtime("naive", loaded).evaluate(data, 7)
    score = build_runtime(as_is_runtime(loaded), loaded).evaluate(data, 7)
    assert score.loss == pytest.approx(wanted.loss, rel=0.02)


def test_the_size_of_codes_is_told_without_the_units_that_nothing_reads(tmp_path: Path) -> None:
    model, state = trained(QuantAwareTrainRangeLinearQuantizer, 2, sparsity=0.01, **CODES)
    found = trained_grids(model, state)
    whole = packed_bytes(model, WORDS, found.values, found.groups, found.grids)
    with torch.no_grad():
        model.rnn.get_parameter("weight_hh_l0")[:, 3] = 0
        model.decoder.weight[:, 3] = 0
    narrow = packed_bytes(model, WORDS, found.values, found.groups, found.grids)
    # A column of the embedding, and of each LSTM matrix four rows with their scales and a column.
    fewer = len(WORDS) / 8 + 2 * (4 * 72 + 4 * 71) / 8
    assert whole - narrow > 3 * fewer


def test_the_size_of_4_bits_is_told_with_a_scale_for_a_row(tmp_path: Path) -> None:
    model, state = trained(QuantAwareTrainRangeLinearQuantizer, 4, widths=(320, 320))
    found, path = trained_grids(model, state), tmp_path / "m.lmpack"
    pack(model, found, path)
    told = found.packed_bytes(model, WORDS)
    assert told == pytest.approx(path.stat().st_size, rel=0.02)


def test_floats_are_on_no_grid() -> None:
    torch.manual_seed(0)
    model = RNNModel("GRU", 50, 16, 16, 1, 0.0, False)
    assert not trained_grids(model, model.state_dict()).values


@pytest.mark.skipif(why_unavailable() is not None, reason="needs the compiled kernels")
@pytest.mark.parametrize(
    "bits, more, name",
    [(4, {}, "native-int4"), (2, CODES, "native-codes"), (3, CODES, "native-codes")],
)
def test_what_was_trained_runs_on_the_kernels_as_in_torch(
    tmp_path: Path, bits: int, more: dict[str, Any], name: str
) -> None:
    model, state = trained(QuantAwareTrainRangeLinearQuantizer, bits, **more)
    path = tmp_path / "m.lmpack"
    pack(model, trained_grids(model, state), path)
    loaded = load_packed(path)
    assert as_is_runtime(loaded) == name
    data = torch.randint(0, len(WORDS), (40, 4), generator=torch.Generator().manual_seed(1))
    native, exact = (build_runtime(each, loaded) for each in (name, "torch"))
    assert native.evaluate(data, 10).loss == pytest.approx(exact.evaluate(data, 10).loss, rel=0.02)


def test_files_without_such_a_grid_are_written_for_older_programs_too(tmp_path: Path) -> None:
    model, state = trained(QuantAwareTrainRangeLinearQuantizer, 4)
    found = trained_grids(model, state)
    for grids, weights, version in ((found, "auto", b'"2"'), (None, "int4", b'"1"')):
        path = tmp_path / "m.lmpack"
        write_packed(
            model,
            WORDS,
            path,
            PackConfig.model_validate({"weights": weights}),
            grids=grids.grids if grids else None,
            auto=grids.values if grids else "fp32",
            exact=True,
        )
        assert b'"version":' + version in path.read_bytes()[:200]
        assert open_container(path).names()
