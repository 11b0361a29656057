"""What a sweep's records say of its rungs, and what follows for its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sweep_world import SMALL, start_sweep, write_sweep

from lmbench.config import PruneConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.run_schedule import read_schedule
from lmbench.jobs.sweeps import control
from lmbench.jobs.sweeps.checking import stage_rungs
from lmbench.jobs.sweeps.early_stopping import Classes, size_class, watch_rungs
from lmbench.jobs.sweeps.kept_file import made_records, sweep_of
from lmbench.jobs.sweeps.plan import plan_of
from lmbench.jobs.sweeps.status import STOPPED_EARLY, WAITS, sweep_status
from lmbench.report.compare import compare_runs
from lmbench.report.pareto_front import front_plot
from lmbench.session import Home, Run, Session
from lmbench.session.manage import delete_run
from lmbench.tui import leaving

LONG = SMALL.replace("epochs: 2", "epochs: 9").replace(", lr: 1.0", "")
RACE = f"""version: 1
name: study
seeds: 2
early_stopping: true
stages:
  - kind: train
    settings: {{{LONG}}}
    axes: {{lr: [1.0, 2.0, 3.0]}}
  - kind: quantize
"""


def classes(session: Session) -> Classes:
    sweep = sweep_of(session)
    assert sweep.early_stopping is not None
    return Classes(plan_of(sweep), made_records(session), sweep.early_stopping)


def come_to(run: Run, epochs: int, figure: float) -> Any:
    """A worker's part at a rung, with its end as the worker writes it."""
    from lmbench.jobs.job import Job

    run.transition("running")
    job = Job(run, run.read(), run.config(), resuming=False)
    watch = watch_rungs(job)
    ended = watch(epochs, figure)
    job.close()
    if job.halt is None:
        assert not ended
        run.transition("finished", results={**run.read().results, "valid_ppl": figure})
    else:
        assert ended
        run.transition("stopped", reason=job.halt.reason, early_stopping=job.halt.kind)
    return job.halt


def test_settings_wait_are_promoted_or_stopped_with_all_their_seeds(sweep_home: Home) -> None:
    session, runs = start_sweep(sweep_home, RACE)
    trained = [run for run in runs if run.read().kind == "train"]
    # In the order of the plan: each seed has the three rates.
    figures = [80.0, 70.0, 91.0, 81.0, 72.0, 90.0]
    for run, figure in list(zip(trained, figures, strict=True))[:4]:
        assert come_to(run, 2, figure).kind == "waits"
        control.advance(session)
    assert sweep_status(session).statuses == {WAITS: 4, "queued": 8}
    assert "other seeds of it are not there" in trained[0].read().reason
    assert "1 of 3 settings are there" in trained[3].read().reason
    # The second of three is better, so the first is out; the third may yet beat the second.
    assert come_to(trained[4], 2, figures[4]).kind == "waits"
    control.advance(session)
    assert sweep_status(session).statuses == {WAITS: 3, STOPPED_EARLY: 4, "queued": 5}
    last = come_to(trained[5], 2, figures[5])
    assert (last.kind, last.reason) == (
        "stopped",
        "stopped early at rung 1 (epoch 2): valid ppl 90.50, had to beat 71.00",
    )
    control.advance(session)
    early = [run.read().early_stopping for run in trained]
    assert early == ["stopped", "", "stopped", "stopped", "", "stopped"]
    assert [run.status() for run in trained] == [
        *("stopped", "queued", "stopped", "stopped", "queued", "stopped")
    ]
    assert "valid ppl 80.50, had to beat 71.00" in trained[0].read().reason
    # What would be made of those that were stopped leaves the queue, too.
    children = [run.read() for run in runs if run.read().kind == "quantize"]
    assert [child.status for child in children] == [run.status() for run in trained]
    assert children[0].reason == f"not begun: {trained[0].ref} was stopped early"
    # A promoted run passes its rung when it comes to it again.
    assert come_to(trained[1], 2, 70.0) is None
    status = sweep_status(session)
    assert status.statuses == {STOPPED_EARLY: 8, "finished": 1, "queued": 3}
    assert [len(row.stopped_at) for row in status.rows] == [2, 0, 2, 2, 0, 2]
    assert status.rows[0].valid is None


