"""The machines of a Ray cluster: a task of Ray Core for each run.

`lmbench.jobs.places.ray_driver`, a process of its own session for each submission, holds the
connection to the cluster, since Ray ends the tasks of a driver that is gone. What becomes of a run
is in its folder. Ray itself is imported only there: never in this process, nor in a run's worker.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import psutil

from lmbench.errors import LmbenchError
from lmbench.jobs.places.interface import Place
from lmbench.jobs.places.settings import load_place_settings, places_path
from lmbench.jobs.queue import is_queued
from lmbench.report.numbers import plural
from lmbench.session.process import python
from lmbench.session.shared_folder import unseen_from
from lmbench.session.store import Home, Run

__all__ = ["DRIVER", "Ray"]

DRIVER = "lmbench.jobs.places.ray_driver"
_NOT_INSTALLED = "Ray is not installed: pip install 'lmbench[ray]'"
_ANSWER_S = 90.0
_STARTING_S = 60.0


class Ray(Place):
    name = "ray"
    look_s = 2.0

    def __init__(self) -> None:
        # Drivers that this process started, kept so that each is reaped when it has ended.
        self._drivers: list[subprocess.Popen[bytes]] = []
        self._found: dict[str, Any] = {}

    def refusal(self, home: Home) -> str | None:
        if importlib.util.find_spec("ray") is None:
            return _NOT_INSTALLED
        try:
            settings = load_place_settings().ray
            self._found = found = _look()
        except LmbenchError as error:
            return error.message
        nodes = found["nodes"]
        if not any(n["cpus"] >= settings.cpus and n["gpus"] >= settings.gpus for n in nodes):
            return (
                f"no node of the Ray cluster has the {settings.cpus} CPUs and {settings.gpus} GPUs "
                f"that a run is given (cpus and gpus in {places_path()})"
            )
        return unseen_from(home.path, [node["host"] for node in nodes])

    def describe(self) -> str:
        nodes = self._found["nodes"]
        have = [plural(len(nodes), "node")]
        for what, noun in (("cpus", "CPU"), ("gpus", "GPU")):
            have.append(plural(round(sum(node[what] for node in nodes)), noun))
        return f"Ray {self._found['ray']}, {', '.join(have)}; settings: {places_path()}"

    def submit(self, runs: Sequence[Run], *, queue: bool = True) -> None:
        """The driver gets the runs once its number is in their records: a task leaves those alone
        that name another."""
        waiting = [run for run in runs if _waits(run)]
        if not waiting:
            return
        if importlib.util.find_spec("ray") is None:
            raise LmbenchError(_NOT_INSTALLED)
        self._drivers = [driver for driver in self._drivers if driver.poll() is None]
        driver = _start(waiting[0])
        assert driver.stdin is not None
        try:
            for run in waiting:
                run.update(job=f"{platform.node()}:{driver.pid}")
            with driver.stdin as pipe:
                pipe.write(json.dumps([str(run.path) for run in waiting]).encode())
        except BaseException:
            driver.kill()
            driver.wait()
            raise
        self._drivers.append(driver)

    def poll(self, runs: Sequence[Run]) -> None:
        for run in runs:
            record = run.read()
            job = record.job
            if is_queued(record) and job and _is_gone(job):
                reason = f"the driver of its Ray task ({job}) is gone: resume the run"
                run.transition(
                    "stopped", only_if=lambda r, j=job: is_queued(r) and r.job == j, reason=reason
                )

    def stop(self, run: Run) -> None:
        """Nothing to do: the driver cancels the task of a run that has left the queue, and a task
        kills the worker of a run that is asked to, which no request to Ray would reach."""


def _look() -> dict[str, Any]:
    """What `lmbench.jobs.places.ray_driver` says of the cluster.

    Raises:
        LmbenchError: it cannot be used; says why.
    """
    command = python(DRIVER, "--look")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_ANSWER_S
        )
    except subprocess.TimeoutExpired:
        raise LmbenchError(f"the Ray cluster does not answer within {_ANSWER_S:g} s") from None
    except OSError as error:
        raise LmbenchError(f"Ray: {error}") from None
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise LmbenchError(f"Ray: {said[-1] if said else f'exit code {done.returncode}'}") from None
    if "error" in found:
        raise LmbenchError(found["error"])
    return found


def _start(run: Run) -> subprocess.Popen[bytes]:
    try:
        with run.log_path.open("ab") as log:
            return subprocess.Popen(
                python(DRIVER),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Ray's workers look for modules in the folder of their driver; here are none.
                cwd=run.path,
                env=os.environ | {"LMBENCH_HOME": str(run.home.path)},
            )
    except OSError as error:
        raise LmbenchError(f"run {run.ref} cannot be started: {error}") from None


def _waits(run: Run) -> bool:
    """Is it to be submitted: not yet, or by a driver that has died since?"""
    record = run.read()
    return is_queued(record) and (not record.job or _is_gone(record.job))


def _is_gone(job: str) -> bool:
    """Has the driver of a job died? One of another machine is believed to live."""
    host, _, pid = job.rpartition(":")
    if host != platform.node() or not pid.isdecimal():
        return False
    try:
        process = psutil.Process(int(pid))
        command, age = process.cmdline(), time.time() - process.create_time()
    except psutil.Error:
        return True
    # Linux shows none yet of a process that is just being started, and none ever of its own.
    return DRIVER not in command and (bool(command) or age > _STARTING_S)
