"""The table of runs side by side says of each size what it is."""

from __future__ import annotations

import csv
import io
import platform
import shutil
import time
from pathlib import Path

import pytest
from rich.console import Console

from lmbench.cli import run as lmbench
from lmbench.config import BenchmarkConfig, EvaluateConfig, QuantizeConfig, TrainConfig
from lmbench.report.compare import (
    OF_ADAPTED,
    Comparison,
    compare_runs,
    compare_runtimes,
    report_session,
)
from lmbench.report.pareto_front import front_plot
from lmbench.report.tables import AS_PACKED, run_document, runs_table
from lmbench.session import EventWriter, Home, Run
from lmbench.session import events as ev
from lmbench.session.records import Corpus
from lmbench.tui.compare.selection import Compared


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    session = Home(tmp_path).open_session("s")
    dense = session.new_run(TrainConfig(), "train", name="dense")
    int8 = session.new_run(QuantizeConfig(), "quantize", name="int8", parent=dense)
    for run, count in ((dense, 29_321_000), (int8, 7_400_000)):
        run.update(status="finished", results={"bytes": count, "valid_ppl": 120.0})
    return [dense, int8]


@pytest.mark.parametrize(
    "form, size", [("markdown", "≈7,400,000"), ("latex", r"$\approx$7,400,000"), ("html", "≈")]
)
def test_a_size_that_no_file_has_is_marked_and_explained(runs, form, size):
    text = compare_runs(runs).write(form)
    assert size in text
    assert text.count(AS_PACKED.partition(" ")[2]) == 1
    assert "29,321,000" in text
    assert "≈29" not in text


def test_latex_prints_every_character_of_a_name(runs):
    runs[0].update(name=r"a\b~c^d_e{f}<g>|h&i%j#k$")
    (line,) = [t for t in compare_runs(runs[:1]).write("latex").splitlines() if "train &" in t]
    assert line.split(" & ")[1] == (
        r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\_e\{f\}"
        r"\textless{}g\textgreater{}\textbar{}h\&i\%j\#k\$"
    )


def test_markdown_makes_nothing_of_a_name(runs):
    runs[0].update(name="a <!-- b`c*d_e|f")
    name = r"a \<!-- b\`c\*d\_e\|f"
    assert name in compare_runs(runs).write("markdown")
    assert name in report_session(runs[0].session, "markdown")


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_a_run_has_one_line_whatever_its_name(runs, form):
    runs[0].update(name="dense\n| and | wide")
    both, one = (compare_runs(some).write(form).splitlines() for some in (runs, runs[1:]))
    assert len(both) == len(one) + 1


def test_without_quantize_runs_there_is_nothing_to_explain(runs):
    comparison: Comparison = compare_runs(runs[:1])
    assert comparison.note == ""
    assert AS_PACKED not in comparison.write("markdown")


def test_the_csv_has_the_number_alone(runs):
    rows = list(csv.DictReader(io.StringIO(compare_runs(runs).write("csv"))))
    assert [(row["kind"], row["bytes"]) for row in rows] == [
        ("train", "29321000"),
        ("quantize", "7400000"),
    ]


def test_runs_on_different_texts_are_told_apart_and_have_a_front_each(runs):
    assert "Corpus" not in compare_runs(runs).write("markdown")
    texts = [("tiny", "ab12cd34"), ("tiny", "cd12ab34"), ("other", "ef")]
    runs.append(runs[0].session.new_run(TrainConfig(), "train", name="third"))
    for run, (name, fingerprint), ppl in zip(runs, texts, (100.0, 50.0, 20.0), strict=True):
        corpus = Corpus(name=name, fingerprint=fingerprint)
        results = {"bytes": 1000 * run.id, "test_ppl": ppl}
        run.update(corpus=corpus, results=results, status="finished")
    comparison = compare_runs(runs)
    assert [row["corpus"] for row in comparison.rows] == ["tiny ab12cd", "tiny cd12ab", "other"]
    assert "| Corpus |" in comparison.write("markdown")
    plot = front_plot(comparison.rows)
    assert plot is not None
    fronts = {s.label: s.y.tolist() for s in plot.series if s.label.startswith("Pareto")}
    assert fronts == {
        "Pareto front, tiny ab12cd": [100.0],
        "Pareto front, tiny cd12ab": [50.0],
        "Pareto front, other": [20.0],
    }
    compared = Compared()
    compared.runs = comparison
    assert compared.front_words == "1, 2, 3"
    assert "dense (tiny ab12cd)" in compared.rows()[0][1][0].text
    runs[2].update(corpus=Corpus(name="tiny", fingerprint="ab12cd34"))
    compared.runs = compare_runs(runs)
    # Of the first text the third is the better one, but it is larger.
    assert compared.front_words == "1, 3, 2"


