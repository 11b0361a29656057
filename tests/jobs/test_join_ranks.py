"""A run that two machines work on; both of them are processes of this one here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_runs import make_live
from small_runs import make_home, new_run, wait
from waiting import until

from lmbench.cli import run as lmbench
from lmbench.errors import LmbenchError
from lmbench.jobs import join_ranks as join_ranks_module
from lmbench.jobs import launch, launch_ranks
from lmbench.jobs.control_file import ask
from lmbench.jobs.job import Job
from lmbench.jobs.join_ranks import join_ranks
from lmbench.jobs.kinds import train
from lmbench.jobs.rendezvous import (
    Rendezvous,
    announce,
    missing_nodes,
    read_rendezvous,
    take_number,
)
from lmbench.session import Home, Run, read_events
from lmbench.session.attempts import FencedError, attempt_folder, begin_attempt
from lmbench.session.events import Checkpoint
from lmbench.training.ranks import Ranks

ONE: dict[str, Any] = {"gpus": 2, "allow_cpu": True, "device": "cpu", "dropout": 0.3}
TWO: dict[str, Any] = ONE | {"gpus": 1, "nodes": 2}
THREE: dict[str, Any] = TWO | {"nodes": 3, "batch_size": 3}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return make_home(tmp_path)


def joined(run: Run) -> subprocess.Popen[str]:
    """The other machine."""
    command = [sys.executable, "-m", "lmbench", "runs", "join", run.ref]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def weights(run: Run) -> bytes:
    return (run.path / "last" / "model.safetensors").read_bytes()


def test_each_machine_has_a_number_of_its_own(tmp_path: Path) -> None:
    assert read_rendezvous(tmp_path) is None
    announce(tmp_path, Rendezvous("host:29500", resuming=True))
    assert read_rendezvous(tmp_path) == Rendezvous("host:29500", resuming=True)
    assert missing_nodes(tmp_path, 3) == 2
    assert [take_number(tmp_path, 3) for _ in range(3)] == [1, 2, None]
    assert missing_nodes(tmp_path, 3) == 0


def test_what_cannot_be_joined_is_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    alone, together = new_run(home, "train"), new_run(home, "train", **TWO)
    assert lmbench(["runs", "join", alone.ref]) == 2
    assert f"run {alone.ref} is one of a single machine" in capsys.readouterr().err
    together.update(status="stopped")
    with pytest.raises(LmbenchError, match="is stopped: start or resume it, then join"):
        join_ranks(together)


def test_a_worker_that_waits_for_machines_ends_when_a_newer_attempt_has_begun(home: Home) -> None:
    run = new_run(home, "train", **TWO)
    begin_attempt(run.path, 1)
    waiting = Run(run.path, attempt_folder(run.path, 1))

    def announced(*_: object) -> None:
        begin_attempt(run.path, 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch_ranks, "announce", announced)
        with pytest.raises(FencedError, match="a newer attempt at this run has begun"):
            launch_ranks._have_joined(waiting, 2, Rendezvous("host:1", resuming=False))


@pytest.mark.parametrize("left_by", ["stop", "end", "interrupt", "newer"])
def test_a_machine_that_waits_for_a_third_one_can_leave(
    left_by: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(home, "train", **THREE)
    begin_attempt(run.path, 1)
    make_live(run, attempt=1)
    attempt = attempt_folder(run.path, 1)
    announce(attempt, Rendezvous("host:1", resuming=False))

    def leave(_: float) -> None:
        if left_by == "stop":
            ask(run, "stop")
        elif left_by == "end":
            run.update(status="failed", pid=None)
        elif left_by == "newer":
            begin_attempt(run.path, 2)
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(launch_ranks.time, "sleep", leave)
    monkeypatch.setattr(join_ranks_module, "launch_agent", lambda *_: pytest.fail("it trains"))
    if left_by == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            join_ranks(run)
        # Another one has its number.
        assert missing_nodes(attempt, 3) == 2
    elif left_by == "newer":
        with pytest.raises(FencedError):
            join_ranks(run)
    else:
        assert join_ranks(run) == 1


def test_paths_mean_on_a_joined_machine_what_they_meant_to_the_user(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = new_run(home, "train", **TWO), home.path / "elsewhere"
    elsewhere.mkdir()
    run.update(status="running", cwd=str(elsewhere), attempt=1)
    begin_attempt(run.path, 1)
    announce(attempt_folder(run.path, 1), Rendezvous("host:1", resuming=False))
    monkeypatch.setattr(Run, "status", lambda *_: "running")
    found: list[Path] = []
    monkeypatch.setattr("lmbench.jobs.join_ranks.launch_agent", lambda *_: found.append(Path.cwd()))
    assert join_ranks(run) == 1
    assert found == [elsewhere]


def test_a_rank_with_another_text_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(home, "train")
    job = Job(run, run.update(status="running"), run.config(), resuming=False)
    ranks = Ranks()
    monkeypatch.setattr(ranks, "agree", lambda decide: "0" * 32)
    with pytest.raises(LmbenchError, match=r"another text here than .*, there 000000000000\)"):
        train.work(job, ranks)
    job.close()


@pytest.mark.slow
def test_a_run_that_waits_for_a_machine_can_be_stopped(home: Home) -> None:
    run = new_run(home, "train", **TWO)
    launch.start(run, queue=False)
    until(lambda: f"give lmbench runs join {run.ref} there" in run.log_path.read_text())
    launch.request(run, "stop")
    assert wait(run) == "stopped"
    assert run.read().reason == "stopped at the user's request"


@pytest.mark.slow
def test_two_machines_make_the_weights_that_two_processes_of_one_make(home: Home) -> None:
    here = new_run(home, "train", **ONE)
    both, killed = (new_run(home, "train", **TWO) for _ in range(2))
    launch.start(here, queue=False)
    assert wait(here) == "finished", here.log_path.read_text()
    launch.start(both, queue=False)
    other = joined(both)
    assert wait(both) == "finished", both.log_path.read_text()
    assert other.wait() == 0, other.stderr and other.stderr.read()
    assert weights(both) == weights(here)

    launch.start(killed, queue=False)
    other = joined(killed)
    until(lambda: any(isinstance(e, Checkpoint) for e in read_events(killed.events_path)))
    other.kill()
    other.communicate()
    assert wait(killed) == "failed"
    assert killed.read().reason.startswith("a rank of another machine ended, and rank 0 of 2 with")
    launch.resume(killed, queue=False)
    other = joined(killed)
    assert wait(killed) == "finished", killed.log_path.read_text()
    other.communicate()
    assert other.returncode == 0
    assert weights(killed) == weights(here)
