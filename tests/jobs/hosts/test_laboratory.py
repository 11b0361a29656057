"""The laboratory's figures against those of the runs that are made of them."""

from __future__ import annotations

import copy
import errno
import json
import os
from typing import Any

import pytest
import torch
from cli_world import answer
from laboratory_world import CALIBRATION, TOKENS, Answers, probe, trained

from lmbench.cli import run as lmbench
from lmbench.config import QuantizeConfig, TrainConfig
from lmbench.corpus import open_corpus
from lmbench.corpus.batches import score_rows
from lmbench.distiller.quantization import (
    ActivationStats,
    collect_input_moments,
    load_preset,
    modular_copy,
    preset_names,
)
from lmbench.jobs.hosts import opened_model
from lmbench.jobs.hosts.laboratory import Laboratory
from lmbench.jobs.hosts.laboratory_messages import (
    Evaluate,
    Evaluated,
    Message,
    Progress,
    Prune,
    Ready,
    Refused,
    stamp_of,
)
from lmbench.jobs.quantization import moments_of, scored, window_steps
from lmbench.model.rnn import RNNModel
from lmbench.session import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("laboratory"), "LSTM")


@pytest.fixture(scope="module")
def lab(run: Run) -> tuple[Laboratory, Answers]:
    ears = Answers()
    laboratory = Laboratory(ears)
    laboratory.handle(probe(run))
    return laboratory, ears


def reply(lab: tuple[Laboratory, Answers], request: Message) -> Message:
    lab[0].handle(request)
    return lab[1][-1]


def evaluated(lab: tuple[Laboratory, Answers], request: Message) -> Evaluated:
    found = reply(lab, request)
    assert isinstance(found, Evaluated), found
    return found


