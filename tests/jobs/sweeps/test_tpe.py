"""Search by TPE: what is proposed next, and that it follows from the records alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sweep_world import SMALL, write_sweep

from lmbench.config import TrainConfig, validate
from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps import control
from lmbench.jobs.sweeps.proposals import kept_plan, proposals_path, to_propose
from lmbench.jobs.sweeps.status import sweep_status
from lmbench.jobs.sweeps.tpe import propose
from lmbench.session import Home, Run, Session
from lmbench.session.archive import pack, unpack
from lmbench.session.manage import delete_run

needs_optuna = pytest.mark.usefixtures("optuna")

SEARCH = f"""version: 1
name: study
search: tpe
runs: 6
seed: 3
seeds: 2
stages:
  - kind: train
    settings: {{{SMALL.replace(", lr: 1.0", "")}}}
    axes:
      lr: {{from: 0.1, to: 10, count: 9, log: true}}
      dropout: [0.0, 0.2]
  - kind: prune
    axes: {{compress: [levels/agp-50.yaml, levels/agp-80.yaml]}}
"""


@pytest.fixture
def optuna() -> Any:
    return pytest.importorskip("optuna")


def started(home: Home, name: str = "study") -> Session:
    file = write_sweep(home.path.parent / "study", SEARCH)
    session, _ = control.start(control.prepare(file, home, name), home)
    return session


def finish(run: Run) -> None:
    """As a run whose figure is the better the nearer its learning rate is to 1."""
    record = run.read()
    ppl = 50.0 + abs(record.config.get("lr", 20.0) - 1.0) + record.config.get("seed", 1111) % 2
    run.transition(
        "finished", results={"valid_ppl": ppl, "bytes": 1000 if "50" in record.name else 500}
    )


def work_through(session: Session, *, fails: int | None = None) -> None:
    """As the queue does it, looking after each run at what follows."""
    while (run := control.next_run(session)) is not None:
        if run.id == fails:
            run.transition("failed", reason="out of memory")
        else:
            finish(run)
        control.advance(session)


@needs_optuna
def test_nothing_is_proposed_twice_and_all_is_when_there_is_no_more() -> None:
    axes = [[3, 1, 2], ["a", "b"]]
    results: list[tuple[tuple[int, ...], tuple[float, ...] | None]] = []
    while (one := propose(axes, results, 7, lambda c: c != (0, 1))) is not None:
        results.append((one, None if one == (0, 0) else (float(sum(one)),)))
    found = [combination for combination, _ in results]
    assert sorted(found) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]


@needs_optuna
def test_proposals_follow_from_seed_and_results_and_come_near_the_best() -> None:
    axes = [list(range(30))]

    def search(seed: int) -> list[int]:
        results: list[tuple[tuple[int, ...], tuple[float, ...] | None]] = []
        for _ in range(20):
            one = propose(axes, results, seed, lambda _: True)
            assert one is not None
            results.append((one, (float((one[0] - 21) ** 2),)))
        return [combination[0] for combination, _ in results]

    first = search(1)
    assert search(1) == first
    assert search(2) != first
    # Ten are drawn at random before there is anything to go by.
    assert sum(abs(place - 21) for place in first[10:]) < sum(abs(p - 21) for p in first[:10])


@needs_optuna
def test_runs_are_made_one_combination_after_the_other(sweep_home: Home) -> None:
    session = started(sweep_home)
    assert sweep_status(session).statuses == {"queued": 4}
    assert sweep_status(session).to_propose == 5
    control.advance(session)
    assert len(session.runs()) == 4
    work_through(session)
    status = sweep_status(session)
    assert (status.to_propose, status.missing) == (0, 0)
    plan = kept_plan(session)
    assert len(set(plan.proposals)) == 6
    assert {record.status for record in (run.read() for run in session.runs())} == {"finished"}
    assert [row.stage for row in status.rows] == sorted(
        (row.stage for row in status.rows), key=["train", "prune"].index
    )
    # A training that two combinations have in common is made once.
    trained = [run.read().config for run in session.runs() if run.read().kind == "train"]
    assert len({json.dumps(config, sort_keys=True) for config in trained}) == len(trained)


@needs_optuna
def test_a_search_that_is_interrupted_goes_on_to_the_same_proposals(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = started(sweep_home, "whole")
    work_through(whole, fails=3)
    session = started(sweep_home)
    for _ in range(3):
        run = control.next_run(session)
        assert run is not None
        (finish if run.id != 3 else lambda run: run.transition("failed"))(run)
    run = control.next_run(session)
    assert run is not None
    run.transition("lost")
    control.advance(session)
    assert len(kept_plan(session).proposals) == 1, "proposed past a run that is lost"
    assert control.requeue(session.runs(), failed=False) == 1
    # A death after the proposal was kept, before its runs are made.
    monkeypatch.setattr("lmbench.jobs.sweeps.advance.make_missing", lambda _: None)
    finish(run)
    control.advance(session)
    monkeypatch.undo()
    monkeypatch.setenv("LMBENCH_HOME", str(sweep_home.path))
    assert sweep_status(session).missing > 0
    control.advance(session)
    assert len(kept_plan(session).proposals) == 2
    assert sweep_status(session).missing == 0
    work_through(session)
    assert kept_plan(session).proposals == kept_plan(whole).proposals


@needs_optuna
def test_a_stopped_search_proposes_nothing_until_it_is_resumed(sweep_home: Home) -> None:
    session = started(sweep_home)
    for run in session.runs():
        finish(run)
    # Between the end of the last run and what is proposed after it.
    assert control.stop(session) == 0
    control.advance(session)
    assert len(kept_plan(session).proposals) == 1
    assert len(control.resume(session, failed=False)) > 4
    assert len(kept_plan(session).proposals) == 2


@needs_optuna
def test_a_run_that_was_deleted_is_not_made_again_when_another_ends(sweep_home: Home) -> None:
    session = started(sweep_home)
    first, second = session.runs()[:2]
    finish(first)
    finish(second)
    delete_run(first)
    control.advance(session)
    assert [run.id for run in session.runs()] == [2, 3, 4]


FROM_A_RUN = """version: 1
name: study
search: tpe
runs: 6
stages:
  - kind: prune
    from: base/1
    axes:
      compress: [levels/agp-50.yaml, levels/agp-80.yaml]
      lr: [0.5, 1.0, 2.0, 4.0]
