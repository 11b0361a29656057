"""The tables say what is there: ties once, rows as rows, MACs of a token."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from places import VECTORS
from ptq_world import tie, tiny_weights
from rich.console import Console
from torch import nn

import lmbench.distiller as distiller

EXPECTED = json.loads((VECTORS / "sparsity_table.json").read_text())
TINY = np.load(VECTORS / "tiny_weights.npz")
LEVELS = {
    "encoder.weight": 0.8,
    **{f"rnn.weight_{kind}_l{layer}": 0.7 for layer in (0, 1) for kind in ("ih", "hh")},
}


def pruned():
    model = tie(tiny_weights(TINY))
    scheduler = distiller.CompressionScheduler(model)
    pruner = distiller.pruning.SparsityLevelParameterPruner("l", LEVELS)
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    return model, scheduler


def structured():
    model = tie(tiny_weights(TINY))
    with torch.no_grad():
        model.get_parameter("rnn.weight_ih_l0")[:12] = 0
        model.get_parameter("rnn.weight_hh_l0")[:, :6] = 0
        model.encoder.weight[90:] = 0
    return model, None


@pytest.mark.parametrize(
    "name, build, dims",
    [
        ("dense", lambda: (tie(tiny_weights(TINY)), None), (2, 4)),
        ("pruned_enc80_rnn70", pruned, (2, 4)),
        ("pruned_enc80_rnn70_all_dims", pruned, (1, 2, 3, 4)),
        ("structured", structured, (2, 4)),
    ],
)
def test_the_gross_table_is_that_of_the_original(name, build, dims):
    expected = EXPECTED[name]
    table, total = distiller.weights_sparsity_summary(build()[0], True, dims, gross=True)
    assert [column.heading for column in table.columns] == expected["columns"]
    for got, want in zip(table.all_rows, expected["rows"], strict=True):
        assert list(got[:2]) == want[:2]
        assert got[2:] == pytest.approx(want[2:], rel=1e-5, abs=1e-6)
    assert total == pytest.approx(expected["total_sparsity"])


def test_our_table_counts_ties_once_exactly_and_calls_rows_rows():
    model, _ = structured()
    table = distiller.weights_sparsity_table(model)
    rows = {row["name"]: row for row in table.records()}
    assert list(rows) == list(LEVELS)
    assert rows["rnn.weight_ih_l0"]["rows"] == pytest.approx(12.5)
    assert rows["rnn.weight_ih_l0"]["cols"] == 0
    assert rows["rnn.weight_hh_l0"]["cols"] == pytest.approx(25)
    assert rows["rnn.weight_hh_l0"]["rows"] == 0
    assert table.total is not None
    assert table.total[2] == 97 * 24 + 4 * 96 * 24
    assert table.total[3] == table.total[2] - 7 * 24 - 12 * 24 - 96 * 6


def test_the_masks_table_counts_what_is_masked():
    _, scheduler = pruned()
    table = distiller.masks_table(scheduler)
    zeros = {name: count for name, count in EXPECTED["mask_zeros"].items() if count}
    assert {row["name"]: row["pruned"] for row in table.records()} == zeros
    assert table.total is not None
    assert table.total[3] == sum(zeros.values())


def test_the_percentile_table_gives_the_q_of_the_baidu_pruner():
    model = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        model.weight.copy_((torch.arange(100.0) + 1).view(10, 10) * -1)
    (row,) = distiller.percentile_table(model, (50, 90, 100)).records()
    assert row == {"name": "weight", "p50": 50.0, "p90": 90.0, "p100": 100.0}


def test_macs_of_a_token_are_the_multiplications_of_every_matrix_it_meets():
    model = tie(tiny_weights(TINY))
    costs = {cost.name: cost for cost in distiller.module_costs(model)}
    assert costs["encoder"].macs == 0
    assert costs["rnn"].macs == 2 * 4 * 24 * (24 + 24)
    assert costs["decoder"].macs == 24 * 97
    assert costs["decoder"].weights == 0
    assert costs["decoder"].tied_to == "encoder.weight"
    assert costs["rnn"].biases == 2 * 2 * 96
    values = {row["what"]: row["count"] for row in distiller.model_table(pruned()[0]).records()}
    assert values["weights"] == 11_544
    assert values["non-zero weights"] == 466 + 4 * 692
    assert values["MACs a token"] == 9216 + 2328
    assert values["non-zero MACs a token"] == 4 * 692 + 466
    assert values["bytes of parameters"] == 4 * (11_544 + 4 * 96 + 97)


@pytest.mark.parametrize("kind", ["sparsity", "percentile", "modules", "model"])
def test_every_table_renders_as_text_rich_csv_and_strict_json(kind):
    table = distiller.summary_table(pruned()[0], kind)
    assert len(table.to_text().splitlines()) >= len(table.all_rows) + 2
    console = Console(file=io.StringIO(), width=240, record=True)
    console.print(table.to_rich())
    assert str(table.rows[0][0]) in console.export_text()
    lines = list(csv.reader(io.StringIO(table.to_csv())))
    assert lines[0] == [column.key for column in table.columns]
    assert len(lines) == 1 + len(table.all_rows)
    assert json.loads(json.dumps(table.to_json(), allow_nan=False))["rows"] == table.records()


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(distiller.DistillerError, match="choose sparsity, percentile, modules"):
        distiller.summary_table(nn.Linear(2, 2), "sparcity")