def test_runs_of_the_same_name_of_two_working_folders_are_two(runs, tmp_path):
    other = Home(tmp_path / "other").open_session("s").new_run(TrainConfig(), "train", name="other")
    benchmark = other.session.new_run(BenchmarkConfig(models=(other.ref,)), "benchmark")
    row = {"model": other.ref, "runtime": "torch", "accuracy": "exact", "ms": 0.5}
    benchmark.update(status="finished", host=platform.node(), results={"rows": [row]})
    other.update(status="finished", results={"valid_ppl": 190.0})
    assert other.ref == runs[0].ref
    rows = compare_runs([runs[0], other], over_seeds=True).rows
    assert [row["valid_ppl"] for row in rows] == [120.0, 190.0]
    assert [row["run"] for row in rows] == [str(runs[0].path), str(other.path)]
    assert [row["ms_per_token"] for row in rows] == [None, 0.5]
    assert [row["model"] for row in compare_runtimes([runs[0], other]).rows] == [str(other.path)]


def test_the_list_of_runs_marks_the_same(runs):
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(runs_table(runs))
    text = capture.get()
    assert "≈7.4 MB" in text
    assert AS_PACKED in text
    with console.capture() as capture:
        console.print(runs_table(runs[:1]))
    assert AS_PACKED not in capture.get()


@pytest.mark.parametrize("width", [70, 80, 100, 120, 200])
def test_a_narrow_terminal_cuts_names_alone_and_says_which_columns_it_lacks(runs, width):
    runs[0].update(name="a very long name of a run, longer than any terminal is wide" * 3)
    more = {"parameters": 7_295_600, "tokens_per_s": 11_250.0}
    runs[0].update(results={**runs[0].read().results, **more})
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(runs_table(runs))
    text = capture.get()
    lines = [line for line in text.splitlines() if line.startswith("s/")]
    assert [line.split()[0] for line in lines] == ["s/001-train", "s/002-quantize"]
    for line, size in zip(lines, ("29.3 MB", "≈7.4 MB"), strict=True):
        assert {"finished", "120.00"} <= set(line.split())
        assert size in line
        assert len(line) <= width
    assert ("11,250" in lines[0]) == (width >= 100)
    assert ("without parent" in text) == ("s/001-train" not in lines[1])


