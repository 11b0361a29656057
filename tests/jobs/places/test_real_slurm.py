"""A sweep on a real Slurm of two nodes, one of its workers killed while it trains."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import waiting
from slurm_world import Cluster
from sweep_world import SWEEP, write_sweep

from lmbench.cli import run as lmbench
from lmbench.jobs.sweeps.control import made_runs
from lmbench.session import Home, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
LIMIT_S = 900.0
LONG = SWEEP.replace("epochs: 2,", "epochs: 60, checkpoint_every: 0.02,")


def weights(run: Run) -> bytes:
    return (run.path / "best" / "model.safetensors").read_bytes()


def amid_training(runs: dict[str, Run]) -> list[Run]:
    found = [r for r in runs.values() if r.checkpoint("last") and r.read().status == "running"]
    return [run for run in found if run.read().pid]


def test_a_sweep_on_slurm_equals_one_of_this_machine_though_a_worker_is_killed(
    slurm: Cluster, sweep_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    file = write_sweep(sweep_home.path, LONG)
    assert lmbench(["sweep", "start", str(file), "--place", "slurm", "--detach"]) == 0
    runs = made_runs(sweep_home.session("study"))
    # The last of an array, whose job has the number of the whole array.
    killed = runs["train 2"]
    waiting.until(lambda: killed in amid_training(runs), slurm.logs, limit_s=LIMIT_S)
    pid = killed.read().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    def ended() -> bool:
        return all(run.status() not in ("queued", "running") for run in runs.values())

    def told() -> str:
        return "\n".join([slurm.logs(), *(f"{r.ref}: {r.read()}" for r in runs.values())])

    waiting.until(ended, told, limit_s=LIMIT_S, every_s=0.5)
    assert {run.status() for run in runs.values()} == {"finished"}, told()
    attempts = [run.read().attempt for run in runs.values()]
    assert attempts == [1, 2, 1, 1, 1, 1], killed.log_path.read_text()
    assert "goes back into the queue of Slurm" in killed.log_path.read_text()

    assert lmbench(["sweep", "start", str(file), "--session", "here"]) == 0
    here = made_runs(sweep_home.session("here"))
    assert here.keys() == runs.keys()
    assert all(weights(runs[point]) == weights(here[point]) for point in here)


def test_what_is_stopped_leaves_slurms_queue(
    slurm: Cluster, sweep_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    endless = LONG.replace("epochs: 60", "epochs: 100000")
    file = write_sweep(sweep_home.path, endless)
    assert lmbench(["sweep", "start", str(file), "--place", "slurm", "--detach"]) == 0
    runs = made_runs(sweep_home.session("study"))
    waiting.until(lambda: amid_training(runs), slurm.logs, limit_s=LIMIT_S)
    assert lmbench(["sweep", "stop", "study"]) == 0
    queue = ("squeue", "--noheader", "--array", "--format=%i %T")
    waiting.until(lambda: not slurm.ask(*queue), lambda: slurm.ask(*queue), limit_s=LIMIT_S)
    assert {run.status() for run in runs.values()} == {"stopped"}
