"""`lmbench pack`, and what evaluate, generate, benchmark and compare do with its files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_world import answer, complaint
from safetensors.torch import load_file, save_file

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.deploy.runtimes.table import as_is_runtime
from lmbench.distiller.schedules.preset_files import preset_path
from lmbench.session import Home, Run

Capture = pytest.CaptureFixture[str]

INT8 = "int8" if why_unavailable() else "native-int8"
"""Where a dense int8 file runs here."""


@pytest.fixture(scope="module")
def int8(trained: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model packed in int8."""
    file = tmp_path_factory.mktemp("packed") / "int8.lmpack"
    command = ["pack", "1", "--weights", "int8", "--threads", "1", "--output", str(file)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(trained.path))
        assert lmbench(command) == 0
    return file


@pytest.fixture(scope="module")
def quantized(trained: Home) -> Run:
    """The trained model quantized to int8."""
    few = ["--calibration-tokens", "1500", "--threads", "1", "--name", "int8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(trained.path))
        assert lmbench(["quantize", "1", "--preset", "int8-best", *few]) == 0
    return trained.find_run("int8")


def test_pack_puts_a_copy_of_the_runs_file_where_it_is_told(
    home: Home, capsys: Capture, int8: Path, tmp_path: Path
) -> None:
    run = next(run for run in home.open_session().runs() if run.read().kind == "pack")
    assert int8.read_bytes() == (run.path / "model.lmpack").read_bytes()
    assert run.read().results["bytes"] == int8.stat().st_size
    assert lmbench(["pack", "1", "-o", str(int8)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert lmbench(["pack", "1", "-o", str(tmp_path / "no" / "x.lmpack")]) == 2
    assert f"the folder {tmp_path / 'no'} is not there" in capsys.readouterr().err


def test_a_packed_file_evaluates_to_the_score_it_carries_in_the_runtime_it_names(
    home: Home, capsys: Capture, int8: Path
) -> None:
    scores = open_packed(int8).about.scores
    [document] = answer(capsys, "evaluate", str(int8), "--threads", "1")
    assert document["test_ppl"] == pytest.approx(scores["test_ppl"], rel=1e-9)
    assert document["results"]["runtime"] == scores["runtime"] == INT8
    assert document["bytes"] == int8.stat().st_size


def test_evaluate_prints_the_runtime_it_took(home: Home, capsys: Capture, int8: Path) -> None:
    few = ("--tokens", "200", "--threads", "1", "--runtime", "fp16")
    assert lmbench(["evaluate", str(int8), *few]) == 0
    assert "| fp16\n" in capsys.readouterr().out


def test_a_quantized_run_is_evaluated_as_it_is(home: Home, capsys: Capture, quantized: Run) -> None:
    [again] = answer(capsys, "evaluate", quantized.ref, "--tokens", "200", "--threads", "1")
    assert again["results"]["runtime"] == "naive"


def test_the_export_of_a_packed_file_is_checked_on_its_corpus(
    home: Home, capsys: Capture, int8: Path, tmp_path: Path
) -> None:
    onnx, corpus = str(tmp_path / "x.onnx"), home.find_run("1").read().corpus
    assert corpus is not None
    assert lmbench(["export", str(int8), "--format", "onnx", "-o", onnx]) == 0
    assert f"test of {corpus.name}" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_a_quantized_run_is_exported_with_the_values_of_its_integers(
    home: Home, capsys: Capture, quantized: Run, tmp_path: Path, format: str
) -> None:
    file = tmp_path / f"m.{format}"
    document = answer(capsys, "export", quantized.ref, "--format", format, "-o", str(file))
    assert "floats" in str(document["activations"])
    if format == "safetensors":
        values = load_file(file)["rnn.weight_hh_l0"]
        assert all(len(row.unique()) <= 256 for row in values)


def test_generate_writes_with_a_packed_file_on_its_own_kernels(
    home: Home, capsys: Capture, int8: Path
) -> None:
    document = answer(capsys, "generate", str(int8), "--words", "12", "--seed", "5")
    assert document["run"] == "int8.lmpack"
    assert document["runtime"] == INT8
    assert len(document["text"].split()) == 12
    assert lmbench(["generate", str(int8), "--words", "12", "--seed", "5"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == document["text"].split()
    assert f"({INT8}, seed 5)" in captured.err


def test_integers_are_scored_with_a_cache_by_the_kernels_that_run_them(
    home: Home, capsys: Capture, int8: Path
) -> None:
    def scored(*words: str) -> dict[str, Any]:
        [document] = answer(capsys, "evaluate", str(int8), "--threads", "1", *words)
        return document["results"]

    plain = scored()
    none = scored("--cache", "50", "--cache-lambda", "0")
    assert none["runtime"] == plain["runtime"] == INT8
    if INT8 != "int8":  # ONNX Runtime's range of activations is the window's.
        assert none["test_cache_ppl"] == pytest.approx(plain["test_ppl"], rel=1e-6)
        assert none["test_ppl"] == pytest.approx(plain["test_ppl"], rel=1e-6)
    floats = scored("--cache", "50", "--cache-lambda", "0", "--runtime", "naive")
    assert floats["runtime"] == "naive"
    assert floats["test_ppl"] != pytest.approx(plain["test_ppl"], rel=1e-6)
    some = scored("--cache", "50", "--cache-lambda", "0.3")
    assert some["test_ppl"] == none["test_ppl"]
    assert some["test_cache_ppl"] != pytest.approx(none["test_cache_ppl"], rel=1e-3)


def test_benchmark_and_compare_show_a_line_for_each_runtime(home: Home, capsys: Capture) -> None:
    assert lmbench(["compare", "1", "--runtimes"]) == 2
    assert "lmbench benchmark default/001-train" in capsys.readouterr().err
    few = ("--words", "3", "--rounds", "1", "--tokens", "100", "--threads", "1")
    assert lmbench(["benchmark", "1", "--runtimes", "fp16", *few]) == 0
    told = capsys.readouterr().out
    assert lmbench(["compare", "1", "--runtimes"]) == 0
    compared = capsys.readouterr().out
    for out in (told, compared):
        assert {"naive", "torch", "fp16"} <= set(out.split())
        assert {"Disk", "Peak", "ms/word", "p95", "naive", "fp32", "Scored", "Ppl"} <= set(
            out.split()
        )
    document = answer(capsys, "compare", "1", "--runtimes")
    assert [row["runtime"] for row in document] == ["naive", "torch", "fp16"]
    assert all(row["ms_p95"] > 0 and row["tokens_per_s"] > 0 and row["ppl"] for row in document)


def test_compare_takes_what_has_a_model_and_its_advice_can_be_pasted(
    home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmbench.jobs.launch.start", lambda run, queue: None)
    named = home.open_session("two words")
    shutil.copytree(home.find_run("1").path, named.runs_path / "001-train")
    assert lmbench(["evaluate", "two words/1", "--tokens", "100", "--detach"]) == 0
    hint = capsys.readouterr().out
    assert "`lmbench runs log 'two words/002-evaluate' --follow`" in hint
    # Queued runs would be worked on by the next test's supervisor.
    for run in (named.new_run(TrainConfig(), "train"), named.run(2)):
        run.update(status="stopped")
    [row] = answer(capsys, "compare", "--session", "two words")
    assert row["run"] == "two words/001-train"
    assert lmbench(["compare", "--session", "two words", "--runtimes"]) == 2
    assert capsys.readouterr().err.endswith(": lmbench benchmark 'two words/001-train'\n")


def with_idle_units(home: Home, units: int) -> Run:
    """A run like the first whose last hidden units are read by nobody, as the pruner leaves it."""
    first = home.find_run("1")
    record = first.read()
    run = first.session.new_run(first.config(), "train")
    folder = run.path / "best"
    folder.mkdir()
    weights = load_file(first.path / "best" / "model.safetensors")
    width = weights["rnn.weight_hh_l0"].shape[1]
    torch.manual_seed(1)
    for name in ("rnn.weight_hh_l0", "rnn.weight_hh_l1", "rnn.weight_ih_l1", "encoder.weight"):
        weights[name][:, width - units :] = 0
    save_file(weights, folder / "model.safetensors")
    run.update(status="finished", corpus=record.corpus, shape=record.shape)
    return run


def test_packing_leaves_out_hidden_units_that_nothing_reads(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    run = with_idle_units(home, 6)
    whole, small = tmp_path / "whole.lmpack", tmp_path / "small.lmpack"
    command = ["pack", run.ref, "--weights", "fp32", "--sparse", "never", "--threads", "1"]
    assert lmbench([*command, "--no-thin", "-o", str(whole)]) == 0
    assert "left out" not in capsys.readouterr().out
    assert lmbench([*command, "-o", str(small)]) == 0
    assert "left out 6 of 16 hidden units of each layer" in capsys.readouterr().out
    assert small.stat().st_size < 0.75 * whole.stat().st_size
    models = [load_packed(path).recurrent for path in (whole, small)]
    assert [model.nhid for model in models] == [16, 10]
    text = torch.randint(models[0].ntoken, (30, 2), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = [model(text, model.init_hidden(2))[0] for model in models]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)
    scores = [open_packed(path).about.scores["test_ppl"] for path in (whole, small)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_a_thin_pack_run_tells_its_shape_and_what_was_left_out(home: Home, capsys: Capture) -> None:
    run = with_idle_units(home, 4)
    document = answer(capsys, "pack", run.ref, "--weights", "int8", "--threads", "1")
    assert document["results"]["units_left_out"] == 4
    made = home.find_run(document["ref"])
    assert made.read().shape["nhid"] == made.read().shape["emsize"] == 12
    weights = list(load_packed(made.path / "model.lmpack").model.parameters())
    assert document["parameters"] == sum(p.numel() for p in weights if p.dim() == 2)
    assert document["results"]["biases"] == sum(p.numel() for p in weights if p.dim() == 1)


@pytest.mark.parametrize("group, nhid", [("null", 10), ("8", 16)], ids=["rows", "groups"])
def test_codes_of_whole_rows_are_packed_without_units_that_nothing_reads(
    home: Home, capsys: Capture, tmp_path: Path, group: str, nhid: int
) -> None:
    preset = preset_path("code3").read_text(encoding="utf-8")
    schedule = preset.replace("rounding: codes", f"rounding: codes\n    group_size: {group}")
    assert schedule != preset
    (tmp_path / "codes.yaml").write_text(schedule, encoding="utf-8")
    flags = ("--schedule", str(tmp_path / "codes.yaml"), "--epochs", "1", "--lr", "1")
    taught = answer(capsys, "prune", with_idle_units(home, 6).ref, *flags, "--threads", "1")
    made = answer(capsys, "pack", taught["ref"], "--threads", "1")
    packed = open_packed(home.find_run(made["ref"]).path / "model.lmpack")
    assert packed.shape["nhid"] == nhid
    if nhid == 10:
        matrices = [spec for spec in packed.specs.values() if len(spec.shape) == 2]
        assert {spec.values for spec in matrices} == {"code3"}
    else:
        log = (home.find_run(made["ref"]).path / "log.txt").read_text(encoding="utf-8")
        assert "6 hidden units that nothing reads stay" in log
        assert "pack it with --weights int8" in log
        small = answer(capsys, "pack", taught["ref"], "--weights", "int8", "--threads", "1")
        packed = open_packed(home.find_run(small["ref"]).path / "model.lmpack")
        assert packed.shape["nhid"] == 10
        assert small["test_ppl"] == pytest.approx(taught["test_ppl"], rel=1e-3)
        log = (home.find_run(small["ref"]).path / "log.txt").read_text(encoding="utf-8")
        assert "rounded anew" not in log
    assert made["test_ppl"] == pytest.approx(taught["test_ppl"], rel=1e-3)


def test_a_quantized_run_keeps_its_units_and_says_so(home: Home, capsys: Capture) -> None:
    run = with_idle_units(home, 4)
    few = ("--calibration-tokens", "500", "--eval-tokens", "500", "--threads", "1")
    made = answer(capsys, "quantize", run.ref, *few)
    assert lmbench(["pack", made["ref"], "--threads", "1"]) == 0
    log = " ".join(capsys.readouterr().out.split())
    assert "4 hidden units that nothing reads stay" in log
    assert "left out" not in log
    results = home.find_run("@").read().results
    whole = sum(row["bytes"] for row in results["tensors"]) + results["vocabulary_bytes"]
    # Dense or a bitmask, as it is told; blocks may be smaller.
    assert 0.9 * made["results"]["packed_bytes"] < whole <= made["results"]["packed_bytes"]


def test_a_quantized_run_is_packed_on_its_own_grid(
    home: Home, capsys: Capture, quantized: Run
) -> None:
    document = answer(capsys, "pack", quantized.ref, "--threads", "1")
    assert document["test_ppl"] == pytest.approx(quantized.read().results["test_ppl"], rel=0.02)
    small = load_packed(Path(document["run"]) / "model.lmpack")
    values = {spec.values for spec in small.packed.specs.values() if len(spec.shape) == 2}
    assert values == {"int8"}
    assert document["results"]["runtime"] == as_is_runtime(small)
    for command in (["pack"], ["quantize"], ["quantize", "--detach"]):
        line = complaint(capsys, *command, document["ref"], "--threads", "1")
        assert f"is packed already: name the run it is of, {quantized.ref}" in line


@pytest.mark.parametrize("weights, rounds", [("fp32", False), ("int8", False), ("int4", True)])
def test_packing_says_where_it_rounds_what_is_quantized_and_nowhere_else(
    home: Home, capsys: Capture, quantized: Run, weights: str, rounds: bool
) -> None:
    made = answer(capsys, "pack", quantized.ref, "--weights", weights, "--threads", "1")
    log = (home.find_run(made["ref"]).path / "log.txt").read_text(encoding="utf-8")
    assert ("rounded anew" in log) is rounds


@pytest.mark.parametrize(
    "command, reason",
    [
        (("sensitivity", "{run}", "--tokens", "200"), "is quantized: name the run that it was"),
        (("evaluate", "{run}", "--cache", "5", "--tokens", "200"), "--cache needs a model that"),
        (
            ("evaluate", "{run}", "--dynamic", "rms"),
            "--dynamic needs a model that is not quantized … name the run that it was made from",
        ),
        (("train", "--data", "tiny", "--teacher", "{run}"), "is of kind 'quantize', and only"),
    ],
)
def test_what_needs_plain_weights_refuses_a_quantized_run(
    home: Home, capsys: Capture, quantized: Run, command: tuple[str, ...], reason: str
) -> None:
    words = [word.format(run=quantized.ref) for word in command]
    assert lmbench([*words, "--threads", "1"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(part in said for part in reason.split(" … "))
