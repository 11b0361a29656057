"""Comparing by keys alone: the runs, their runtimes, perplexity against size."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial

import driving
import pytest
from driving import bench_of, screen_of, settled, until, words
from driving import press_in_turn as press
from laboratory_double import benchmarked
from pictures import SIZES
from textual.widgets import Input
from workbench_world import NOON

from lmbench.config import BenchmarkConfig, EvaluateConfig, PackConfig
from lmbench.jobs import launch
from lmbench.session import events as ev
from lmbench.tui.app import Workbench
from lmbench.tui.compare.panels import ScatterPanel
from lmbench.tui.compare.screen import CompareScreen
from lmbench.tui.kit.dialog import TextDialog
from lmbench.tui.kit.grid import Grid
from lmbench.tui.main_screen import MainScreen

pytestmark = pytest.mark.usefixtures("started")


opened = partial(driving.opened, run="001-train")


async def test_c_compares_all_runs_with_a_model_or_those_that_are_marked(lab):
    async with opened(lab, "c") as pilot:
        screen = screen_of(pilot, CompareScreen)
        assert len(screen.compared.runs.rows) == 3
        assert [row["name"] for row in screen.compared.front()] == ["int8", "dense"]
        await press(pilot, "a")
        said = "mark two runs or more first: space, in the list of runs"
        assert bench_of(pilot).recent_message == said
        await press(pilot, "escape", "space", "end", "space", "c")
        screen = screen_of(pilot, CompareScreen)
        assert [row["name"] for row in screen.compared.in_order.rows] == ["dense", "int8"]
        await press(pilot, "a")
        assert len(screen.compared.runs.rows) == 3


async def test_a_run_that_waits_is_compared_once_it_has_a_model(lab):
    waits = lab.new("train", "late")
    async with opened(lab, "c") as pilot:
        assert "3 runs with a model" in words(pilot)
        assert "late" not in words(pilot)
        lab.live(waits)
        lab.write(waits, ev.Checkpoint(t=NOON, which="best", step=10, epoch=1))
        await bench_of(pilot).refresh_snapshot()
        await until(pilot, lambda: "4 runs with a model" in words(pilot))


async def test_a_finished_run_without_a_model_is_neither_compared_nor_measured(lab, started):
    lab.new("train", "cut", status="finished", results={"valid_ppl": 90.0})
    async with opened(lab, "c") as pilot:
        assert "3 runs with a model" in words(pilot)
        await press(pilot, "escape", "end", "space", "up", "space", "c", "end", "b")
        said = "5 cut has no model: there is nothing to measure"
        assert bench_of(pilot).last_message == said
    assert not started


async def test_a_run_with_nothing_but_its_last_checkpoint_is_compared_and_not_measured(
    lab, started
):
    lab.write(
        lab.new("train", "nan", status="finished"), ev.Checkpoint(which="last", step=10, epoch=1)
    )
    async with opened(lab, "c") as pilot:
        assert "4 runs with a model" in words(pilot)
        await press(pilot, "escape", "end", "space", "up", "space", "c", "end", "b")
        said = "5 nan has no best checkpoint: there is nothing to measure"
        assert bench_of(pilot).last_message == said
        await press(pilot, "v")
        said = "nothing to evaluate: run 3 (pack it first); 5 (no best checkpoint)"
        assert bench_of(pilot).recent_message == said
        await press(pilot, "escape", "end", "space", "c", "end", "v")
        said = "nothing to evaluate: run 5 (no best checkpoint)"
        assert bench_of(pilot).recent_message == said
    assert not started


async def test_the_cursor_is_on_the_run_that_is_selected(lab):
    async with driving.opened(lab, "c", run="003-quantize") as pilot:
        assert pilot.app.screen.query_one(Grid).cursor_key == "003-quantize"
        # Of a run that is not compared, the first.
        await press(pilot, "escape", "up", "c")
        assert bench_of(pilot).selected == "004-quantize"
        assert pilot.app.screen.query_one(Grid).cursor_key == "001-train"


async def test_t_sorts_the_table_and_rows_without_a_figure_stand_last(lab):
    async with opened(lab, "c", "t", "t") as pilot:
        screen = screen_of(pilot, CompareScreen)
        while screen.compared.order.by != "bytes":
            await press(pilot, "t")
        names = [row["name"] for row in screen.compared.in_order.rows]
        assert names[:2] == ["int8", "dense"]
        await press(pilot, "T")
        assert [row["name"] for row in screen.compared.in_order.rows][:2] == ["dense", "int8"]


@pytest.mark.parametrize("where", [(), ("tab",), ("r",)])
async def test_x_and_y_change_the_plot_from_table_and_plot(lab, where):
    async with opened(lab, "c", *where, "x") as pilot:
        screen = screen_of(pilot, CompareScreen)
        assert bench_of(pilot).recent_message == "perplexity on valid in the plot"
        await press(pilot, "y")
        assert bench_of(pilot).recent_message == "logarithmic axis in the plot"
        assert (screen.compared.split, screen.compared.log_axis) == ("valid", True)
        assert "valid perplexity" in words(pilot)


@pytest.mark.parametrize(
    "steps, suffix, holds",
    [(0, "md", "| demo/001-train | dense |"), (2, "tex", r"\begin{tabular}"), (4, "svg", "<svg")],
)
async def test_e_exports_table_and_plot(lab, tmp_path, monkeypatch, steps, suffix, holds):
    monkeypatch.chdir(tmp_path)
    async with opened(lab, "c") as pilot:
        await press(pilot, "e", *["down"] * steps, "enter", "enter")
        path = tmp_path / f"demo-compared.{suffix}"
        await until(pilot, path.exists)
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("wrote"))
    assert holds in path.read_text()


async def test_a_path_that_cannot_be_is_told_where_it_is_typed(lab):
    async with opened(lab, "c", "e", "enter") as pilot:
        for text, told in (
            ("~nobody-9/x.md", "There is no folder ~nobody-9"),
            (f"{'x' * 300}.md", "File name too long"),
        ):
            screen_of(pilot, TextDialog).query_one(Input).value = text
            await press(pilot, "enter")
            assert told in words(pilot)


async def test_where_no_run_has_a_point_the_foot_speaks_of_none(lab):
    for run in lab.session.runs():
        run.update(results={k: v for k, v in run.read().results.items() if k != "valid_ppl"})
    async with opened(lab, "c") as pilot:
        panel = pilot.app.screen.query_one(ScatterPanel)
        assert "test perplexity" in str(panel.border_subtitle)
        await press(pilot, "x")
        assert not panel.border_subtitle


async def test_the_csv_has_every_digit(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with opened(lab, "c") as pilot:
        await press(pilot, "e", "down", "enter", "enter")
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("wrote"))
    rows = list(csv.DictReader((tmp_path / "demo-compared.csv").open()))
    assert [row["bytes"] for row in rows] == ["29321000", "", "7400000"]


async def test_enter_goes_to_the_run_and_b_queues_benchmarks(lab, started):
    async with opened(lab, "c") as pilot:
        await press(pilot, "b")
        said = "1 benchmark is queued; run 3 must be packed first"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        (record,) = [run.read() for run in started]
        assert (record.kind, record.name, record.parent) == (
            "benchmark", "speed of 1", "demo/001-train",
        )  # fmt: skip
        await press(pilot, "end", "enter")
        screen_of(pilot, MainScreen)
        assert bench_of(pilot).selected == "003-quantize"


async def test_b_asks_before_it_measures_many_runs_that_nobody_marked(lab, started, monkeypatch):
    queued: list[int] = []
    monkeypatch.setattr(
        launch, "start_all", lambda runs: (queued.append(len(runs)), started.extend(runs))
    )
    for number in range(4):
        lab.new("train", f"seed {number}", status="finished", results={"bytes": 29_321_000})
    async with opened(lab, "c", "b", "b") as pilot:
        assert "Measure 5 runs?" in words(pilot)
        assert "m measure 5 runs" in words(pilot)
        await press(pilot, "escape")
        assert not queued
        await press(pilot, "b", "o")
        await until(pilot, lambda: bool(queued))
        assert [run.read().parent for run in started] == ["demo/001-train"]
        # Four that are left are not many.
        await press(pilot, "b")
        await until(pilot, lambda: queued == [1, 4])


async def test_ms_a_token_is_that_of_the_newest_benchmark_here(lab):
    dense = lab.session.run(1)
    bench = lab.session.new_run(BenchmarkConfig(), "benchmark", parent=dense)
    rows = [
        {"model": dense.ref, "ms": 1.9, "accuracy": "exact"},
        {"model": dense.ref, "ms": 0.61, "accuracy": "exact"},
        # Quicker, with another perplexity than the row's.
        {"model": dense.ref, "ms": 0.2, "accuracy": "coarse"},
    ]
    bench.update(status="finished", results={"rows": rows})
    async with opened(lab, "c") as pilot:
        compared = screen_of(pilot, CompareScreen).compared
        assert compared.runs.rows[0]["ms_per_token"] == 0.61
        # Of a simulation and of a run at work there is none.
        assert [cells[-1].text for _, cells in compared.rows()] == ["0.61", "–", "–"]


# -- the table of runtimes ---------------------------------------------------------------------


async def test_r_changes_between_the_runs_and_their_runtimes(lab):
    benchmarked(lab)
    async with opened(lab, "c", "r") as pilot:
        shown = words(pilot)
        assert "2 runtimes" not in shown
        assert "3 runs with a model · 5 runtimes" in shown
        (line,) = [line for line in shown.splitlines() if "native-int8" in line]
        for part in ("1 dense", "29.3 MB", "7.4 MB", "61.2 MB", "0.148", "34,100", "118.34"):
            assert part in line
        await press(pilot, "r")
        assert "native-int8" not in words(pilot)
        assert "29.3 MB" in words(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_size_memory_speed_and_perplexity_of_a_runtime_are_read_at_any_width(lab, size):
    benchmarked(lab)
    async with opened(lab, "c", "r", size=size) as pilot:
        grid = pilot.app.screen.query_one(Grid)
        shown = [grid.columns[i].title for i, _ in grid.layout_columns(grid.size.width)]
        needed = {"run", "runtime", "disk", "peak", "ms/token", "tokens/s", "ppl"}
        assert needed <= set(shown)
        assert "weights" in shown
        assert ("p95" in shown) == (size[0] > 80)
        assert "ppl of the first 20,000 tokens of test" in words(pilot)
        assert "r runtimes" in words(pilot).splitlines()[-1]


async def test_where_nothing_was_benchmarked_r_names_the_key_that_does(lab, started):
    async with opened(lab, "c", "r") as pilot:
        assert "Nothing was benchmarked on this machine yet: b measures" in words(pilot)
        await press(pilot, "b")
        await until(pilot, lambda: "A benchmark is on its way" in words(pilot))
        assert [run.read().parent for run in started] == ["demo/001-train"]
        # What was there is there still.
        await press(pilot, "r")
        assert len(pilot.app.screen.query_one(Grid).rows) == 3


async def test_a_recording_offers_no_benchmark(lab, monkeypatch):
    monkeypatch.setattr(Workbench, "demo", property(lambda self: True))
    async with opened(lab, "c", "r", "b") as pilot:
        assert "Nothing was benchmarked in this recording." in words(pilot)
    assert len(lab.session.runs()) == 4


async def test_lines_come_when_the_benchmark_is_done(lab):
    async with opened(lab, "c", "r") as pilot:
        benchmarked(lab)
        await bench_of(pilot).refresh_snapshot()
        await until(pilot, lambda: "native-int8" in words(pilot))
        # The keys are those of the table, as before it was empty.
        await press(pilot, "down")
        assert pilot.app.screen.query_one(Grid).cursor == 1


async def test_each_table_is_sorted_by_itself_and_both_are_remembered(lab):
    benchmarked(lab)
    async with opened(lab, "c", "t", "r") as pilot:
        screen = screen_of(pilot, CompareScreen)
        assert screen.compared.order.by == ""
        while screen.compared.order.by != "ms":
            await press(pilot, "t")
        assert bench_of(pilot).last_message == "sorted by ms a token, ascending"
        assert [row["ms"] for row in screen.compared.in_order.rows] == sorted(
            row["ms"] for row in screen.compared.runtimes.rows
        )
        await press(pilot, "T")
        assert bench_of(pilot).last_message == "sorted by ms a token, descending"
        await press(pilot, "escape", "c")
        screen = screen_of(pilot, CompareScreen)
        assert screen.compared.table == "runtimes"
        assert screen.compared.in_order.rows[0]["ms"] == 1.9
        await press(pilot, "r")
        assert screen.compared.order.by == "run"


async def test_the_cursor_stays_on_its_run_and_enter_goes_there_from_a_runtime(lab):
    benchmarked(lab)
    async with opened(lab, "c", "down", "r") as pilot:
        grid = pilot.app.screen.query_one(Grid)
        assert grid.cursor_key == "002-prune/torch"
        await press(pilot, "enter")
        screen_of(pilot, MainScreen)
        assert bench_of(pilot).selected == "002-prune"


async def test_the_fastest_runtime_that_keeps_the_perplexity_is_tinted(lab):
    benchmarked(lab)
    async with opened(lab, "c", "r") as pilot:
        screen = screen_of(pilot, CompareScreen)
        tinted = [key for key, cells in screen.compared.rows() if cells[5].tint]
        # int4 is quicker, with another perplexity.
        assert tinted == ["001-train/native-int8", "002-prune/torch"]


def _found_otherwise(lab, name: str, **figures: object) -> None:
    """Have the benchmark of the first run say something else of a runtime."""
    run = next(run for run in lab.session.runs() if run.read().kind == "benchmark")
    rows = [r | figures if r["runtime"] == name else r for r in run.read().results["rows"]]
    run.update(results={"rows": rows})


@pytest.mark.parametrize(
    "name, ppl, tinted",
    [
        # Whatever its class: the measured perplexity decides.
        ("native-int8", 118.41, "native-int8"),
        ("native-int8", 118.42, "torch"),
        ("native-int8", 118.10, "torch"),
        ("native-int8", None, "torch"),
        ("int4", 118.35, "int4"),
    ],
)
async def test_what_keeps_to_the_perplexity_is_judged_by_the_one_measured(lab, name, ppl, tinted):
    benchmarked(lab, 1)
    _found_otherwise(lab, name, ppl=ppl)
    async with opened(lab, "c", "r") as pilot:
        screen = screen_of(pilot, CompareScreen)
        await until(pilot, lambda: len(screen.compared.rows()) == 4)
        found = [key for key, cells in screen.compared.rows() if cells[5].tint]
        assert found == [f"001-train/{tinted}"]


async def test_perplexities_of_different_parts_of_test_are_said_to_be(lab):
    benchmarked(lab)
    _found_otherwise(lab, "torch", tokens=245_569)
    async with opened(lab, "c", "r", size=(200, 50)) as pilot:
        assert "5 runtimes · ppl of different parts of test" in words(pilot)
        shown = [
            line.rstrip("┃").split()[-2:] for line in words(pilot).splitlines() if "MB" in line
        ]
        assert shown[:2] == [["118.30", "20,000"], ["118.30", "245,569"]]


async def test_e_exports_the_runtimes_where_they_are_shown(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmarked(lab)
    async with opened(lab, "c", "r", "e", "down", "enter", "enter") as pilot:
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("wrote"))
    rows = list(csv.DictReader((tmp_path / "demo-runtimes.csv").open()))
    assert [row["runtime"] for row in rows] == ["naive", "torch", "native-int8", "int4", "torch"]
    assert rows[2]["ms"] == "0.148"


async def test_the_other_runs_are_still_there_to_be_measured(lab, started):
    lab.session.run(2).update(status="finished", pid=None)
    benchmarked(lab, 1)
    async with opened(lab, "c", "r") as pilot:
        await press(pilot, "b")
        await until(pilot, lambda: bool(started))
    assert [run.read().parent for run in started] == ["demo/002-prune"]


def _measured(lab, *numbers: int) -> float:
    """Runs 1 and 2 are done and these are measured; says when."""
    for number in (1, 2):
        lab.session.run(number).update(status="finished", pid=None, ended=NOON)
    benchmarked(lab, *numbers)
    return lab.session.runs()[-1].read().created


async def test_where_all_is_measured_b_measures_the_run_under_the_cursor_again(lab, started):
    _measured(lab, 1, 2)
    async with opened(lab, "c", "down", size=(120, 30)) as pilot:
        await press(pilot, "b")
        said = "measuring 2 agp-80 again: 1 benchmark is queued"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        assert [run.read().parent for run in started] == ["demo/002-prune"]
        # Once is enough, and what is quantized is a simulation until it is packed.
        await press(pilot, "b")
        assert "2 agp-80 is being measured already" in bench_of(pilot).last_message
        await press(pilot, "down", "b")
        said = "3 int8 only simulates integers: pack it to measure its speed"
        assert bench_of(pilot).last_message == said
        await press(pilot, "home")
        assert "b benchmark" in words(pilot).splitlines()[-1]
        assert len(started) == 1


async def test_runs_that_were_not_compared_before_are_read_before_they_are_measured(lab, started):
    _measured(lab, 1, 2)
    async with opened(lab, "space", "end", "space", "c") as pilot:
        # Both keys before the table of all runs is there.
        await pilot.press("a", "b")
        await settled(pilot)
    assert not [run for run in started if run.read().parent == "demo/002-prune"]


async def test_a_run_whose_benchmark_is_paused_is_not_measured_again(lab, started):
    lab.session.run(2).update(status="finished", pid=None, ended=NOON)
    bench = lab.new("benchmark", "speed", lab.session.run(1))
    lab.live(bench, status="paused")
    async with opened(lab, "c") as pilot:
        await press(pilot, "b")
        await until(pilot, lambda: bool(started))
        await press(pilot, "home", "b")
        assert "1 dense is being measured already" in bench_of(pilot).last_message
    assert [run.read().parent for run in started] == ["demo/002-prune"]


async def test_of_the_runtimes_too_the_run_under_the_cursor_is_measured_again(lab, started):
    _measured(lab, 1, 2)
    async with opened(lab, "c", "r", "end") as pilot:
        await press(pilot, "b")
        await until(pilot, lambda: bool(started))
    assert [run.read().parent for run in started] == ["demo/002-prune"]


async def test_a_run_that_has_changed_since_is_measured_before_that_under_the_cursor(lab, started):
    when = _measured(lab, 1, 2)
    lab.session.run(2).update(ended=when + 60)
    async with opened(lab, "c", "r", "home") as pilot:
        await press(pilot, "b")
        said = "1 benchmark is queued"
        await until(pilot, lambda: bench_of(pilot).recent_message.startswith(said))
    assert [run.read().parent for run in started] == ["demo/002-prune"]


async def test_v_has_the_run_under_the_cursor_or_the_marked_ones_evaluated(lab, started):
    async with opened(lab, "c") as pilot:
        await press(pilot, "v", "enter")
        said = "1 evaluation is queued"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        [record] = [run.read() for run in started]
        assert (record.kind, record.name, record.parent) == (
            "evaluate", "cache on 1", "demo/001-train",
        )  # fmt: skip
        assert record.config == {"cache": 2000, "tune": True, "tune_tokens": 20_000}
        assert record.command == (
            "lmbench evaluate demo/001-train --cache 2000 --tune --tune-tokens 20000"
        )
        # A quantized run is a simulation.
        await press(pilot, "end", "v")
        said = "nothing to evaluate: run 3 (pack it first)"
        assert bench_of(pilot).recent_message == said
        await press(pilot, "escape", "home", "space", "end", "space", "c", "v", "down", "enter")
        said = "1 evaluation is queued; left out: run 5 (no model of its own)"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        assert started[1].read().config["dynamic"] == "sgd"


@pytest.mark.parametrize(
    "downs, asked",
    [(1, {"dynamic": "sgd"}), (2, {"dynamic": "rms"}), (3, {"cache": 2000, "dynamic": "sgd"})],
)
async def test_each_way_of_evaluating_is_queued_as_it_is_named(lab, started, downs, asked):
    async with opened(lab, "c", "v", *["down"] * downs, "enter") as pilot:
        await until(pilot, lambda: bool(started))
        await until(pilot, lambda: "1 evaluation is queued" in bench_of(pilot).recent_message)
    assert started[0].read().config == {**asked, "tune": True, "tune_tokens": 20_000}


async def test_a_packed_run_takes_the_cache_but_no_steps(lab, started):
    packed = lab.session.new_run(PackConfig(), "pack", name="small", parent=lab.session.run(1))
    packed.update(status="finished", results={"bytes": 7_400_000})
    async with driving.opened(lab, "c", "v", "down", "enter", run="005-pack") as pilot:
        said = "nothing to evaluate: run 5 (steps need floats)"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        assert not started
        await press(pilot, "v", "enter")
        await until(pilot, lambda: bool(started))
        record = started[0].read()
    assert (record.parent, record.config["cache"]) == ("demo/005-pack", 2000)


async def test_a_run_trained_on_a_grid_is_refused_steps_before_they_are_queued(lab, started):
    on_grid = lab.new("prune", "grid", status="finished", results={"bytes": 29_321_000})
    (on_grid.path / "best").mkdir()
    (on_grid.path / "best" / "trained.safetensors").write_bytes(b"")
    async with opened(lab, "space", "end", "space", "c", "v", *["down"] * 3, "enter") as pilot:
        said = "1 evaluation is queued; left out: run 5 (on a grid that steps leave)"
        await until(pilot, lambda: bench_of(pilot).recent_message == said)
        assert [run.read().parent for run in started] == ["demo/001-train"]
        await press(pilot, "v", "enter")
        await until(pilot, lambda: len(started) == 3)
    assert started[2].read().parent == "demo/005-prune"


async def test_an_evaluation_is_no_point_of_the_plot(lab):
    run = lab.session.new_run(EvaluateConfig(), "evaluate", parent=lab.session.run(1))
    run.update(status="finished", results={"test_ppl": 1.5, "valid_ppl": 1.5, "bytes": 1000})
    async with opened(lab, size=(120, 30)) as pilot:
        bench_of(pilot).mark(tuple(view.key for view in bench_of(pilot).snapshot.runs))
        await press(pilot, "c")
        compared = screen_of(pilot, CompareScreen).compared
        assert any(row["kind"] == "evaluate" for row in compared.runs.rows)
        assert {row["kind"] for row in compared.front()} == {"quantize", "train"}
        points = {series.label.split()[0] for series in compared.plot(lambda _: None).series}
        assert str(run.id) not in points


async def test_figures_with_a_cache_or_steps_have_columns_of_their_own(lab):
    async with opened(lab, "c", size=(120, 30)) as pilot:
        assert "dynamic" not in words(pilot)
        run = lab.session.new_run(
            EvaluateConfig(dynamic="sgd"), "evaluate", parent=lab.session.run(1)
        )
        run.update(status="finished", results={"test_dynamic_ppl": 88.25})
        await bench_of(pilot).refresh_snapshot()
        await until(pilot, lambda: "88.2" in words(pilot))
        [head] = [line for line in words(pilot).splitlines() if "ms/token" in line]
        assert head.index("test") < head.index("dynamic") < head.index("size")
        assert "cache" not in head


async def test_what_is_said_of_many_runs_fits_into_a_line(lab, started):
    for _ in range(12):
        lab.new("quantize", "a name that is long", status="finished", results={"bytes": 1_000})
    runs = [run.path.name for run in lab.session.runs()]
    async with opened(lab, "c") as pilot:
        await press(pilot, "b")
        said = "1 benchmark is queued; 13 runs must be packed first"
        await until(pilot, lambda: said in words(pilot))
        bench_of(pilot).mark(tuple(runs))
        await press(pilot, "v", "enter")
        await until(pilot, lambda: "1 evaluation is" in bench_of(pilot).recent_message)
        said = "1 evaluation is queued; left out: 14 runs (pack it first); 2 (it is running)"
        assert said in words(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_why_none_of_the_marked_runs_can_be_evaluated_is_said_by_reason(lab, started, size):
    packed = lab.session.new_run(PackConfig(), "pack", name="small", parent=lab.session.run(1))
    packed.update(status="finished", results={"bytes": 7_400_000})
    on_grid = lab.new("prune", "grid", status="finished", results={"bytes": 29_321_000})
    (on_grid.path / "best").mkdir()
    (on_grid.path / "best" / "trained.safetensors").write_bytes(b"")
    lab.new("prune", "halted", status="stopped", results={"bytes": 29_321_000})
    async with opened(lab, size=size) as pilot:
        bench_of(pilot).mark(
            tuple(v.key for v in bench_of(pilot).snapshot.runs if v.id not in (1, 2))
        )
        await press(pilot, "c", "v", "down", "enter")
        await until(pilot, lambda: "nothing to evaluate" in words(pilot))
        [line] = [line for line in words(pilot).splitlines() if "nothing to" in line]
        line = line.strip().removeprefix("nothing to evaluate: ")
        whys = ["runs 3, 4 (pack it first)", "5 (steps need floats)"]
        whys += ["6 (on a grid that steps leave)", "7 (it is stopped)"]
        said = {80: 2, 120: 3, 200: 4}[size[0]]
        rest = f"; {4 - said} more" if said < 4 else ""
        assert line == "; ".join(whys[:said]) + rest


async def test_a_session_that_is_still_read_is_not_said_to_be_without_models(lab):
    async with opened(lab) as pilot:
        bench = bench_of(pilot)
        whole = bench.snapshot

        async def unread(app: Workbench, *, defer_growth: bool) -> None: ...

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workbench, "_poll_once", unread)
            bench.snapshot = replace(whole, runs=(), unread=4)
            await press(pilot, "c")
            assert bench.recent_message == "the runs are still being read"
            waits = tuple(view for view in whole.runs if view.id == 4)
            bench.snapshot = replace(whole, runs=waits, unread=3)
            await press(pilot, "c")
            await until(pilot, lambda: words(pilot).count("reading 1 of 4 runs") == 2)
            assert "No run has a model" not in words(pilot)
            for key in ("b", "v", "t"):
                await press(pilot, key)
                said = "the table has no lines" if key == "t" else "reading 1 of 4 runs"
                assert bench.recent_message == said
            bench.snapshot = whole
            await until(pilot, lambda: "3 runs with a model" in words(pilot))
            assert "reading" not in words(pilot).replace("reading 1 of 4 runs   ", "")


async def test_the_runs_of_a_session_whose_record_is_damaged_are_not_said_to_be_read(lab):
    async with opened(lab) as pilot:
        (lab.session.path / "session.json").write_text("{")
        await settled(pilot)
        assert "session.json" in bench_of(pilot).snapshot.problem
        await press(pilot, "c")
        await until(pilot, lambda: "3 runs with a model" in words(pilot))
        assert "reading" not in words(pilot)


async def test_that_a_benchmark_is_queued_is_said_for_a_moment(lab, started):
    async with opened(lab, "c") as pilot:
        before = bench_of(pilot).last_message
        await press(pilot, "b")
        await until(pilot, lambda: "is queued" in bench_of(pilot).recent_message)
        assert bench_of(pilot).last_message == before
