"""Runs that differ in seed alone, as one setting."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lmbench.config import EvaluateConfig, PackConfig, PruneConfig, QuantizeConfig, TrainConfig
from lmbench.jobs.input_files import SCHEDULE_FILE, SETTINGS_FILE, STATS_FILE
from lmbench.report.compare import compare_runs, report_session
from lmbench.report.pareto_front import front_plot
from lmbench.report.plots.export import as_csv, as_svg
from lmbench.report.seeds import Spread, inside_spread, one_setting, spread_of
from lmbench.session import Home, Run, Session
from lmbench.session.records import Corpus


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Home(tmp_path).open_session("s")


def train(session: Session, seed: int, **settings: Any) -> Run:
    return session.new_run(TrainConfig(seed=seed, **settings), "train", name=f"dense s{seed}")


def numbers(groups: list[list[Run]]) -> list[list[int]]:
    return [[run.id for run in group] for group in groups]


def test_mean_and_sample_standard_deviation() -> None:
    spread = spread_of([82.8, None, 84.0, 83.4, float("nan")])
    assert spread is not None
    assert (spread.mean, spread.deviation) == (pytest.approx(83.4), pytest.approx(0.6))
    assert spread.n == 3
    assert Spread(83.41, 0.62, 3).text() == "83.4 ± 0.6, n = 3"
    assert spread_of([83.4]) == Spread(83.4, None, 1)
    assert Spread(83.4, None, 1).text() == "83.4"
    assert spread_of([None]) is None


def test_a_difference_is_inside_the_spread_up_to_the_deviation_of_a_difference() -> None:
    one = Spread(80.0, 3.0, 3)
    assert inside_spread(one, Spread(85.0, 4.0, 3))
    assert not inside_spread(one, Spread(85.1, 4.0, 3))
    # Of one figure no spread is known, so nothing lies inside it.
    assert not inside_spread(Spread(80.0, None, 1), Spread(80.1, 4.0, 3))


def test_runs_belong_together_through_all_that_they_came_from(session: Session) -> None:
    dense = [train(session, seed) for seed in (1, 2)]
    wide = train(session, 1, nhid=300)
    pruned = [
        session.new_run(PruneConfig(seed=seed, compress="a"), "prune", parent=parent)
        for seed, parent in ((1, dense[0]), (2, dense[1]), (1, wide))
    ]
    for parent in (pruned[2], *pruned[:2]):
        session.new_run(QuantizeConfig(), "quantize", parent=parent)
    groups = one_setting(session.runs())
    assert numbers(groups) == [[1, 2], [3], [4, 5], [6], [7], [8, 9]]


def test_the_same_seed_twice_is_no_second_sample(session: Session) -> None:
    for seed in (1, 2, 1, 2):
        train(session, seed)
    assert numbers(one_setting(session.runs())) == [[1, 2], [3, 4]]


def test_another_text_of_the_same_name_is_another_setting(session: Session) -> None:
    runs = [train(session, seed) for seed in (1, 2, 3)]
    for run, hashed in zip(runs, ("a", "b", "a"), strict=True):
        run.update(corpus=Corpus(name="tiny", fingerprint=hashed))
    assert numbers(one_setting(runs)) == [[1, 3], [2]]


def test_a_file_that_was_edited_between_is_another_setting(session: Session) -> None:
    parent = train(session, 1)
    for seed, edited in enumerate((b"50", b"50", b"80")):
        run = session.new_run(PruneConfig(seed=seed, compress="my.yaml"), "prune", parent=parent)
        (run.path / SCHEDULE_FILE).write_bytes(edited)
    assert numbers(one_setting(session.runs())) == [[1], [2, 3], [4]]
    # Of two quantizations with one file of settings, too, and statistics are each one's own.
    for seed, edited in enumerate((b"a", b"a", b"b")):
        run = session.new_run(
            QuantizeConfig(seed=seed, config="my.yaml"), "quantize", parent=parent
        )
        (run.path / SETTINGS_FILE).write_bytes(edited)
        (run.path / STATS_FILE).write_bytes(bytes(seed))
    assert numbers(one_setting(session.runs()))[-2:] == [[5, 6], [7]]


def test_a_model_from_a_file_is_nobodys_other_seed(session: Session) -> None:
    runs = [train(session, seed) for seed in (1, 2)]
    runs[0].update(imported="/models/model.pt")
    assert numbers(one_setting(runs)) == [[1], [2]]


def test_what_a_half_trained_model_came_to_is_no_part_of_a_mean(session: Session) -> None:
    for seed, status in ((1, "finished"), (2, "stopped"), (3, "finished")):
        parent = train(session, seed)
        parent.update(status=status, results={"test_ppl": 100.0})
        packed = session.new_run(PackConfig(), "pack", parent=parent)
        packed.update(status="finished", results={"test_ppl": 100.0 * seed})
    rows = compare_runs(session.runs(), over_seeds=True).rows
    packs = {row["run"]: row["test_ppl"] for row in rows if row["kind"] == "pack"}
    assert packs == {"s/002-pack": 200.0, "s/004-pack": 200.0}


def test_parents_that_are_gone_or_in_a_circle_keep_runs_apart(session: Session) -> None:
    gone = [
        session.new_run(QuantizeConfig(), "quantize", parent=f"s/{number}-train")
        for number in ("901", "902")
    ]
    a, b = (session.new_run(QuantizeConfig(), "quantize") for _ in range(2))
    a.update(parent=b.ref)
    b.update(parent=a.ref)
    assert numbers(one_setting([*gone, a])) == [[1], [2], [3]]


def scored(session: Session) -> list[Run]:
    figures = ((1, 82.8, 1000), (2, 84.0, 1010), (3, 83.4, 1020))
    runs = [train(session, seed) for seed, _, _ in figures]
    for run, (_, ppl, size) in zip(runs, figures, strict=True):
        results = {"test_ppl": ppl, "valid_ppl": ppl + 1, "bytes": size, "sparsity": 0.0}
        run.update(status="finished", results=results)
    alone = train(session, 1, nhid=400)
    alone.update(status="finished", results={"test_ppl": 80.0, "bytes": 2000})
    return [*runs, alone]


def test_a_comparison_has_a_row_for_each_setting(session: Session) -> None:
    runs = scored(session)
    comparison = compare_runs(runs, over_seeds=True)
    first, second = comparison.cells()
    assert first[:2] == ["s/001-train +2", "dense"]
    assert first[6] == "83.40 ± 0.60, n = 3"
    assert first[7] == "1,010"
    assert second[6] == "80.00"
    assert "sample standard deviation" in comparison.note
    assert "83.40 ± 0.60, n = 3" in comparison.write("markdown")
    assert "s/001-train s/002-train s/003-train,3,0.6" in comparison.write("csv").replace(
        "0.6000000000000014", "0.6"
    )
    # What was asked for run by run is shown so.
    assert len(compare_runs(runs).rows) == 4


def test_a_seed_that_did_not_come_to_its_end_is_no_part_of_the_mean(session: Session) -> None:
    runs = scored(session)
    before = compare_runs(runs, over_seeds=True).rows
    stopped = session.new_run(runs[0].config().model_copy(update={"seed": 77}), "train")
    stopped.update(status="stopped", results={"valid_ppl": 1000.0, "test_ppl": 900.0})
    rows = compare_runs([*runs, stopped], over_seeds=True).rows
    assert [row for row in rows if row["run"] != stopped.ref] == list(before)
    assert next(row["valid_ppl"] for row in rows if row["run"] == stopped.ref) == 1000.0


def test_a_figure_that_one_of_the_seeds_has_says_so(session: Session) -> None:
    runs = scored(session)[:3]
    evaluated = session.new_run(EvaluateConfig(cache=20), "evaluate", parent=runs[0])
    evaluated.update(
        status="finished", started=time.time(), ended=time.time(),
        results={"test_cache_ppl": 80.0},
    )  # fmt: skip
    comparison = compare_runs(runs, over_seeds=True)
    cached = [key for key, _ in comparison.columns].index("test_cache_ppl")
    assert comparison.cells()[0][cached] == "80.00, n = 1"
    assert "test_cache_ppl_n" in comparison.write("csv").split("\n")[0]
    runs[1].update(results={})
    runs[2].update(results={})
    assert compare_runs(runs, over_seeds=True).cells()[0][6] == "82.80, n = 1"


def test_seeds_that_were_stopped_early_are_said_to_be(session: Session) -> None:
    for seed in (1, 2):
        run = session.new_run(
            TrainConfig(seed=seed), "train", name=f"lstm s{seed}", point=f"p{seed}"
        )
        run.update(status="stopped", early_stopping="stopped", results={"valid_ppl": 200.0})
    [row] = compare_runs(session.runs(), over_seeds=True).rows
    assert (row["name"], row["early"]) == ("lstm, stopped early", True)


def test_the_front_has_an_error_bar_for_a_setting_of_several_seeds(session: Session) -> None:
    rows = compare_runs(scored(session), over_seeds=True).rows
    plot = front_plot(rows)
    assert plot is not None
    (bar,) = [series for series in plot.series if "±" in series.label]
    assert bar.y.tolist() == pytest.approx([82.8, 84.0])
    assert bar.x.tolist() == [1010, 1010]
    drawn = as_svg(plot)
    # One vertical stroke: the picture's limits hold the whole bar.
    (stroke,) = [
        line for line in drawn.split("\n") if "stroke-dasharray" in line and _upright(line)
    ]
    assert stroke
    assert "Pareto front" in as_csv(plot)
    assert front_plot(rows[:1]) is None
    assert "Test perplexity against size" in report_session(session, "html")


def _upright(line: str) -> bool:
    points = [point.split(",") for point in line.split('points="')[1].split('"')[0].split()]
    (x0, y0), (x1, y1) = points
    return abs(float(x0) - float(x1)) < 2 and abs(float(y0) - float(y1)) > 10
