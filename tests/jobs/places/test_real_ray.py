"""A sweep on a real Ray cluster of two nodes, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import waiting
from ray_world import Cluster
from sweep_world import SWEEP, write_sweep

from lmbench.cli import run as lmbench
from lmbench.jobs import launch
from lmbench.jobs.sweeps.control import made_runs
from lmbench.session import Home, Run
from lmbench.session.process import process_started
from lmbench.session.store import LIVE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
LIMIT_S = 900.0
LONG = SWEEP.replace("epochs: 2,", "epochs: 60, checkpoint_every: 0.02,")
ENDLESS = LONG.replace("epochs: 60", "epochs: 100000")


@pytest.fixture
def cluster(ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    (tmp_path / "places.toml").write_text(f'[ray]\naddress = "{ray_cluster.address}"\n')
    return ray_cluster


def started(home: Home, text: str) -> dict[str, Run]:
    file = write_sweep(home.path, text)
    assert lmbench(["sweep", "start", str(file), "--place", "ray", "--detach"]) == 0
    return made_runs(home.session("study"))


def told(cluster: Cluster, runs: dict[str, Run]) -> str:
    return "\n".join([cluster.logs(), *(f"{r.ref}: {r.read()}" for r in runs.values())])


def amid_training(runs: dict[str, Run]) -> list[Run]:
    return [r for r in runs.values() if r.checkpoint("last") and r.read().status == "running"]


def weights(run: Run) -> bytes:
    return (run.path / "best" / "model.safetensors").read_bytes()


def test_a_sweep_on_ray_equals_one_of_this_machine_though_a_node_is_killed(
    cluster: Cluster, sweep_home: Home
) -> None:
    runs = started(sweep_home, LONG)

    def on_the_other() -> list[Run]:
        return [run for run in amid_training(runs) if cluster.works_on(run, "other")]

    waiting.until(on_the_other, lambda: told(cluster, runs), limit_s=LIMIT_S)
    killed = on_the_other()[0]
    pid = killed.read().pid
    assert pid is not None
    cluster.kill("other")

    def ended() -> bool:
        return all(run.status() not in ("queued", *LIVE, "lost") for run in runs.values())

    waiting.until(lambda: process_started(pid) is None, "the worker outlives its node")
    waiting.until(ended, lambda: told(cluster, runs), limit_s=LIMIT_S, every_s=0.5)
    assert {run.status() for run in runs.values()} == {"finished"}, told(cluster, runs)
    attempts = {run: run.read().attempt for run in runs.values()}
    assert attempts == dict.fromkeys(runs.values(), 1) | {killed: 2}

    assert (
        lmbench(["sweep", "start", str(sweep_home.path / "sweep.yaml"), "--session", "here"]) == 0
    )
    here = made_runs(sweep_home.session("here"))
    assert here.keys() == runs.keys()
    assert all(weights(runs[point]) == weights(here[point]) for point in here)


def test_workers_end_with_what_started_them_and_at_the_users_request(
    cluster: Cluster, sweep_home: Home
) -> None:
    runs = started(sweep_home, ENDLESS)
    waiting.until(lambda: amid_training(runs), lambda: told(cluster, runs), limit_s=LIMIT_S)
    first = amid_training(runs)[0]
    pid, driver = first.read().pid, int(first.read().job.rpartition(":")[2])
    assert pid is not None
    launch.request(first, "kill")
    waiting.until(lambda: process_started(pid) is None, lambda: told(cluster, runs))
    assert first.read().status == "stopped"

    second = runs["train 1"] if first == runs["train 2"] else runs["train 2"]
    waiting.until(
        lambda: second in amid_training(runs), lambda: told(cluster, runs), limit_s=LIMIT_S
    )
    os.kill(driver, signal.SIGKILL)
    waiting.until(lambda: second.status() == "lost", lambda: told(cluster, runs))
    # Taken up by another driver, at its checkpoint.
    assert lmbench(["sweep", "resume", "study", "--detach"]) == 0
    both = [first, second]
    waiting.until(
        lambda: any(run.read().attempt == 2 and run in amid_training(runs) for run in both),
        lambda: told(cluster, runs),
        limit_s=LIMIT_S,
    )
    assert lmbench(["sweep", "stop", "study"]) == 0
    waiting.until(
        lambda: {run.status() for run in runs.values()} == {"stopped"}, lambda: told(cluster, runs)
    )
    drivers = {int(run.read().job.rpartition(":")[2]) for run in runs.values()}
    waiting.until(lambda: not any(map(process_started, drivers)), limit_s=LIMIT_S)