@pytest.mark.parametrize("stop", [control.stop, leaving._stop_all], ids=["sweep", "workbench"])
def test_what_was_promoted_while_another_was_at_work_is_stopped_with_the_sweep(
    sweep_home: Home, stop: Callable[[Session], object]
) -> None:
    session, runs = start_sweep(sweep_home, RACE)
    trained = [run for run in runs if run.read().kind == "train"]
    figures = {0: 80.0, 1: 70.0, 2: 91.0, 3: 81.0, 5: 90.0}
    for number, figure in figures.items():
        come_to(trained[number], 2, figure)
        control.advance(session)
    # It completes the class, and goes on; the other seed of its setting has not heard yet.
    assert come_to(trained[4], 2, 72.0) is None
    assert trained[1].read().early_stopping == "waits"
    stop(session)
    control.advance(session)
    assert [run.ref for run in runs if run.status() == "queued"] == []


def test_a_resume_leaves_what_was_stopped_early_and_a_run_that_is_resumed_goes_on(
    sweep_home: Home,
) -> None:
    session, runs = start_sweep(sweep_home, RACE.replace("seeds: 2\n", ""))
    for run, figure in zip(runs, (80.0, 70.0, 75.0), strict=False):
        come_to(run, 2, figure)
    control.advance(session)
    control.stop(session)
    assert control.requeue(runs, failed=True) == 2
    assert [run.status() for run in runs] == [
        *("stopped", "queued", "stopped", "stopped", "queued", "stopped")
    ]
    launch.requeue(runs[0])
    assert runs[0].read().early_stopping == "off"
    assert come_to(runs[0], 6, 50.0) is None
    # It has no part in the rungs after the one at which it was stopped.
    found = classes(session)
    assert found.rungs(runs[0]) == [2, 6]
    assert found.verdict(runs[0], 6) is None
    launch.request(runs[1], "stop")
    launch.requeue(runs[1])
    assert runs[1].read().early_stopping == ""


def test_what_starts_from_a_training_that_was_made_anew_is_stopped_with_it(
    sweep_home: Home,
) -> None:
    session, runs = start_sweep(sweep_home, RACE.replace("seeds: 2\n", ""))
    control.stop(session)
    delete_run(runs[0])
    again = control.resume(session, failed=False)
    assert [run.path.name for run in again] == [
        *("002-train", "003-train", "007-train", "004-quantize", "005-quantize", "006-quantize")
    ]
    for run, figure in zip(again, (70.0, 75.0, 80.0), strict=False):
        come_to(run, 2, figure)
    control.advance(session)
    assert [run.read().early_stopping for run in again[:3]] == ["", "stopped", "stopped"]
    assert again[3].status() == "stopped"
    assert again[3].read().reason == f"not begun: {again[2].ref} was stopped early"


def test_a_sweep_that_is_not_wholly_made_decides_nothing(sweep_home: Home) -> None:
    session, runs = start_sweep(sweep_home, RACE.replace("seeds: 2\n", ""))
    control.delete_run(runs[5])
    for run, figure in zip(runs, (80.0, 70.0, 75.0), strict=False):
        assert come_to(run, 2, figure).kind == "waits"
    control.advance(session)
    assert {run.read().early_stopping for run in runs[:3]} == {"waits"}
    assert "runs of the sweep are missing" in runs[0].read().reason
    control.make_missing(session)
    control.advance(session)
    assert [run.read().early_stopping for run in runs[:3]] == ["stopped", "", "stopped"]


