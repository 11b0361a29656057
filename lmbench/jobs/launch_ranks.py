"""Starting the processes that train one model together, and waiting for their end.

Torch's elastic launcher starts them, numbers them, and ends all of them when one has died. The
worker that calls it keeps the run's record; rank 0 writes what the training finds out. A gang that
was ended is not started again here: the run is resumed as any other is.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any

from lmbench.config import TrainConfig
from lmbench.errors import RESUME, LmbenchError
from lmbench.jobs.control_file import ask, asked
from lmbench.jobs.exit_reasons import why_ended
from lmbench.jobs.job import Job
from lmbench.jobs.supervisor import python

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

__all__ = ["RankError", "launch_ranks"]

_POLL_S = 0.2
# An error of these libraries says that another rank is gone, whose own end is the reason.
_COLLECTIVES = ("gloo", "nccl", "connection")


class RankError(Exception):
    """A rank ended by an error that is no mistake of the user's; its traceback is in the log."""


def launch_ranks(job: Job, config: TrainConfig) -> None:
    """Have a run worked on by `config.gpus` processes of this machine, and wait for their end.

    Raises:
        LmbenchError: one of them found what the user can mend, or was killed.
        RankError: one of them failed otherwise.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            _launch(job, config.gpus)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    # In the main thread the launcher would take SIGTERM for itself, by which the worker is stopped.
    Thread(target=run, daemon=True).start()
    told = False
    while True:
        try:
            done.result(timeout=_POLL_S)
            break
        except TimeoutError:
            if job.stop_requested and not told:
                ask(job.run, "stop")
                told = True
    # What rank 0 has written there is this job's from now on.
    job.add_results(**job.update().results)
    job.stopped = "stop" in asked(job.run)


def _launch(job: Job, gpus: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.utils.distributed import get_free_port
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It tells of each process that ended, at length; the run's log has one line about it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = [str(job.run.path), *(["--resuming"] if job.resuming else [])]
    command = python("lmbench.jobs.rank", *arguments)
    # Its name is of those that `remove_leftovers` clears away, should this process be killed.
    with tempfile.TemporaryDirectory(prefix=".ranks.", suffix=".tmp", dir=job.run.path) as folder:
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=gpus,
            run_id=job.run.path.name,
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{get_free_port()}",
            rdzv_configs={"rank": 0},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(launch, sys.executable)(*command[1:])
        except ChildFailedError as error:
            raise _reason(error.failures, gpus) from None


def _reason(failures: dict[int, ProcessFailure], count: int) -> LmbenchError | RankError:
    """Why the gang ended: the failure that the others follow from."""
    rank, failure = min(failures.items(), key=lambda item: (_follows(item[1]), item[0]))
    if failure.exitcode < 0 or not _message(failure):
        return LmbenchError(
            f"rank {rank} of {count} ended, and the others with it "
            f"({why_ended(failure.exitcode)}); {RESUME} to go on from its last checkpoint"
        )
    kind, _, words = _message(failure).partition(": ")
    if kind == LmbenchError.__name__:
        return LmbenchError(*words.split("\n"))
    return RankError(f"rank {rank} of {count}: {kind}: {words}")


def _follows(failure: ProcessFailure) -> int:
    """How likely it is that a failure only followed from another one's."""
    message = _message(failure)
    if failure.exitcode < 0:
        return 0
    return 2 if any(word in message.lower() for word in _COLLECTIVES) else 1


def _message(failure: ProcessFailure) -> str:
    """What a rank wrote of its error: its class and its words; "" where it wrote nothing."""
    data: Any = failure.error_file_data
    message = data.get("message", {}) if isinstance(data, dict) else {}
    return str(message.get("message", "")) if isinstance(message, dict) else ""
