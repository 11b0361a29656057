"""Sending runs to Ray: what is refused before anything is made, and what a driver and its tasks do
with runs. Ray itself is a stand-in here (tests/helpers/fake_ray)."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jobs_world import SITE, World
from sweep_world import write_sweep

from lmbench.cli import run as lmbench
from lmbench.jobs import launch
from lmbench.jobs.control_file import ask
from lmbench.jobs.places import PLACES, ray_task
from lmbench.jobs.places.ray import Ray
from lmbench.jobs.places.ray_task import work_on
from lmbench.session import Home, Run
from lmbench.session.process import python

FAKE = Path(__file__).parents[2] / "helpers" / "fake_ray"
GONE = f"{platform.node()}:999999999"


@pytest.fixture
def ray(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ray:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}:{SITE}")
    monkeypatch.setenv("FAKE_RAY_HOST", platform.node())
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    place = Ray()
    monkeypatch.setitem(PLACES, "ray", place)
    return place


def settings(text: str) -> None:
    (Path(os.environ["LMBENCH_CONFIG"]) / "places.toml").write_text(f"[ray]\n{text}\n")


def sent(world: World, behaviour: str = "count", total: int = 3) -> Run:
    return world.run(behaviour, total, place="ray")


def test_without_ray_a_command_names_the_extra_and_makes_nothing(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert lmbench(["train", "--data", "tiny", "--place", "ray"]) == 2
    said = "--place ray: Ray is not installed: pip install 'lmbench[ray]'"
    assert said in capfd.readouterr().err
    file = write_sweep(sweep_home.path)
    assert lmbench(["sweep", "start", str(file), "--place", "ray"]) == 2
    assert not sweep_home.sessions()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("none", "no Ray cluster runs on this machine: start one or join one"),
        (
            "versions",
            "the cluster has Ray 2.9.0 with Python 3.11.9, and here is Ray 2.60.0 with Python "
            "3.11.7: both have to be the same on all machines, Python to the patch",
        ),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_in_words(
    wrong: str, said: str, ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_RAY", wrong)
    assert said in str(ray.refusal(Home(tmp_path)))


def test_an_address_at_which_nothing_answers_is_refused_at_once(ray: Ray, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        settings(f'address = "{address}"')
        said = str(ray.refusal(Home(tmp_path)))
    assert f"no Ray cluster answers at {address}" in said
    assert f"address in {tmp_path / 'places.toml'}" in said


def test_what_no_node_can_hold_or_see_is_refused(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray.refusal(Home(tmp_path)) is None
    assert "Ray 2.60.0, 1 node, 2 CPUs, 0 GPUs" in ray.describe()
    settings("cpus = 4")
    assert "has the 4 CPUs and 0 GPUs that a run is given" in str(ray.refusal(Home(tmp_path)))
    settings("cpus = 2")
    monkeypatch.setenv("FAKE_RAY_HOST", "node7")
    assert "node7 and the other nodes cannot see" in str(ray.refusal(Home(tmp_path)))


def test_a_run_and_the_one_that_starts_from_it_are_worked_on_in_turn(
    ray: Ray, world: World
) -> None:
    settings('cpus = 2\nsetup = ["echo $OMP_NUM_THREADS threads"]')
    parent = sent(world)
    child = world.run(total=3, parent=parent, place="ray", point="prune 1")
    launch.start_all([parent, child])
    jobs = {run.read().job for run in (parent, child)}
    # What was submitted is not submitted again.
    launch.start_all([parent, child])
    assert {run.read().job for run in (parent, child)} == jobs
    world.until_status(child, "finished")
    records = [run.read() for run in (parent, child)]
    assert [record.status for record in records] == ["finished", "finished"]
    ended, started = records[0].ended, records[1].started
    assert ended is not None
    assert started is not None
    assert ended <= started
    assert len(jobs) == 1
    assert parent.log_path.read_text() == "2 threads\n"


def test_a_task_whose_node_dies_for_good_fails_its_run_and_stops_what_starts_from_it(
    ray: Ray, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_RAY", "node")
    waits, grandparent = sent(world), world.run()
    grandparent.update(status="stopped")
    child = world.run(parent=grandparent, place="ray", point="prune 1")
    launch.start_all([waits, child])
    world.until_status(child, "stopped")
    assert (waits.read().status, waits.read().reason) == (
        "failed",
        "its Ray task failed: its node died",
    )
    assert child.read().reason == f"run {grandparent.ref}, which it starts from, is stopped"


def test_a_task_that_ray_starts_again_takes_its_run_over(world: World) -> None:
    run = sent(world, total=5)
    run.update(status="running", job="h:1", host="a node that died", attempt=1, started=1.0)
    (run.path / ".attempt-1").mkdir()
    work_on(str(run.path), "h:1", [], {})
    record = run.read()
    assert (record.status, record.attempt, record.host) == ("finished", 2, platform.node())
    # A late copy of the task, or one of another driver, leaves it alone.
    work_on(str(run.path), "h:1", [], {})
    run.update(status="queued")
    work_on(str(run.path), "h:2", [], {})
    assert run.read().attempt == 2


def test_a_worker_that_dies_is_begun_again_three_times(world: World) -> None:
    run = sent(world, "fault")
    run.update(job="h:1")
    work_on(str(run.path), "h:1", [], {})
    assert (run.status(), run.read().attempt) == ("lost", 4)


def test_a_worker_is_killed_on_request_though_ray_is_not_asked(ray: Ray, world: World) -> None:
    run = sent(world, "deaf")
    launch.start(run)
    world.until_working(run)
    pid = world.pid(run)
    launch.request(run, "kill")
    assert run.status() == "stopped"
    world.until(lambda: pid not in {process.pid for process in world.processes()})


def test_a_request_to_kill_an_earlier_worker_does_not_reach_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_task, "_LOOK_S", 0.01)
    run = sent(world)
    run.update(job="h:1", started=1.0)
    ask(run, "kill")
    work_on(str(run.path), "h:1", [], {})
    assert run.status() == "finished"


def test_a_worker_ends_with_the_process_that_started_it(world: World) -> None:
    run = world.run("deaf")
    worker = shlex.join(python("lmbench.jobs.worker", str(run.path)))
    shell = subprocess.Popen(["bash", "-c", f"{worker} --parent $$ & wait"])
    world.until_working(run)
    os.kill(shell.pid, signal.SIGKILL)
    shell.wait()
    world.until(lambda: run.status() == "lost")


def test_runs_whose_driver_is_gone_are_told_of_and_submitted_anew(ray: Ray, world: World) -> None:
    followed, left, elsewhere = sent(world), sent(world), sent(world)
    for run, job in ((followed, GONE), (left, GONE), (elsewhere, "another host:1")):
        run.update(job=job)
    ray.poll([followed, elsewhere])
    assert followed.status() == "stopped"
    assert f"the driver of its Ray task ({GONE}) is gone: resume" in followed.read().reason
    launch.start_all([left, elsewhere])
    world.until_status(left, "finished")
    assert elsewhere.read().job == "another host:1"


@pytest.mark.parametrize("other", [["python", "another.py"], []], ids=["another", "the system's"])
def test_a_driver_that_linux_shows_no_command_of_yet_is_not_gone(
    ray: Ray, world: World, monkeypatch: pytest.MonkeyPatch, other: list[str]
) -> None:
    run = sent(world)
    run.update(job=f"{platform.node()}:{os.getpid()}")
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: [])
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time())
    ray.poll([run])
    ray.submit([run])
    assert run.read().status == "queued"
    assert run.read().job == f"{platform.node()}:{os.getpid()}"
    if other:
        monkeypatch.setattr(psutil.Process, "cmdline", lambda self: other)
    else:
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() - 100)
    ray.poll([run])
    assert run.read().status == "stopped"
