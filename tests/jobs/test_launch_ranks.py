"""A run that several processes work on: how they end together, and go on together."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from jobs_world import comparable
from safetensors.torch import load_file
from small_runs import make_home, new_run, wait
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from waiting import until

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch, launch_ranks
from lmbench.jobs.control_file import ask, asked
from lmbench.jobs.job import Job
from lmbench.jobs.launch_ranks import RankError, _reason
from lmbench.jobs.places.local import Local
from lmbench.session import Home, Run
from lmbench.session.events import Checkpoint, Epoch, Event, RunResumed, Step

TOGETHER: dict[str, Any] = {"gpus": 2, "allow_cpu": True, "dropout": 0.3}
ENDLESS = 10_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Local, "look_s", 0.01)
    return make_home(tmp_path)


def ranks_of(run: Run) -> dict[int, psutil.Process]:
    """The living processes that train the run, by their number."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if "lmbench.jobs.rank" in words and str(run.path) in words:
                found[int(process.environ()["RANK"])] = process
    return found


def start(run: Run) -> None:
    """Start a run, and wait until its processes train."""
    launch.start(run, queue=False)
    wait_for(run, lambda event: isinstance(event, Step))


def wait_for(run: Run, is_it: Callable[[Event], bool]) -> None:
    for look in launch.follow(run):
        if any(map(is_it, look.events)):
            return
    pytest.fail(f"it ended before: {run.log_path.read_text()}")


def test_a_killed_rank_ends_the_others_and_the_run_says_so(home: Home) -> None:
    run = new_run(home, "train", **TOGETHER, epochs=ENDLESS)
    start(run)
    ranks = ranks_of(run)
    assert sorted(ranks) == [0, 1]
    ranks[1].kill()
    assert wait(run) == "failed"
    assert run.read().reason == (
        "rank 1 of 2 ended, and the others with it (killed, probably out of memory); resume the "
        "run to go on from its last checkpoint"
    )
    # The last line comes after the record.
    until(lambda: run.log_path.read_text().endswith(f"error: {run.read().reason}\n"))
    assert ranks_of(run) == {}
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.slow
def test_a_run_of_two_processes_that_is_killed_equals_one_that_was_not(home: Home) -> None:
    pruned = TOGETHER | {"compress": "pruned.yaml"}
    whole, killed = (new_run(home, "train", **pruned) for _ in range(2))
    launch.start(whole, queue=False)
    assert wait(whole) == "finished", whole.log_path.read_text()
    start(killed)
    wait_for(killed, lambda event: isinstance(event, Checkpoint))
    ranks_of(killed)[0].kill()
    assert wait(killed) == "failed"
    launch.resume(killed, queue=False)
    wait_for(killed, lambda event: isinstance(event, Epoch))
    worker = killed.read().pid
    assert worker is not None
    ranks = ranks_of(killed)
    os.kill(worker, signal.SIGKILL)
    # A rank ends with the process that started it.
    until(lambda: not any(rank.is_running() for rank in ranks.values()))
    assert wait(killed) == "lost"
    launch.resume(killed, queue=False)
    assert wait(killed) == "finished", killed.log_path.read_text()
    assert comparable(killed) == comparable(whole)
    a, b = (load_file(run.path / "last" / "model.safetensors") for run in (whole, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.read().results["test_ppl"] == killed.read().results["test_ppl"]


@pytest.mark.slow
def test_requests_are_heeded_by_all_processes_at_once(home: Home) -> None:
    run = new_run(home, "train", **TOGETHER, epochs=ENDLESS, checkpoint_every=0.0)
    start(run)
    launch.request(run, "pause")
    until(lambda: run.status() == "paused")
    launch.request(run, "checkpoint")
    until(lambda: run.checkpoint("last") is not None)
    launch.request(run, "continue")
    until(lambda: run.status() == "running")
    worker = run.read().pid
    assert worker is not None
    os.kill(worker, signal.SIGTERM)
    assert wait(run) == "stopped"
    # It was no wish of the user's, by which a cluster would not go on with it.
    assert asked(run)[-1] == "end"
    assert run.read().results["test_ppl"] > 1
    assert ranks_of(run) == {}
    launch.resume(run, queue=False)
    wait_for(run, lambda event: isinstance(event, RunResumed))
    launch.request(run, "stop")
    assert wait(run) == "stopped"


@pytest.mark.parametrize("epochs, stopped", [(3, False), (2, True)])
def test_a_stop_after_the_last_epoch_came_too_late(
    home: Home, monkeypatch: pytest.MonkeyPatch, epochs: int, stopped: bool
) -> None:
    run = new_run(home, "train", **TOGETHER, epochs=3)
    config = run.config()
    assert isinstance(config, TrainConfig)
    job = Job(run, run.update(status="running"), config, resuming=False)

    def trained(*_: object) -> None:
        # As rank 0 writes it, and the user asks meanwhile.
        run.update(results={"epochs": epochs})
        ask(run, "stop")

    monkeypatch.setattr(launch_ranks, "_launch", trained)
    launch_ranks.launch_ranks(job, config)
    assert job.stopped == stopped


def test_a_file_system_that_times_out_is_an_error_of_the_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(home, "train", **TOGETHER)
    config = run.config()
    assert isinstance(config, TrainConfig)
    job = Job(run, run.update(status="running"), config, resuming=False)

    def timed_out(*_: object) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(launch_ranks, "_launch", timed_out)
    monkeypatch.setattr(launch_ranks, "_POLL_S", 0.01)
    with pytest.raises(TimeoutError):
        launch_ranks.launch_ranks(job, config)


def failure(folder: Path, code: int, words: str = "") -> ProcessFailure:
    file = folder / f"error-{len(list(folder.iterdir()))}.json"
    if words:
        file.write_text(json.dumps({"message": {"message": words, "extraInfo": {"timestamp": 1}}}))
    return ProcessFailure(0, 1, code, str(file))


def test_the_reason_is_the_failure_that_the_others_follow_from(tmp_path: Path) -> None:
    lost = failure(tmp_path, 1, "RuntimeError: [gloo/transport/tcp/pair.cc:1] Connection closed")
    died = _reason({0: lost, 1: failure(tmp_path, -signal.SIGSEGV)}, 2)
    assert isinstance(died, LmbenchError)
    assert died.message.startswith("rank 1 of 2 ended, and the others with it (crashed by a memory")
    ended = _reason(
        {0: failure(tmp_path, -signal.SIGTERM), 1: failure(tmp_path, -signal.SIGKILL)}, 2
    )
    assert str(ended).startswith("rank 1 of 2 ended, and the others with it (killed")
    refused = _reason({0: lost, 1: failure(tmp_path, 1, "LmbenchError: no corpus; get one")}, 2)
    assert isinstance(refused, LmbenchError)
    assert refused.message == "no corpus; get one"
    defect = _reason({0: failure(tmp_path, 1, "KeyError: 'x'"), 1: lost}, 2)
    assert isinstance(defect, RankError)
    assert str(defect) == "rank 0 of 2: KeyError: 'x'"