"""


@needs_optuna
def test_where_the_source_is_gone_the_search_says_so(sweep_home: Home) -> None:
    dense = validate(TrainConfig, {"data": "tiny", "emsize": 8, "nhid": 8, "batch_size": 4})
    source = sweep_home.open_session("base").new_run(dense, "train")
    source.transition("finished")
    file = write_sweep(sweep_home.path.parent / "study", FROM_A_RUN)
    session, [run] = control.start(control.prepare(file, sweep_home), sweep_home)
    finish(run)
    delete_run(source)
    with pytest.raises(LmbenchError, match="base/001-train"):
        control.advance(session)


@needs_optuna
def test_proposals_travel_with_their_sweep_and_go_with_it(sweep_home: Home, tmp_path: Any) -> None:
    session = started(sweep_home)
    work_through(session)
    pack(session, tmp_path / "s.lmbench")
    again = unpack(tmp_path / "s.lmbench", sweep_home, "again")
    assert kept_plan(again).proposals == kept_plan(session).proposals
    assert sweep_status(again).missing == 0
    session.new_run(session.runs()[0].config(), "train", name="mine").transition("stopped")
    control.delete(session)
    assert not proposals_path(session).exists()
    path = proposals_path(again)
    path.write_text(json.dumps({"version": 1, "proposals": [[0, 0, 7]]}))
    with pytest.raises(LmbenchError, match=r"proposals\.json: field 'proposals'"):
        sweep_status(again)


def test_without_optuna_nothing_is_made(sweep_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LmbenchError, match=r"line 3: search: tpe needs Optuna: pip install"):
        started(sweep_home)
    assert sweep_home.sessions() == []


def test_a_sweep_whose_runs_are_all_known_has_nothing_to_propose(sweep_home: Home) -> None:
    file = write_sweep(sweep_home.path.parent / "study")
    session, _ = control.start(control.prepare(file, sweep_home), sweep_home)
    assert to_propose(kept_plan(session)) == 0
