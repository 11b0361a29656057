"""What the commands do with a trained run, as a user calls them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.config import BenchmarkConfig, TrainConfig
from lmbench.deploy.native import why_unavailable
from lmbench.distiller.schedules.checking import load_schedule
from lmbench.errors import INTERRUPTED
from lmbench.jobs.job import Job
from lmbench.jobs.kinds import benchmark
from lmbench.session import Home, Run, read_events
from lmbench.session.events import SensitivityPoint
from lmbench.session.manage import delete_run

Capture = pytest.CaptureFixture[str]


def test_evaluate_scores_what_the_training_scored(home: Home, capsys: Capture) -> None:
    record = home.find_run("1").read()
    [document] = answer(capsys, "evaluate", "1", "--threads", "1")
    assert document["kind"] == "evaluate"
    assert document["test_ppl"] == pytest.approx(record.results["test_ppl"], rel=1e-5)
    assert document["parameters"] == record.results["parameters"]
    assert document["tokens_per_s"] > 0


def test_quantize_makes_a_smaller_run_that_evaluates_to_the_same_and_is_not_quantized_again(
    home: Home, capsys: Capture
) -> None:
    few = ("--calibration-tokens", "1500", "--threads", "1")
    quantized = answer(capsys, "quantize", "1", "--preset", "int8-best", *few)
    dense = home.find_run("1").read().results
    assert quantized["packed_bytes"] < 0.45 * dense["bytes"]
    assert quantized["test_ppl"] == pytest.approx(dense["test_ppl"], rel=0.05)
    [again] = answer(capsys, "evaluate", quantized["run"], "--threads", "1")
    assert again["test_ppl"] == pytest.approx(quantized["test_ppl"], rel=1e-4)
    assert lmbench(["quantize", quantized["run"], *few]) == 2
    assert "quantized already" in capsys.readouterr().err


def test_one_pass_scores_model_tensors_and_gates_and_suggests_a_schedule_of_the_total(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    wanted = ("--levels", "0.5", "--levels", "0.9", "--tokens", "300", "--suggest", "0.7")
    target = tmp_path / "suggested.yaml"
    words = (*wanted, "--per", "all", "--threads", "1", "--output", str(target))
    document = answer(capsys, "sensitivity", "1", *words)
    assert document["status"] == "finished"
    assert document["results"]["suggested_sparsity"] == pytest.approx(0.7, abs=0.01)
    assert load_schedule(target).policies
    found = home.find_run(document["run"])
    points = [e for e in read_events(found.events_path) if isinstance(e, SensitivityPoint)]
    parts = Counter((point.part, point.level) for point in points if point.level > 0)
    once = {"model": 1, "tensor": 1 + 4, "gate": 2 * 4}
    assert parts == {(part, level): n for part, n in once.items() for level in (0.5, 0.9)}


def test_a_suggestion_that_prunes_nothing_is_one_line(home: Home, capsys: Capture) -> None:
    wanted = ("--levels", "0.5", "--tokens", "100", "--threads", "1", "--suggest", "1e-9")
    assert lmbench(["sensitivity", "1", *wanted]) == 2
    error = capsys.readouterr().err
    assert "--suggest: " in error
    assert "nothing is to be pruned" in error


@pytest.mark.parametrize(
    "wanted, line",
    [
        (("--per", "gate", "--suggest", "0.5"), "--suggest needs the curves of tensors"),
        (("--levels", "0.5", "--suggest", "0.7"), "--suggest 0.7 is above the highest of --levels"),
        (("--levels", "1.5"), "--levels: 1.5 is out of [0, 1)"),
        (("--levels", "0"), "--levels: no level is above 0"),
    ],
)
def test_a_sensitivity_of_no_use_is_refused_before_a_run_is_made(
    home: Home, capsys: Capture, wanted: tuple[str, ...], line: str
) -> None:
    before = len(list(home.open_session("default").runs()))
    assert lmbench(["sensitivity", "1", *wanted]) == 2
    assert line in capsys.readouterr().err
    assert len(list(home.open_session("default").runs())) == before


def test_summary_shows_the_masks_of_a_pruned_run_as_table_json_and_csv(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    assert lmbench(["summary", "1", "--kind", "masks"]) == 2
    assert "has no masks, as no schedule has pruned it" in capsys.readouterr().err
    (tmp_path / "half.yaml").write_text(
        "pruners:\n  p: {class: AutomatedGradualPruner, initial_sparsity: 0.1, "
        "final_sparsity: 0.5, weights: [rnn.weight_hh_l1]}\n"
        "policies:\n  - {pruner: {instance_name: p}, epochs: [0]}\n"
    )
    few = ("--epochs", "1", "--threads", "1")
    pruned = answer(capsys, "prune", "1", "--schedule", "half.yaml", *few)["run"]
    document = answer(capsys, "summary", pruned, "--kind", "masks")
    (row,) = document["rows"]
    assert (row["name"], row["shape"]) == ("rnn.weight_hh_l1", "(64, 16)")
    assert (row["numel"], row["pruned"], row["fine"]) == (1024, 512, 50.0)
    assert document["total"]["pruned"] == 512
    assert lmbench(["summary", pruned, "--kind", "masks", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith('rnn.weight_hh_l1,"(64, 16)",1024')
    assert lmbench(["summary", pruned, "--kind", "masks"]) == 0
    assert "rnn.weight_hh_l1" in capsys.readouterr().out


def test_a_schedule_of_thresholds_is_foretold_by_the_weights_of_a_run(
    home: Home, capsys: Capture
) -> None:
    assert lmbench(["schedule", "plot", "large-baidu"]) == 0
    assert "name a trained run with --run" in " ".join(capsys.readouterr().out.split())
    document = answer(capsys, "schedule", "plot", "large-baidu", "--run", "1")
    model = answer(capsys, "summary", "1")
    assert document["weights"] == model["total"]["nnz_dense"]
    assert 0 < document["final_sparsity"] < 1
    assert all(tensor["estimated"] for tensor in document["tensors"])
    assert lmbench(["schedule", "plot", "large-baidu", "--run", "1"]) == 0
    assert f"{document['final_nonzero']:,} remain" in " ".join(capsys.readouterr().out.split())
    assert lmbench(["schedule", "check", "large-baidu", "--run", "1"]) == 0
    assert lmbench(["schedule", "plot", "none.yaml", "--run", "1"]) == 2


@pytest.mark.parametrize("kind", ["sparsity", "model", "modules", "percentile"])
def test_summary_shows_each_table(home: Home, capsys: Capture, kind: str) -> None:
    document = answer(capsys, "summary", "1", "--kind", kind)
    assert document["rows"]
    assert lmbench(["summary", "1", "--kind", kind]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_tied_weights_count_once_and_twice_under_gross(home: Home, capsys: Capture) -> None:
    once = answer(capsys, "summary", "1")["total"]["nnz_dense"]
    twice = answer(capsys, "summary", "1", "--gross")["total"]["nnz_dense"]
    rows = answer(capsys, "summary", "1")["rows"]
    embedding = next(row for row in rows if row["name"] == "encoder.weight")["nnz_dense"]
    assert twice == once + embedding


@pytest.mark.parametrize(
    "form, begins", [("markdown", "| Run |"), ("csv", "run,name"), ("latex", r"\begin{tabular}")]
)
def test_compare_writes_each_format(home: Home, capsys: Capture, form: str, begins: str) -> None:
    assert lmbench(["compare", "1", "--format", form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "001-train" in out


def test_report_writes_markdown_and_html_and_overwrites_nothing(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    for name, begins in (("r.md", "# Session default"), ("r.html", "<!doctype html>")):
        assert lmbench(["report", "default", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)
    assert lmbench(["report", "default", "-o", str(tmp_path / "r.md")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_training_writes_the_weights_and_the_graph_where_it_was_told(
    home: Home, capsys: Capture, tmp_path: Path
) -> None:
    weights, graph = tmp_path / "w.safetensors", tmp_path / "m.onnx"
    wanted = ("--save", str(weights), "--onnx-export", str(graph))
    train = ("train", "--data", "tiny", "--emsize", "8", "--nhid", "8", "--epochs", "1")
    document = answer(capsys, *train, *wanted)
    kept = Path(document["run"]) / "best" / "model.safetensors"
    assert weights.read_bytes() == kept.read_bytes()
    assert graph.stat().st_size > 1000
    assert home.session("default").read().corpus == home.find_run("@", "default").read().corpus


@pytest.mark.parametrize("scored", ["best", "last"])
def test_what_training_writes_is_the_checkpoint_that_was_scored(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: str
) -> None:
    run = home.open_session("written").new_run(TrainConfig(), "train")
    for checkpoint in ("best", "last"):
        (run.path / checkpoint).mkdir()
        (run.path / checkpoint / "model.safetensors").write_text(checkpoint)
    run.update(status="finished", results={"test_checkpoint": scored})
    monkeypatch.setattr("lmbench.cli.train.start", lambda *_, **__: (run, 0))
    weights = tmp_path / "w.safetensors"
    assert lmbench(["train", "--data", "tiny", "--save", str(weights)]) == 0
    assert weights.read_text() == scored


def test_a_run_that_ends_before_its_first_checkpoint_keeps_its_exit_code(
    home: Home, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = home.open_session("written").new_run(TrainConfig(), "train")
    # Else the queue would have it trained.
    run.update(status="stopped")
    monkeypatch.setattr("lmbench.cli.train.start", lambda *_, **__: (run, INTERRUPTED))
    weights = tmp_path / "w.safetensors"
    assert lmbench(["train", "--data", "tiny", "--save", str(weights)]) == INTERRUPTED
    assert "without a checkpoint: there are no weights to write" in capsys.readouterr().err
    assert not weights.exists()


def test_a_run_finds_its_text_again_from_another_folder(
    home: Home, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in (home.path / "data" / "tiny").glob("*.txt"):
        (mine / path.name).write_bytes(path.read_bytes())
    small = ("--emsize", "8", "--nhid", "8", "--epochs", "1", "--session", "elsewhere")
    answer(capsys, "train", "--data", "mine", *small)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert answer(capsys, "evaluate", "1", "--session", "elsewhere")
    (tmp_path / "s.yaml").write_text(
        "version: 1\npruners: {p: {class: SparsityLevelParameterPruner, levels: "
        "{encoder.weight: 0.5}}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]\n"
    )
    pruning = ("prune", "1", "--schedule", "../s.yaml", "--session", "elsewhere")
    assert answer(capsys, *pruning)["status"] == "finished"


@pytest.mark.parametrize("flag", ["--save", "--onnx-export"])
def test_files_that_could_not_be_written_at_the_end_are_refused_at_the_start(
    home: Home, capsys: Capture, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    shut = tmp_path / "shut"
    shut.mkdir()
    [other] = {"--save", "--onnx-export"} - {flag}
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != shut and may(path, mode))
    before = len(home.session("default").runs())
    for words, said in (
        ((str(tmp_path / "new"), "--detach"), "lmbench export"),
        ((str(there),), "is there already"),
        ((str(tmp_path / "no" / "file"),), "the folder"),
        ((str(shut / "file"),), "nothing may be written"),
        ((str(there.with_name("a")), other, str(there.with_name("a"))), "name one file"),
    ):
        assert lmbench(["train", "--data", "tiny", "--epochs", "1", flag, *words]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert flag in err
    assert len(home.session("default").runs()) == before
    assert there.read_text() == "precious"


def test_onnx_export_leaves_a_file_that_comes_to_be_there_during_the_work(
    home: Home, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "graph.onnx"

    def checkpoint(run: Run) -> str:
        graph.write_text("precious")
        return "last"

    monkeypatch.setattr("lmbench.cli.train.shown_checkpoint", checkpoint)
    flags = ("--data", "tiny", "--epochs", "1", "--emsize", "8", "--nhid", "8")
    assert lmbench(["train", *flags, "--onnx-export", str(graph)]) == 2
    assert f"--onnx-export {graph}: is there already" in " ".join(capsys.readouterr().err.split())
    assert graph.read_text() == "precious"


def test_train_summary_shows_the_model_that_would_be_trained(home: Home, capsys: Capture) -> None:
    document = answer(capsys, "train", "--data", "tiny", "--summary", "model", "--tied")
    assert document["rows"][0]["count"] > 0


def test_schedule_check_and_plot_foretell_the_end(home: Home, capsys: Capture) -> None:
    sizes = ("--emsize", "1500", "--nhid", "1500", "--tied")
    document = answer(capsys, "schedule", "check", "large-80", *sizes)
    assert document["final_nonzero"] == 16_847_550
    assert lmbench(["schedule", "plot", "large-80", *sizes]) == 0
    assert "16,847,550 remain" in capsys.readouterr().out


def test_doctor_says_what_is_here(home: Home, capsys: Capture) -> None:
    document = answer(capsys, "doctor")
    told = {finding["what"]: finding["value"] for finding in document["findings"]}
    assert told["corpus pydoc"] == "built in"
    assert {"Python", "torch", "threads"} <= told.keys()


def test_doctor_says_why_the_compiled_kernels_are_not_there(
    home: Home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels() -> dict[str, object]:
        found = answer(capsys, "doctor")["findings"]
        return next(finding for finding in found if finding["what"] == "compiled kernels")

    if why_unavailable() is None:
        assert (kernels()["value"], kernels()["good"]) == ("built", True)
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    assert "LMBENCH_NATIVE=0 is set" in str(kernels()["value"])
    assert kernels()["good"] is False


@pytest.fixture
def elsewhere(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The working folder of the commands, which has the model too, and no corpus; runs that they
    make are not begun."""
    other = Home(tmp_path / "elsewhere")
    shutil.copytree(home.sessions_path, other.sessions_path)
    monkeypatch.setenv("LMBENCH_HOME", str(other.path))

    def make_alone(make: Callable[[], Run], **_: Any) -> tuple[Run, int]:
        return make(), 0

    for command in ("train", "benchmark"):
        monkeypatch.setattr(f"lmbench.cli.{command}.start", make_alone)
    return other


