"""The driver of Ray tasks: ``python -m lmbench.jobs.places.ray_driver``.

Reads folders of queued runs from stdin, a JSON list, has Ray work on them (`ray_task`), each after
the one that it starts from, and leaves when all have ended. With ``--look`` it prints as JSON what
the cluster has, or why it cannot be used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmbench.errors import ERROR, LmbenchError
from lmbench.jobs.places.ray_task import work_on
from lmbench.jobs.places.settings import RaySettings, load_place_settings, places_path
from lmbench.jobs.places.task import MOST_DEATHS
from lmbench.jobs.queue import awaited_parent, is_queued
from lmbench.session.store import LIVE, Run, RunRecord, Status

__all__ = ["main"]

_CONNECT_S = 5.0
# Between two looks at which tasks have ended, and between two at which runs have left the queue.
_LOOK_S, _CANCEL_S = 2.0, 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--look", action="store_true", help="say what the cluster has")
    if parser.parse_args(arguments).look:
        try:
            found = _look()
        except LmbenchError as error:
            found = {"error": error.message}
        print(json.dumps(found))
        return 0
    text = sys.stdin.read()
    if not text:
        # Whoever started this one has died, or could not write down its number.
        return 0
    driver = _Driver([Run(Path(path)) for path in json.loads(text)])
    try:
        driver.drive()
    except Exception as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        for run in driver.left:
            driver.conclude(run, error)
        return 1
    return 0


def _connect(settings: RaySettings) -> Any:
    """The module ``ray``, connected to the cluster.

    Raises:
        LmbenchError: there is none, or not one for this Ray and this Python.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if settings.address:
        # Ray would try for two minutes.
        host, _, port = settings.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise LmbenchError(
                f"no Ray cluster answers at {settings.address} ({error}): address in "
                f"{places_path()} is that of its head node"
            ) from None
    try:
        ray = importlib.import_module("ray")
        ray.init(address=settings.address or "auto", log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:
        raise LmbenchError(_why_not(error, settings)) from None
    return ray


def _why_not(error: BaseException, settings: RaySettings) -> str:
    if isinstance(error, ConnectionError) and not settings.address:
        return (
            "no Ray cluster runs on this machine: start one or join one (ray start), or name its "
            f"head node in {places_path()}"
        )
    words = " ".join(str(error).split())
    versions = re.findall(r"(?:Ray|Python): (\S+)", words)
    if words.startswith("Version mismatch") and len(versions) == 4:
        return (
            "the cluster has Ray {} with Python {}, and here is Ray {} with Python {}: both have "
            "to be the same on all machines, Python to the patch".format(*versions)
        )
    return f"Ray: {words or type(error).__name__}"


def _look() -> dict[str, Any]:
    ray = _connect(load_place_settings().ray)
    nodes = [
        {
            "host": node["NodeManagerHostname"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
    return {"ray": ray.__version__, "nodes": nodes}


class _Driver:
    """Some runs as tasks of Ray; `left` are those whose task has not ended."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.left = list(runs)
        self._job = f"{platform.node()}:{os.getpid()}"

    def drive(self) -> None:
        settings = load_place_settings().ray
        ray = _connect(settings)
        tasks = self._submit(ray, settings)
        cancel_at = time.monotonic() + _CANCEL_S
        while tasks:
            ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_LOOK_S)
            done = set(ended)
            # In the order of submission: of two that failed the second may start from the first.
            for task in [task for task in tasks if task in done]:
                run = tasks.pop(task)
                self.left.remove(run)
                try:
                    ray.get(task)
                except Exception as error:
                    self.conclude(run, error)
            if time.monotonic() >= cancel_at:
                for task, run in tasks.items():
                    if self._has_left(run):
                        ray.cancel(task)
                cancel_at = time.monotonic() + _CANCEL_S

    def _submit(self, ray: Any, settings: RaySettings) -> dict[Any, Run]:
        remote = ray.remote(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=MOST_DEATHS
        )(work_on)
        ours = {name: value for name, value in os.environ.items() if name.startswith("LMBENCH_")}
        # Ray makes it 1, or the CPUs of the task, only where its own worker's has none.
        environment = ours | {"OMP_NUM_THREADS": str(settings.cpus)}
        by_ref: dict[str, Any] = {}
        tasks: dict[Any, Run] = {}
        for run in self.left:
            # A parent is made before its children.
            record = run.read_if_readable()
            parent = by_ref.get(record.parent) if record and record.parent else None
            awaited = [] if parent is None else [parent]
            task = remote.options(name=run.ref).remote(
                str(run.path), self._job, settings.setup, environment, *awaited
            )
            by_ref[run.ref] = task
            tasks[task] = run
        return tasks

    def _has_left(self, run: Run) -> bool:
        """Is there nothing to do any more for its task, which may still wait?"""
        record = run.read_if_readable()
        # Where its folder is gone, or its record damaged, the task says so.
        return record is not None and (record.job != self._job or record.status == "stopped")

    def _is_ours(self, record: RunRecord) -> bool:
        return record.job == self._job and (is_queued(record) or record.status in LIVE)

    def conclude(self, run: Run, error: Exception) -> None:
        """Write the end of a run whose task ended by an error, if it can be written."""
        with suppress(OSError, LmbenchError):
            parent = awaited_parent(run)
            status: Status = "lost" if run.read().status in LIVE else "failed"
            reason = f"its Ray task failed: {_last_line(error)}"
            if isinstance(error, LmbenchError):
                reason = error.message
            elif parent is not None:
                status = "stopped"
                reason = f"run {parent.ref}, which it starts from, is {parent.status()}"
            run.transition(status, only_if=self._is_ours, reason=reason)


def _last_line(error: Exception) -> str:
    """Of a task's error that comes after its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
