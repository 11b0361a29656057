"""Benchmarks' rows beside runs: the newest of this machine, and no other's."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from lmbench.config import BenchmarkConfig, TrainConfig
from lmbench.report.compare import compare_runs, compare_runtimes, report_session, runtime_table
from lmbench.report.runtime_table import RUNTIME_COLUMNS, SCORED, benchmarked
from lmbench.session import Home, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Home(tmp_path).open_session("default").new_run(TrainConfig(), "train")
    made.update(status="finished")
    return made


def row(run: Run, runtime: str, ms: float, accuracy: str = "exact") -> dict[str, Any]:
    return {
        "model": run.ref, "runtime": runtime, "accuracy": accuracy, "disk": 4_000_000,
        "numbers": 3_900_000, "peak": 12_600_000, "ms": ms, "ms_p95": 2 * ms, "ppl": 98.7654,
        "tokens": 20_000, "split_tokens": 245_569, "tokens_per_s": 12_345.6,
        "step_vs_naive": 2.0, "step_vs_fp32": None, "score_vs_naive": 3.0, "score_vs_fp32": 1.5,
    }  # fmt: skip


def benchmark(run: Run, *rows: dict[str, Any], host: str | None = None) -> None:
    made = run.session.new_run(BenchmarkConfig(), "benchmark", parent=run)
    changes: dict[str, Any] = {"host": host} if host else {}
    made.update(status="finished", results={"rows": list(rows)}, **changes)


def test_the_rows_are_those_of_the_newest_benchmark_alone(run: Run) -> None:
    benchmark(run, row(run, "torch", 1.0), row(run, "onnx", 0.5))
    benchmark(run, row(run, "torch", 0.8), row(run, "int8", 0.2, "close"))
    found = compare_runtimes([run]).rows
    assert [(r["runtime"], r["ms"]) for r in found] == [("torch", 0.8), ("int8", 0.2)]
    assert compare_runs([run]).rows[0]["ms_per_token"] == 0.8
    newest = run.session.runs()[-1]
    assert {r["measured"] for r in found} == {newest.read().created}
    other = run.home.open_session("other")
    later = other.new_run(BenchmarkConfig(), "benchmark")
    later.update(status="finished", results={"rows": [row(run, "torch", 0.1)]})
    known = other.new_run(TrainConfig(), "train")
    for asked in ([run, known], [known, run]):
        assert [r["ms"] for r in benchmarked(asked)[run.path]] == [0.1]
    newest.update(started=newest.read().created + 60)
    for asked in ([run, known], [known, run]):
        assert [r["ms"] for r in benchmarked(asked)[run.path]] == [0.8, 0.2]
    assert {r["measured"] for r in compare_runtimes([run]).rows} == {newest.read().started}


def test_another_machines_benchmark_says_nothing_here(run: Run) -> None:
    benchmark(run, row(run, "torch", 1.0), host=f"not-{platform.node()}")
    assert compare_runtimes([run]).rows == ()
    assert compare_runs([run]).rows[0]["ms_per_token"] is None


def test_a_table_has_a_column_for_each_figure(run: Run) -> None:
    table = runtime_table([row(run, "int8", 0.25)])
    assert table.cells() == [
        [run.ref, "int8", "4.00", "3.90", "13", "0.250", "0.500", "2.0", "", "12,346", "3.0", "1.5",
         "98.765"]
    ]  # fmt: skip
    head, line, note = table.text().splitlines()
    assert line.split()[:4] == [run.ref, "int8", "4.00", "3.90"]
    assert line.split()[8] == "-"
    assert len(line) == len(head)
    assert note == table.note


@pytest.mark.parametrize(
    "form, separator", [("markdown", " | "), ("csv", ","), ("latex", " & "), ("html", "</td><td>")]
)
def test_every_format_has_all_columns(run: Run, form: Any, separator: str) -> None:
    one = {**row(run, "int8", 0.25), "tokens_per_s": 7.0}
    text = runtime_table([one]).write(form)
    line = next(line for line in text.splitlines() if "int8" in line)
    beside = len(SCORED) if form == "csv" else 0
    assert line.count(separator) == len(RUNTIME_COLUMNS) + beside - 1
    # Of what the perplexity is goes with every format.
    assert (",20000,245569" if form == "csv" else "Ppl of the first 20,000 tokens of test") in text


ALL = {"tokens": 245_569}
EARLY = {"tokens": None, "split_tokens": None}
WHOLE = "; a run's own test ppl is of all of test"


@pytest.mark.parametrize(
    "changes, said",
    [
        ([{}, {}], "Ppl of the first 20,000 tokens of test" + WHOLE),
        ([ALL, ALL], "Ppl of test"),
        ([EARLY, EARLY], "Ppl of an unrecorded part of test" + WHOLE),
        ([{"ppl": None}, {"ppl": None}], ""),
        ([ALL, {"ppl": None}], "Ppl of test"),
        (
            [ALL, {}],
            "Ppl of test (default/001-train); of the first 20,000 tokens of test (other)" + WHOLE,
        ),
        (
            [{}, EARLY],
            "Ppl of the first 20,000 tokens of test (default/001-train); of an unrecorded part of "
            "test (other)" + WHOLE,
        ),
    ],
)
def test_a_table_says_what_its_perplexities_are_of(
    run: Run, changes: list[dict[str, Any]], said: str
) -> None:
    first, second = changes
    rows = [row(run, "torch", 1.0) | first, row(run, "int8", 0.25, "close") | first]
    table = runtime_table([*rows, row(run, "torch", 0.5) | second | {"model": "other"}])
    assert table.note == said


def test_rows_of_early_benchmarks_are_read_without_what_they_lack(run: Run) -> None:
    early = {k: v for k, v in row(run, "torch", 1.0).items() if k not in SCORED}
    benchmark(run, early)
    table = compare_runtimes([run])
    assert table.cells()[0][-1] == "98.765"
    assert "of an unrecorded part of test" in table.note
    assert table.write("csv").splitlines()[1].endswith(",98.7654,,")


def test_a_row_without_a_time_gives_none(run: Run) -> None:
    benchmark(run, {"model": run.ref, "accuracy": "exact"})
    assert compare_runs([run]).rows[0]["ms_per_token"] is None


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_a_report_has_the_runtimes_where_there_was_a_benchmark(run: Run, form: Any) -> None:
    assert "In each runtime" not in report_session(run.session, form)
    benchmark(run, row(run, "int8", 0.25))
    text = report_session(run.session, form)
    assert "In each runtime" in text
    assert "98.765" in text