@pytest.mark.usefixtures("forked_workers")
def test_quantize_finds_settings_in_the_working_folder_keeps_them_and_scores_as_here(
    run, lab, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LMBENCH_HOME", str(run.home.path))
    settings = load_preset("int8-best").to_dict()
    settings["overrides"] = {"decoder": {"bits_weights": 4}, r"rnn\.cells\.0\..*": {"fp16": True}}
    found = evaluated(lab, Evaluate(id=2, settings=settings))
    path = run.home.path / "own.yaml"
    path.write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    made = answer(
        capsys, "quantize", "1", "--config", "own.yaml", "--threads", "1",
        "--calibration-tokens", str(CALIBRATION), "--eval-tokens", str(TOKENS),
    )  # fmt: skip
    assert found.loss == pytest.approx(made["results"]["valid_loss"], abs=1e-4)
    assert found.bytes == made["packed_bytes"]
    kept = run.home.find_run(made["ref"]).path / "quantization.yaml"
    assert kept.read_text() == path.read_text()
    (scored_again,) = answer(
        capsys, "evaluate", made["ref"], "--split", "valid", "--tokens", str(TOKENS),
        "--threads", "1",
    )  # fmt: skip
    assert found.loss == pytest.approx(scored_again["results"]["valid_loss"], abs=1e-4)
    assert found.tokens == scored_again["results"]["tokens"]


def test_settings_that_are_not_there_are_named_and_no_run_is_made(run, monkeypatch, capsys):
    monkeypatch.setenv("LMBENCH_HOME", str(run.home.path))
    before = len(run.session.runs())
    assert lmbench(["quantize", "1", "--config", "gone.yaml"]) == 2
    assert "--config gone.yaml: there is no such file" in " ".join(capsys.readouterr().err.split())
    assert len(run.session.runs()) == before


def test_the_model_as_it_is_is_evaluated_too(run, lab):
    ready = next(m for m in lab[1] if isinstance(m, Ready))
    assert ready.stamp == stamp_of(run)
    assert evaluated(lab, Evaluate(id=3)).loss == pytest.approx(ready.loss, abs=1e-9)


def test_progress_is_called_as_the_key_that_asks_for_it(run, lab):
    opened, told = lab[0]._opened, set()
    assert opened is not None
    opened.loss(opened.model, lambda what, done, total: told.add(what))
    assert told == {"evaluating"}


def test_pruning_at_once_costs_what_the_pruned_model_scores(run, lab):
    bench = lab[0]._opened
    assert bench is not None
    pruned = copy.deepcopy(bench.model)
    with torch.no_grad():
        for name, weight in pruned.named_parameters():
            if weight.dim() == 2 and "bias" not in name:
                least = weight.abs().flatten().kthvalue(weight.numel() // 2).values
                weight.mul_(weight.abs() > least)
    expected = scored(pruned, bench.sample).loss
    found = evaluated(lab, Prune(id=4, target="model", level=0.5))
    assert found.loss == pytest.approx(expected, abs=1e-6)
    assert found.nonzero == pytest.approx(found.weights / 2, abs=5)
    dense = evaluated(lab, Prune(id=5, target="model", level=0.0))
    assert dense.nonzero == found.weights
    assert dense.bytes == bench.packed_bytes
    # Half of the numbers, and a bit for each.
    spared = 4 * (found.weights - found.nonzero) - found.weights / 8
    assert found.bytes == pytest.approx(dense.bytes - spared, abs=20)
    one = evaluated(lab, Prune(id=6, target="encoder.weight", level=0.9))
    assert found.nonzero < one.nonzero < found.weights


def test_the_model_on_the_bench_is_never_changed(run, lab):
    before = evaluated(lab, Evaluate(id=7)).loss
    evaluated(lab, Evaluate(id=8, settings=load_preset("int4-weights").to_dict()))
    evaluated(lab, Prune(id=9, target="model", level=0.8))
    assert evaluated(lab, Evaluate(id=10)).loss == before


def test_ranges_are_found_once_and_kept_until_the_model_changes(run, lab, monkeypatch):
    kept = run.path / f"ranges-train-{CALIBRATION}.yaml"
    assert kept.is_file()

    def calibrated() -> bool:
        told: list[Message] = []
        Laboratory(told.append).handle(probe(run))
        return any(isinstance(m, Progress) and m.what == "calibrating" for m in told)

    assert not calibrated()
    weights = run.path / "best" / "model.safetensors"
    later = kept.stat().st_mtime + 1000
    os.utime(weights, (later, later))

    def replaced_meanwhile(*arguments: Any) -> ActivationStats:
        os.utime(weights, (later + 1, later + 1))
        return calibrate(*arguments)

    calibrate = opened_model._calibrate
    with monkeypatch.context() as patch:
        patch.setattr(opened_model, "_calibrate", replaced_meanwhile)
        assert calibrated()
    # Those were the ranges of the model that is no more.
    assert calibrated()
    assert not calibrated()


def test_a_model_opens_where_its_ranges_cannot_be_kept(run, monkeypatch):
    for kept in run.path.glob("ranges-*.yaml"):
        kept.unlink()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(opened_model, "save_stats", full)
    ears = Answers()
    Laboratory(ears).handle(probe(run))
    assert isinstance(ears[-1], Ready), ears[-1]


def test_ranges_of_a_quantize_run_that_began_before_the_model_was_there_are_not_taken(
    run, monkeypatch
):
    monkeypatch.setattr(opened_model, "load_stats", lambda path: {"of": path.parent.name})
    made = stamp_of(run)
    settings = QuantizeConfig(calibration_tokens=CALIBRATION + 1)
    quantized = run.session.new_run(settings, "quantize", name="int8", parent=run)
    request = probe(run, calibration_tokens=CALIBRATION + 1)
    for seconds, taken in ((-1, False), (1, True)):
        quantized.update(status="finished", started=made / 1e9 + seconds)
        found = opened_model._known_stats(run, request, made)
        assert found == ({"of": quantized.path.name} if taken else None)


@pytest.mark.parametrize(
    "request_, words",
    [
        (Evaluate(id=1, settings={"bits_weights": 99}), "bits_weights"),
        (Evaluate(id=1, settings={"overrides": {"nobody": {"fp16": True}}}), "matches no module"),
        (Prune(id=1, target="nothing", level=0.5), "cannot be pruned here"),
        (Prune(id=1, target="model", level=1.5), "out of [0, 1)"),
        (Progress(id=1, what="what"), "not a request"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(run, lab, request_, words):
    refused = reply(lab, request_)
    assert isinstance(refused, Refused)
    assert words in refused.reason
    assert "\n" not in refused.reason


def test_a_run_without_a_model_is_refused(run):
    empty = run.session.new_run(TrainConfig(), "train", name="empty")
    # Queued, it would be worked on as soon as another run has let go of the device.
    empty.update(status="stopped")
    ears = Answers()
    Laboratory(ears).handle(probe(empty))
    refused = ears[-1]
    assert isinstance(refused, Refused)
    assert "no checkpoint" in refused.reason


def test_modules_have_ranges_and_histograms_that_count_every_value(run, lab):
    ready = next(m for m in lab[1] if isinstance(m, Ready))
    gate = next(m for m in ready.modules if m.name == "rnn.cells.0.act_f")
    assert gate.type == "Sigmoid"
    assert 0 <= gate.low < gate.high <= 1
    assert sum(gate.counts) == 12 * (CALIBRATION // 10 - 1) * 10
    assert [p.name for p in ready.presets if p.published] == preset_names()[:6]


def test_scoring_takes_the_tokens_that_were_asked_for(run):
    corpus = open_corpus(str(run.home.path / "text"), run.home.path)
    rows = score_rows(corpus, "valid", TOKENS, torch.device("cpu"))
    assert rows.shape == (TOKENS // 10, 10)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
def test_moments_without_the_decoders_product_are_the_moments(kind):
    torch.manual_seed(3)
    model = modular_copy(RNNModel(kind, 50, 12, 12, 2, 0.1, True))
    assert isinstance(model, RNNModel)
    rows = torch.randint(50, (80, 10))
    steps, windows = window_steps(rows)
    wanted = collect_input_moments(model, steps)
    told: list[tuple[int, int]] = []
    found = moments_of(model, rows, lambda done, total: told.append((done, total)))
    # The encoder's weight is the decoder's, whose inputs tell what a change of it costs.
    wanted["encoder"] = wanted["decoder"]
    assert found.keys() == wanted.keys()
    for name, moment in found.items():
        assert torch.equal(moment, wanted[name]), name
    assert told[-1] == (windows, windows)
    # It decodes again afterwards.
    logits, _ = model(rows[:3], model.init_hidden(10))
    assert logits.shape == (3, 10, 50)
