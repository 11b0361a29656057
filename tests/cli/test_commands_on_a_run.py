"""What the commands do with a trained run, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.deploy.native import why_unavailable
from lmbench.distiller.schedule import load_schedule
from lmbench.session import Home


def test_evaluate_scores_what_the_training_scored(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    record = home.find_run("1").read()
    document = answer(capsys, "evaluate", "1", "--threads", "1")
    assert document["kind"] == "evaluate"
    assert document["test_ppl"] == pytest.approx(record.results["test_ppl"], rel=1e-5)
    assert document["parameters"] == record.results["parameters"]
    assert document["tokens_per_s"] > 0


def test_quantize_makes_a_smaller_run_that_evaluates_to_the_same(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--calibration-tokens", "1500", "--threads", "1")
    quantized = answer(capsys, "quantize", "1", "--preset", "int8-best", *few)
    dense = home.find_run("1").read().results
    assert quantized["bytes"] < 0.45 * dense["bytes"]
    assert quantized["test_ppl"] == pytest.approx(dense["test_ppl"], rel=0.05)
    again = answer(capsys, "evaluate", quantized["run"], "--threads", "1")
    assert again["test_ppl"] == pytest.approx(quantized["test_ppl"], rel=1e-4)


def test_a_quantized_run_is_not_quantized_again(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--calibration-tokens", "500", "--eval-tokens", "500", "--threads", "1")
    quantized = answer(capsys, "quantize", "1", *few)
    assert lmbench(["quantize", quantized["run"], *few]) == 2
    assert "quantized already" in capsys.readouterr().err


def test_sensitivity_suggests_a_schedule_that_reaches_the_total(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted = ("--levels", "0.5", "--levels", "0.9", "--tokens", "600", "--suggest", "0.7")
    target = tmp_path / "suggested.yaml"
    document = answer(
        capsys, "sensitivity", "1", *wanted, "--threads", "1", "--output", str(target)
    )
    assert document["status"] == "finished"
    assert document["results"]["suggested_sparsity"] == pytest.approx(0.7, abs=0.01)
    assert load_schedule(target).policies


@pytest.mark.parametrize("kind", ["sparsity", "model", "modules", "percentile"])
def test_summary_shows_each_table(
    home: Home, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    document = answer(capsys, "summary", "1", "--kind", kind)
    assert document["rows"]
    assert lmbench(["summary", "1", "--kind", kind]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_tied_weights_count_once_and_twice_under_gross(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    once = answer(capsys, "summary", "1")["total"]["nnz_dense"]
    twice = answer(capsys, "summary", "1", "--gross")["total"]["nnz_dense"]
    rows = answer(capsys, "summary", "1")["rows"]
    embedding = next(row for row in rows if row["name"] == "encoder.weight")["nnz_dense"]
    assert twice == once + embedding


@pytest.mark.parametrize(
    "form, begins", [("markdown", "| Run |"), ("csv", "run,name"), ("latex", r"\begin{tabular}")]
)
def test_compare_writes_each_format(
    home: Home, capsys: pytest.CaptureFixture[str], form: str, begins: str
) -> None:
    assert lmbench(["compare", "1", "--format", form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "001-train" in out


def test_report_writes_markdown_and_html_and_overwrites_nothing(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, begins in (("r.md", "# Session default"), ("r.html", "<!doctype html>")):
        assert lmbench(["report", "default", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)
    assert lmbench(["report", "default", "-o", str(tmp_path / "r.md")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_onnx_export_after_training_agrees_with_torch(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "model.onnx"
    assert lmbench(["export", "1", "--format", "onnx", "--output", str(target)]) == 0
    assert target.stat().st_size > 1000


def test_train_summary_shows_the_model_that_would_be_trained(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    document = answer(capsys, "train", "--data", "tiny", "--summary", "model", "--tied")
    assert document["rows"][0]["count"] > 0


def test_schedule_check_and_plot_foretell_the_end(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--emsize", "1500", "--nhid", "1500", "--tied")
    document = answer(capsys, "schedule", "check", "large-80", *sizes)
    assert document["final_nonzero"] == 16_847_550
    assert lmbench(["schedule", "plot", "large-80", *sizes]) == 0
    assert "16,847,550 remain" in capsys.readouterr().out


def test_doctor_says_what_is_here(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(capsys, "doctor")
    told = {finding["what"]: finding["value"] for finding in document["findings"]}
    assert told["corpus pydoc"] == "built in"
    assert {"Python", "torch", "threads"} <= told.keys()


def test_doctor_says_why_the_compiled_kernels_are_not_there(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels() -> dict[str, object]:
        found = answer(capsys, "doctor")["findings"]
        return next(finding for finding in found if finding["what"] == "compiled kernels")

    if why_unavailable() is None:
        assert (kernels()["value"], kernels()["good"]) == ("built", True)
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    assert "LMBENCH_NATIVE=0 is set" in str(kernels()["value"])
    assert kernels()["good"] is False


def test_a_newest_run_without_a_model_is_passed_over(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "evaluate", "1", "--tokens", "200", "--threads", "1")
    document = answer(capsys, "generate", "@", "--words", "5", "--seed", "1")
    assert document["text"]
