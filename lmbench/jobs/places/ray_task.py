"""One run as a task of Ray: starts the run's worker on a node and sees it to its end.

A worker that dies is started again here; where the node dies, Ray starts the task again on another
one. Either way the run goes on from its last checkpoint, by a new attempt.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lmbench.jobs.control_file import asked
from lmbench.jobs.launch import take_over
from lmbench.jobs.places.task import MOST_DEATHS, is_to_begin
from lmbench.jobs.queue import is_queued
from lmbench.jobs.supervisor import conclude
from lmbench.session.process import python
from lmbench.session.store import LIVE, Run

__all__ = ["work_on"]

_LOOK_S = 1.0


def work_on(
    folder: str, job: str, setup: Sequence[str], environment: Mapping[str, str], *_awaited: None
) -> None:
    """Work on a run until it has ended; not at all where it is not this job's, or does not wait.

    Args:
        folder: that of the run, which all machines share.
        setup: lines of bash that come before the worker.
        environment: variables of the worker's.
        _awaited: results of the tasks that come first, which Ray waits for.
    """
    run = Run(Path(folder))
    # Begun before, on a node that has died since.
    again = run.read().status in LIVE
    if not is_to_begin(run, job, again=again):
        return
    for deaths in range(MOST_DEATHS + 1):
        attempt = run.read().attempt
        worker = _start(run, setup, os.environ | environment)
        code = _end_of(worker, run, job)
        if code >= 0 or deaths == MOST_DEATHS or not take_over(run, job):
            conclude(run, worker.pid, code, attempt)
            return


def _start(
    run: Run, setup: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    worker = python("lmbench.jobs.worker", str(run.path), "--parent", str(os.getpid()))
    with run.log_path.open("ab") as log:
        return subprocess.Popen(
            ["bash", "-c", "\n".join([*setup, 'exec "$@"']), "bash", *worker],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _end_of(worker: subprocess.Popen[bytes], run: Run, job: str) -> int:
    """The exit code of a worker, which is killed where the user asks for it."""
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return worker.wait(_LOOK_S)
            if _is_to_end(run, job):
                worker.kill()
    except BaseException:
        # Ray has cancelled the task.
        worker.kill()
        raise


def _is_to_end(run: Run, job: str) -> bool:
    """Is the worker to be killed: at the user's request, or since the run has another job now?"""
    record = run.read_if_readable()
    if record is None:
        # A file system that is away for a moment may be back at the next look.
        return False
    # Until the worker has claimed the run, requests are those to an earlier one.
    return record.job != job or (not is_queued(record) and "kill" in asked(run))