def test_a_run_of_another_working_folder_is_pruned_there(home: Home, elsewhere: Home) -> None:
    dense, before = home.find_run("1"), elsewhere.session("default").runs()
    assert lmbench(["prune", str(dense.path), "--schedule", "small-80", "--epochs", "9"]) == 0
    assert elsewhere.session("default").runs() == before
    made = dense.session.runs()[-1]
    assert made.read().parent == dense.ref
    delete_run(made)


def test_a_run_of_another_working_folder_is_measured_and_not_its_namesake(
    home: Home, elsewhere: Home
) -> None:
    there = home.find_run("1")
    assert lmbench(["benchmark", "1", str(there.path)]) == 0
    made = elsewhere.session("default").runs()[-1]
    config = made.config()
    assert isinstance(config, BenchmarkConfig)
    assert config.models == ("default/001-train", str(there.path))
    job = Job(made, made.read(), config, resuming=False)
    titles = [benchmark._open(job, name, "cpu")[0].title for name in config.models]
    assert titles == ["default/001-train", str(there.path)]
    folder = there.path / "best"
    assert benchmark._open(job, str(folder), "cpu")[0].title == str(folder)


def test_a_newest_run_without_a_model_is_passed_over(home: Home, capsys: Capture) -> None:
    answer(capsys, "evaluate", "1", "--tokens", "200", "--threads", "1")
    document = answer(capsys, "generate", "@", "--words", "5", "--seed", "1")
    assert document["text"]
