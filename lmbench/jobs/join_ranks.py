"""This machine's part in a run that several machines work on (``--nodes``). No torch here."""

from __future__ import annotations

import os
import signal
import time

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs.launch_ranks import RankError, all_joined, launch_agent
from lmbench.jobs.prepare import check_gpus
from lmbench.jobs.rendezvous import (
    Rendezvous,
    give_number_back,
    read_rendezvous,
    take_number,
)
from lmbench.session.attempts import attempt_folder
from lmbench.session.process import return_to
from lmbench.session.store import LIVE, Run
from lmbench.training.thread_environment import worker_environment

__all__ = ["join_ranks"]

_LOOK_S = 0.5


def join_ranks(run: Run) -> int:
    """Wait until the first machine's worker waits for others, and train until the run ends, is
    stopped or fails; gives this machine's number.

    Raises:
        LmbenchError: the run is not one of several machines, has all of them, or has ended; or one
            of its processes here failed.
    """
    config = run.config()
    if not isinstance(config, TrainConfig) or config.nodes == 1:
        raise LmbenchError(
            f"run {run.ref} is one of a single machine: --nodes makes one of several"
        )
    check_gpus(config)
    attempt, rendezvous = _wait(run)
    run = Run(run.path, attempt_folder(run.path, attempt))
    assert run.staging is not None
    node = take_number(run.staging, config.nodes)
    if node is None:
        raise LmbenchError(f"run {run.ref} has all of its {config.nodes} machines")
    try:
        # torch's own wait sees no stop, and lets nobody else have the number.
        if not all_joined(run, config.nodes):
            return node
    except BaseException:
        give_number_back(run.staging, node)
        raise
    return_to(run.read().cwd)
    os.environ.update(worker_environment())
    try:
        launch_agent(run, config, rendezvous, node)
    except RankError as error:
        # Its traceback has been printed.
        raise LmbenchError(str(error)) from None
    except Exception as error:
        # The launcher's own form of Ctrl-C.
        if getattr(error, "sigval", None) == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    return node


def _wait(run: Run) -> tuple[int, Rendezvous]:
    """The number of the run's attempt, and where its first machine waits."""
    while True:
        record = run.read()
        status = run.status(record)
        if status in LIVE:
            found = read_rendezvous(attempt_folder(run.path, record.attempt))
            if found is not None:
                return record.attempt, found
        elif status != "queued":
            raise LmbenchError(f"run {run.ref} is {status}: start or resume it, then join")
        time.sleep(_LOOK_S)
