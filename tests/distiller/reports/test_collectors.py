"""Collectors see each module's outputs and save what they saw."""

import csv
import logging
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import data_loggers


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.relu = nn.ReLU()
        self.register_buffer("scale", torch.tensor([1.5, 2.5]))

    def forward(self, x):
        return self.relu(self.first(x))


def batches():
    torch.manual_seed(0)
    return [torch.randn(4, 2), torch.randn(2, 2)]


def run(model):
    return [model(batch) for batch in batches()]


def test_a_summary_is_the_mean_over_all_rows(tmp_path):
    model = Model()
    collector = data_loggers.SummaryActivationStatsCollector(model, "sparsity", distiller.sparsity)
    with data_loggers.collector_context(collector):
        outputs = run(model)
    run(model)
    (name, value), *rest = collector.value().items()
    assert (name, rest) == ("relu", [])
    assert value == pytest.approx(distiller.sparsity(torch.cat(outputs)))
    path = collector.save(tmp_path / "sparsity")
    assert next(csv.DictReader(path.open()))["module"] == "relu"
    collector.reset()
    assert collector.value() == {}


def test_a_summary_of_inputs_looks_at_inputs():
    model = Model()
    collector = data_loggers.SummaryActivationStatsCollector(
        model, "mean", torch.mean, [nn.Linear], data_loggers.CollectorDirection.IN
    )
    with data_loggers.collectors_context({"train": collector}):
        run(model)
    assert collector.value()["first"] == pytest.approx(torch.cat(batches()).mean().item())


def test_records_have_a_line_for_each_sample(tmp_path):
    model = Model()
    collector = data_loggers.RecordsActivationStatsCollector(model, [nn.Linear])
    with data_loggers.collector_context(collector, ["first"]):
        run(model)
    outputs = model.first(torch.cat(batches())).detach()
    record = collector.value()["first"]
    torch.testing.assert_close(torch.tensor(record["max"]), outputs.amax(1))
    torch.testing.assert_close(torch.tensor(record["l2"]), outputs.norm(dim=1))
    rows = list(csv.DictReader(collector.save(tmp_path / "records").open()))
    assert len(rows) == 6
    assert rows[5]["shape"] == "2x3"


def test_histograms_count_every_value_between_the_calibrated_bounds(tmp_path):
    model = Model()
    found = data_loggers.collect_histograms(model, run, tmp_path, nbins=16)
    assert found["relu"]["output"]["hist"].sum() == 18
    assert found["first"]["inputs"][0]["hist"].sum() == 12
    centres = found["relu"]["output"]["bin_centroids"]
    assert len(centres) == 16
    assert (tmp_path / "acts_quantization_stats.yaml").is_file()
    saved = load_file(tmp_path / "acts_histograms.safetensors")
    assert torch.equal(saved["relu.output.hist"], found["relu"]["output"]["hist"])


def test_histograms_leave_out_a_layer_that_answers_a_tuple():
    model = nn.ModuleDict({"rnn": nn.LSTM(2, 3), "head": nn.Linear(3, 2)})
    found = data_loggers.collect_histograms(
        model, lambda model: model["head"](model["rnn"](torch.randn(5, 1, 2))[0]), nbins=4
    )
    assert set(found) == {"head"}


def test_raw_outputs_are_every_output(tmp_path):
    model = Model()
    outputs = data_loggers.collect_raw_outputs(model, run, tmp_path, [nn.ReLU])
    assert torch.equal(outputs["relu"], torch.cat(run(model)))
    assert torch.equal(load_file(tmp_path / "raw_outputs.safetensors")["relu"], outputs["relu"])


def test_buffers_are_logged_by_their_full_name(caplog, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = Model()
    loggers = [
        data_loggers.PythonLogger(logging.getLogger("buffers")),
        data_loggers.TensorBoardLogger(tmp_path),
        data_loggers.NullLogger(),
    ]
    with caplog.at_level("INFO"):
        distiller.log_model_buffers(model, ["scale"], "Scales", 1, 2, 4, 1, loggers)
    assert "Scales: scale: 1.5, 2.5" in caplog.text
    assert "Scales/scale/1,6,2.5" in (tmp_path / "scalars.csv").read_text()
