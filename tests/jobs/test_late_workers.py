"""A worker that was taken for lost and comes back to life after another has taken its run over."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest
from jobs_world import World

from lmbench.jobs import launch
from lmbench.jobs.control_file import ask
from lmbench.session import Run
from lmbench.session.attempts import attempt_folder
from lmbench.session.process import python


def stopped(run: Run, worker: subprocess.Popen[bytes], world: World) -> None:
    """Stop a worker in the midst of its work; for all others it is of another machine, and lost."""
    world.until(lambda: run.checkpoint("last") is not None)
    os.kill(worker.pid, signal.SIGSTOP)
    world.until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
    run.update(host="elsewhere")
    os.utime(attempt_folder(run.path, 1) / "heartbeat", (1.0, 1.0))


def everything(run: Run) -> dict[str, bytes]:
    left_out = ("log.txt", "heartbeat", ".lock")
    files = (p for p in run.path.rglob("*") if p.is_file() and p.name not in left_out)
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files}


@pytest.mark.parametrize("word", ["", "checkpoint", "stop", "pause"])
def test_a_late_worker_changes_nothing(word: str, world: World) -> None:
    run = world.run()
    with run.log_path.open("ab") as log:
        late = subprocess.Popen(python("lmbench.jobs.worker", str(run.path)), stderr=log)
    world.until_working(run)
    ask(run, "checkpoint")
    stopped(run, late, world)
    assert run.status() == "lost"
    assert launch.why_lost(run).startswith("no sign of life from elsewhere since 1970-01-01")

    launch.resume(run)
    world.until(lambda: run.read().attempt == 2)
    counted = len(world.counted(run))
    world.until(lambda: len(world.counted(run)) > counted)
    launch.request(run, "stop")
    world.until_status(run, "stopped")
    before = everything(run)
    if word:
        run.control_path.write_text(f"{word}\n")
        before["control"] = f"{word}\n".encode()
    os.kill(late.pid, signal.SIGCONT)
    assert late.wait() == 0
    assert everything(run) == before
    assert run.read().attempt == 2
    [said] = [line for line in run.log_path.read_text().splitlines() if "newer attempt" in line]
    assert said == (
        "error: a newer attempt at this run has begun, so this one (1) ends and changes nothing "
        f"({run.path})"
    )
    numbers = world.counted(run)
    assert numbers == [float(n) for n in range(1, len(numbers) + 1)]


def test_each_resume_is_a_new_attempt(world: World) -> None:
    run = world.run()
    launch.start(run)
    for number in (1, 2):
        world.until(lambda: run.read().status == "running")
        counted = len(world.counted(run))
        world.until(lambda counted=counted: len(world.counted(run)) > counted)
        assert run.read().attempt == number
        launch.request(run, "stop")
        world.until_status(run, "stopped")
        launch.resume(run)
    world.until(lambda: run.read().attempt == 3)
    world.until(lambda: [p.name for p in run.path.glob(".attempt-*")] == [".attempt-3"])