def test_the_command_s_table_says_it_too(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    assert lmbench(["compare", "--session", "s"]) == 0
    assert AS_PACKED in capsys.readouterr().out


def test_the_curves_of_a_report_have_a_marker_each(tmp_path):
    session = Home(tmp_path).open_session("s")
    for name in ("a", "b"):
        writer = EventWriter(session.new_run(TrainConfig(), "train", name=name).events_path)
        for epoch in (1, 2):
            writer.write(
                ev.Epoch(
                    t=3.0, epoch=epoch, step=epoch, train_loss=5.0, valid_loss=4.0,
                    valid_ppl=50.0 / epoch, best_valid_loss=4.0, best_epoch=1, lr=1.0, seconds=1.0,
                )
            )  # fmt: skip
        writer.close()
    text = report_session(session, "html")
    # Two points, and the two ends of its line in the legend.
    assert text.count(">●<") == 4
    assert text.count(">◆<") == 4


def test_figures_with_a_cache_or_steps_are_the_newest_evaluations_and_in_columns_of_their_own(runs):
    dense, session = runs[0], runs[0].session
    dense.update(results={"bytes": 29_321_000, "valid_ppl": 120.0, "test_ppl": 130.0})

    def evaluated(config: EvaluateConfig, **results: float | int | None) -> None:
        run = session.new_run(config, "evaluate", parent=dense)
        run.update(status="finished", results=results)

    plain = compare_runs(runs)
    assert "cache" not in plain.write("markdown")
    evaluated(EvaluateConfig(cache=5), test_ppl=131.0, test_cache_ppl=90.0)
    evaluated(EvaluateConfig(cache=9), test_ppl=131.0, test_cache_ppl=88.0)
    evaluated(EvaluateConfig(dynamic="sgd"), test_dynamic_ppl=80.0)
    # Of a part of test, another text or checkpoint, or made before the run went on: no figures
    # for a line of its own.
    evaluated(EvaluateConfig(cache=9, tokens=100), test_cache_ppl=50.0, split_tokens=9000)
    evaluated(EvaluateConfig(cache=9, data="other"), test_cache_ppl=40.0)
    evaluated(EvaluateConfig(cache=9, checkpoint="last"), test_cache_ppl=30.0)
    assert compare_runs(runs).rows[0]["test_cache_ppl"] == 88.0
    dense.update(ended=time.time() + 60)
    assert compare_runs(runs).rows[0]["test_cache_ppl"] is None
    dense.update(ended=None)
    comparison = compare_runs(runs)
    row, other = comparison.rows
    assert (row["test_ppl"], row["test_cache_ppl"], row["test_dynamic_ppl"]) == (130.0, 88.0, 80.0)
    assert row["test_cache_dynamic_ppl"] is other["test_cache_ppl"] is None
    assert [key for key, _ in comparison.columns][8:] == ["test_cache_ppl", "test_dynamic_ppl"]
    assert OF_ADAPTED in comparison.write("markdown")
    [head, _, line, *_] = comparison.write("markdown").splitlines()
    assert head.endswith("| Test ppl, cache | Test ppl, dynamic |")
    assert line.endswith("| 88.00 | 80.00 |")
    document = run_document(session.runs()[-4])
    assert (document["test_ppl"], document["test_dynamic_ppl"]) == (None, 80.0)
    # An infinite figure is none, and the newest one all the same.
    evaluated(EvaluateConfig(cache=9, cache_lambda=1.0), test_cache_ppl=None)
    assert compare_runs(runs).rows[0]["test_cache_ppl"] is None


def test_a_run_that_was_copied_by_hand_has_the_number_of_its_folder(runs):
    copied = runs[0].path.with_name("050-train")
    shutil.copytree(runs[0].path, copied)
    document = run_document(Run(copied))
    assert (document["id"], document["ref"]) == (50, Run(copied).ref)


def test_a_column_that_would_say_nothing_is_left_out_of_tables_and_kept_in_csv(runs):
    dense = runs[0]
    figures = {"test_ppl": 130.0, "test_word_ppl": 130.0001, "test_bits_per_character": 1.25}
    dense.update(results={"bytes": 29_321_000, "valid_ppl": 120.0, **figures})
    comparison = compare_runs(runs)
    keys = [key for key, _ in comparison.columns]
    assert keys[7:] == ["bytes", "test_bits_per_character"]
    assert "ms_per_token" in comparison.write("csv").splitlines()[0]
    dense.update(results={"bytes": 29_321_000, **figures, "test_word_ppl": 190.0})
    assert "| Test ppl a word |" in compare_runs(runs).write("markdown")


def test_a_report_s_front_has_models_and_no_evaluation_of_them(runs):
    """Which has the size of its model, and may be of another text."""
    dense, int8 = runs
    for run, ppl in ((dense, 99.0), (int8, 101.0)):
        run.update(results={**run.read().results, "test_ppl": ppl})
    evaluation = dense.session.new_run(EvaluateConfig(data="other"), "evaluate", parent=int8)
    evaluation.update(status="finished", results={"bytes": 7_400_000, "test_ppl": 31.0})
    text = report_session(dense.session, "html")
    assert "31" not in text[text.index("Test perplexity against size") :]
