"""What may be asked of a run in each of its states, and what is answered."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from live_runs import make_live

from lmbench.config import EvaluateConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.control_file import ask, asked
from lmbench.jobs.supervisor import conclude
from lmbench.session import Home, Run
from lmbench.session.process import process_started


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Home(tmp_path).open_session().new_run(EvaluateConfig(), "evaluate")


@pytest.mark.parametrize("action", ["pause", "continue", "stop"])
def test_a_live_run_is_asked_through_its_control_file(run: Run, action: launch.Action) -> None:
    make_live(run)
    launch.request(run, action)
    assert asked(run) == [action]
    assert run.read().status == "running"


def test_only_a_training_is_asked_for_a_checkpoint(run: Run, tmp_path: Path) -> None:
    training = Home(tmp_path).open_session().new_run(TrainConfig(), "train")
    for one in (run, training):
        make_live(one)
    launch.request(training, "checkpoint")
    assert asked(training) == ["checkpoint"]
    with pytest.raises(LmbenchError, match="is no training: it has no checkpoint to write"):
        launch.request(run, "checkpoint")
    assert asked(run) == []


@pytest.mark.parametrize("status", ["finished", "stopped", "failed", "lost"])
@pytest.mark.parametrize("action", ["pause", "continue", "checkpoint", "stop", "kill"])
def test_a_run_without_a_process_can_be_asked_for_nothing(
    run: Run, status: str, action: launch.Action
) -> None:
    run.update(status=status)
    with pytest.raises(LmbenchError, match=f"is {status}: "):
        launch.request(run, action)
    assert asked(run) == []


@pytest.mark.parametrize("action", ["pause", "continue", "checkpoint"])
def test_a_waiting_run_can_only_be_stopped(run: Run, action: launch.Action) -> None:
    with pytest.raises(LmbenchError, match="stop takes it out of the queue"):
        launch.request(run, action)
    assert run.read().status == "queued"


@pytest.mark.parametrize("action", ["stop", "kill"])
def test_a_waiting_run_leaves_the_queue(run: Run, action: launch.Action) -> None:
    launch.request(run, action)
    assert (run.read().status, run.read().reason) == ("stopped", "stopped in the queue")


def test_a_paused_run_is_not_paused_again(run: Run) -> None:
    make_live(run, "paused")
    with pytest.raises(LmbenchError, match="is paused already"):
        launch.request(run, "pause")


def test_a_process_that_is_not_the_runs_is_never_killed(run: Run) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(bystander.pid)
    assert started is not None
    run.update(status="running", pid=bystander.pid, process_started=started - 100.0)
    with pytest.raises(LmbenchError, match="is lost: there is no process to kill"):
        launch.request(run, "kill")
    run.update(process_started=started, host="another")
    run.update(pid=bystander.pid, process_started=started - 100.0)
    with pytest.raises(LmbenchError, match="works on another: kill it there"):
        launch.request(run, "kill")
    assert bystander.poll() is None
    bystander.communicate(b"\n")


@pytest.mark.parametrize(
    "status, complaint",
    [
        ("running", "is running"),
        ("paused", "is paused: lmbench runs continue lets it go on"),
        ("finished", "is finished: there is nothing to resume"),
    ],
)
def test_a_run_that_needs_no_resuming_is_not_resumed(run: Run, status: str, complaint: str) -> None:
    if status == "finished":
        run.update(status=status)
    else:
        make_live(run, status)
    with pytest.raises(LmbenchError, match=complaint):
        launch.resume(run)
    assert run.read().status == status


@pytest.mark.parametrize(
    "status, job, goes_on",
    [
        ("queued", "7_0", True),
        ("running", "7_0", False),
        ("queued", "8_0", False),
        ("finished", "7_0", False),
    ],
)
def test_a_run_whose_worker_was_killed_before_it_claimed_it_goes_on_by_itself(
    run: Run, status: str, job: str, goes_on: bool
) -> None:
    run.update(status=status, job="7_0")
    # Of a worker that has claimed the run; before it is what an earlier one was asked.
    ask(run, "stop")
    assert launch.take_over(run, job) == goes_on
    assert run.read().status == status


@pytest.mark.parametrize("word, goes_on", [("end", True), ("stop", False)])
def test_a_run_of_several_ranks_goes_on_in_the_next_job_unless_its_user_stopped_it(
    run: Run, word: Literal["end", "stop"], goes_on: bool
) -> None:
    """At its time limit the worker tells its ranks by the same file."""
    run.update(status="stopped", job="7_0")
    ask(run, word)
    assert launch.take_over(run, "7_0") == goes_on


@pytest.mark.parametrize("claimed", [False, True])
def test_whether_a_worker_had_begun_does_not_depend_on_the_clock(run: Run, claimed: bool) -> None:
    run.update(attempt=1 + claimed, started=time.time() + 3600)
    conclude(run, 1, 1, attempt=1)
    assert run.read().status == ("queued" if claimed else "failed")


def test_why_a_run_is_lost_ends_with_its_last_words(run: Run) -> None:
    run.log_path.write_text("one\ntwo\n\nthree\nfour\n\n")
    run.update(status="lost", reason="killed, probably out of memory")
    assert launch.why_lost(run) == (
        "killed, probably out of memory; last lines of its log: two / three / four"
    )


def test_a_run_from_before_the_machine_was_started_says_so(run: Run) -> None:
    run.update(status="running", pid=1, process_started=-1.0, started=1.0)
    assert run.status() == "lost"
    assert launch.why_lost(run) == "the machine was restarted"