def test_trainings_compare_where_target_bits_shape_and_length_are_the_same(
    sweep_home: Home,
) -> None:
    folder = write_sweep(sweep_home.path.parent / "study").parent / "levels"
    small = {"emsize": 8, "nhid": 8, "nlayers": 1, "tied": True, "epochs": 9}

    def of(level: int, **more: Any) -> Any:
        name = str(folder / f"agp-{level}.yaml")
        config = PruneConfig(**{**small, "compress": name, **more})
        return size_class(0, config, read_schedule(name, sweep_home), 30)

    half, ramp = of(50)
    # Its last step comes with epoch 2, before which one epoch was trained.
    assert ramp == 1
    assert of(50, lr=3.0)[0] == half
    assert of(80)[0] != half
    assert of(50, nhid=9, tied=False)[0] != half
    assert of(50, epochs=8)[0] != half
    dense, ramp = size_class(0, TrainConfig(**small), None, 30)
    assert (dense.target, dense.bits, ramp) == (0.0, "", 0)
    (folder / "slow-50.yaml").write_text(
        (folder / "agp-50.yaml").read_text().replace("ending_epoch: 2", "ending_epoch: 5")
    )
    slow = str(folder / "slow-50.yaml")
    config = PruneConfig(**{**small, "compress": slow})
    same, ramp = size_class(0, config, read_schedule(slow, sweep_home), 30)
    assert (same, ramp) == (half, 4)
    (folder / "bits.yaml").write_text(
        "version: 1\nquantizers: {q: {class: QuantAwareTrainRangeLinearQuantizer, "
        "bits_weights: 4, bits_activations: null}}\n"
        "policies: [{quantizer: {instance_name: q}, starting_epoch: 0, ending_epoch: 1, "
        "frequency: 1}]\n"
    )
    bits = str(folder / "bits.yaml")
    four, _ = size_class(
        0, PruneConfig(**small, compress=bits), read_schedule(bits, sweep_home), 30
    )
    assert four != dense


def test_rungs_come_after_the_longest_ramp_of_the_class(sweep_home: Home) -> None:
    text = f"""version: 1
name: study
early_stopping: {{first_rung: 3, eta: 2}}
stages:
  - kind: prune
    settings: {{{LONG}}}
    axes: {{compress: [levels/agp-50.yaml, levels/slow-50.yaml, levels/agp-80.yaml]}}
"""
    folder = write_sweep(sweep_home.path.parent / "study").parent / "levels"
    (folder / "slow-50.yaml").write_text(
        (folder / "agp-50.yaml").read_text().replace("ending_epoch: 2", "ending_epoch: 5")
    )
    prepared = control.prepare(write_sweep(folder.parent, text), sweep_home)
    assert stage_rungs(prepared.plan, prepared.runs, sweep_home) == {"prune": [4, 7]}
    session, runs = control.start(prepared, sweep_home)
    found = classes(session)
    assert [found.rungs(run) for run in runs] == [[7], [7], [4, 7]]


def test_what_was_stopped_early_is_averaged_with_no_whole_run_and_on_no_front(
    sweep_home: Home,
) -> None:
    session = sweep_home.open_session("s")
    runs = [
        session.new_run(TrainConfig(seed=seed), "train", name=f"dense s{seed}") for seed in range(3)
    ]
    for number, run in enumerate(runs):
        results = {"valid_ppl": 80.0 + number, "test_ppl": 80.0 + number, "bytes": 100 + number}
        run.update(status="finished", results=results)
    runs[2].update(status="stopped", early_stopping="stopped")
    whole, early = compare_runs(runs, over_seeds=True).rows
    assert (whole["n"], whole["valid_ppl"]) == (2, 80.5)
    assert (early["name"], early["valid_ppl"]) == ("dense s2, stopped early", 82.0)
    assert front_plot([whole, early]) is None


def test_early_stopping_of_trainings_that_are_too_short_is_refused(sweep_home: Home) -> None:
    with pytest.raises(LmbenchError, match="line 4: early_stopping: stops nothing: no training"):
        start_sweep(sweep_home, RACE.replace("epochs: 9", "epochs: 2"))


@pytest.mark.parametrize(
    "given, words",
    [
        ("3", "write true, or {first_rung: 2, eta: 3}"),
        ("{first_rung: 1}", "1 must be a whole number, at least 2"),
        ("{eta: 1}", "1 must be a whole number, at least 2"),
        ("{rung: 3}", "'rung' is not a key of early stopping"),
    ],
)
def test_a_mistake_in_early_stopping_is_named_with_its_line(
    sweep_home: Home, given: str, words: str
) -> None:
    with pytest.raises(LmbenchError) as refused:
        start_sweep(sweep_home, RACE.replace("early_stopping: true", f"early_stopping: {given}"))
    (line,) = refused.value.message.split("\n")
    assert words in line
    assert " line 4:" in line
