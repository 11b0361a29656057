"""A perplexity of a part of a split carries its mark, and ranks with no other."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from lmbench.config import Config, EvaluateConfig, QuantizeConfig, SensitivityConfig
from lmbench.report.compare import compare_runs
from lmbench.report.tables import OF_A_PART, run_document, runs_table
from lmbench.session import Home, Run
from lmbench.tui.compare.selection import Compared


def scored(home: Home, config: Config, kind, **results) -> Run:
    run = home.open_session().new_run(config, kind)
    run.update(status="finished", results={"bytes": 1000, **results})
    return run


@pytest.mark.parametrize(
    "config, kind, results, part",
    [
        (EvaluateConfig(tokens=500), "evaluate", {"test_ppl": 630.82}, 500),
        (EvaluateConfig(tokens=500), "evaluate", {"test_ppl": 63.0, "split_tokens": 400}, None),
        (EvaluateConfig(), "evaluate", {"test_ppl": 630.82, "split_tokens": 9}, None),
        (SensitivityConfig(), "sensitivity", {"valid_ppl": 63.0}, 20_000),
        (SensitivityConfig(tokens=0), "sensitivity", {"valid_ppl": 63.0}, None),
        (QuantizeConfig(eval_tokens=300), "quantize", {"valid_ppl": 63.0}, 300),
    ],
)
def test_the_record_knows_of_how_many_tokens_its_perplexity_is(
    tmp_path: Path, config: Config, kind, results, part: int | None
) -> None:
    record = scored(Home(tmp_path), config, kind, **results).read()
    assert record.part_tokens == part


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    home = Home(tmp_path)
    return [
        scored(home, EvaluateConfig(), "evaluate", test_ppl=715.72),
        scored(home, EvaluateConfig(tokens=500), "evaluate", test_ppl=630.82),
    ]


def test_lists_and_tables_mark_it_and_say_what_the_mark_means(runs: list[Run]) -> None:
    text = io.StringIO()
    Console(file=text, width=160).print(runs_table(runs))
    compared = compare_runs(runs)
    for shown in (text.getvalue(), compared.write("markdown").replace("\\*", "*"), compared.text()):
        assert "630.82*" in shown
        assert "715.72*" not in shown
        assert OF_A_PART in shown
    # Else Markdown would make a list of what the sign stands for.
    assert "\n\\*" in compared.write("markdown")
    rows = list(csv.DictReader(io.StringIO(compared.write("csv"))))
    assert [row["part_tokens"] for row in rows] == ["", "500"]
    assert [run_document(run)["part_tokens"] for run in runs] == [None, 500]


def test_it_is_never_the_best(tmp_path: Path) -> None:
    home = Home(tmp_path)
    whole = scored(home, QuantizeConfig(), "quantize", test_ppl=715.72)
    part = scored(home, QuantizeConfig(eval_tokens=500), "quantize", test_ppl=630.82)
    compared = Compared()
    compared.runs = compare_runs([whole, part])
    compared.split = "test"
    assert [row["test_ppl"] for row in compared.front()] == [715.72]
    cached = scored(home, EvaluateConfig(cache=9), "evaluate", test_cache_ppl=60.0)
    few = scored(home, EvaluateConfig(cache=9, tokens=5), "evaluate", test_cache_ppl=40.0)
    beside = Compared()
    beside.runs = compare_runs([few, cached])
    beside.order.by = "test_cache_ppl"
    assert [row["test_cache_ppl"] for row in beside.in_order.rows] == [60.0, 40.0]
    cells = [[cell.text for cell in cells] for _, cells in beside.rows()]
    assert ["60.0" in cells[0], "40.0*" in cells[1]] == [True, True]
    compared.order.by = "test_ppl"
    assert [row["test_ppl"] for row in compared.in_order.rows] == [715.72, 630.82]
