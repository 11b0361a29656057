"""Starting the processes that train one model together, and waiting for their end.

Torch's elastic launcher starts them, numbers them, and ends all of them when one has died. The
worker that calls it keeps the run's record; rank 0 writes what the training finds out. A gang that
was ended is not started again here: the run is resumed as any other is.
"""

from __future__ import annotations

import logging
import platform
import shlex
import signal
import sys
import tempfile
import time
from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, Any

from lmbench.config import TrainConfig
from lmbench.errors import RESUME, LmbenchError
from lmbench.jobs.control_file import ask, is_to_end
from lmbench.jobs.exit_reasons import why_ended
from lmbench.jobs.job import Job
from lmbench.jobs.rendezvous import Rendezvous, announce, missing_nodes
from lmbench.report.numbers import plural
from lmbench.session.attempts import check_attempt
from lmbench.session.process import python
from lmbench.session.store import LIVE, Run

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

__all__ = ["RankError", "launch_agent", "launch_ranks"]

_POLL_S = 0.2
# An error of these libraries says that another rank is gone, whose own end is the reason.
_COLLECTIVES = ("gloo", "nccl", "connection")


class RankError(Exception):
    """A rank ended by an error that is no mistake of the user's; its traceback is in the log."""


def launch_ranks(job: Job, config: TrainConfig) -> None:
    """Have a run worked on by `config.gpus` processes of this machine, and of each of the others
    that join where `config.nodes` says so, and wait for their end.

    Raises:
        LmbenchError: one of them found what the user can mend, or was killed.
        RankError: one of them failed otherwise.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            _launch(job, config)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    # In the main thread the launcher would take SIGTERM for itself, by which the worker is stopped.
    Thread(target=run, daemon=True).start()
    stop_sent = False
    # Not by the future's own timeout: a file system that times out raises the same error.
    while not wait([done], _POLL_S).done:
        if job.stop_requested and not stop_sent:
            ask(job.run, "end")
            stop_sent = True
    done.result()
    # What rank 0 has written there is this job's from now on.
    job.add_results(**job.update().results)
    # A stop that comes after the last epoch comes too late.
    done_all = job.record.results.get("epochs", 0) >= config.epochs
    job.stopped = is_to_end(job.run) and not done_all


def _launch(job: Job, config: TrainConfig) -> None:
    from torch.distributed.elastic.utils.distributed import get_free_port

    host = "127.0.0.1" if config.nodes == 1 else platform.node()
    rendezvous = Rendezvous(f"{host}:{get_free_port()}", job.resuming)
    if config.nodes == 1 or _have_joined(job.run, config.nodes, rendezvous):
        launch_agent(job.run, config, rendezvous)


def _have_joined(run: Run, nodes: int, rendezvous: Rendezvous) -> bool:
    assert run.staging is not None
    announce(run.staging, rendezvous)
    missing = missing_nodes(run.staging, nodes)
    join = f"lmbench runs join {shlex.quote(run.ref)}"
    print(f"waits for {plural(missing, 'machine')} to join: give {join} there", flush=True)
    return all_joined(run, nodes)


def all_joined(run: Run, nodes: int) -> bool:
    """Wait until all machines are there; False where the run is stopped or ends before."""
    assert run.staging is not None
    while missing_nodes(run.staging, nodes):
        check_attempt(run.staging)
        if is_to_end(run) or run.status() not in LIVE:
            return False
        time.sleep(_POLL_S)
    return True


def launch_agent(run: Run, config: TrainConfig, rendezvous: Rendezvous, node: int = 0) -> None:
    """Start the ranks of this machine, the one of number `node`, and wait for their end.

    Args:
        run: of the attempt that the first machine's worker is.

    Raises:
        LmbenchError: one of them found what the user can mend, or was killed.
        RankError: one of them failed otherwise.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It tells of each process that ended, at length; the run's log has one line about it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments = [str(run.path), str(run.staging), *["--resuming"] * rendezvous.resuming]
    command = python("lmbench.jobs.rank", *arguments)
    # Its name is of those that `remove_leftovers` clears away, should this process be killed.
    with tempfile.TemporaryDirectory(prefix=".ranks.", suffix=".tmp", dir=run.path) as folder:
        launch = LaunchConfig(
            min_nodes=config.nodes,
            max_nodes=config.nodes,
            nproc_per_node=config.gpus,
            run_id=run.path.name,
            rdzv_backend="static",
            rdzv_endpoint=rendezvous.endpoint,
            rdzv_configs={"rank": node},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(launch, sys.executable)(*command[1:])
        except ChildFailedError as error:
            raise _reason(error.failures, config.processes, nodes=config.nodes) from None


def _reason(
    failures: dict[int, ProcessFailure], count: int, *, nodes: int = 1
) -> LmbenchError | RankError:
    """Why the gang ended: the failure, of those on this machine, that the others follow from."""
    rank, failure = min(failures.items(), key=lambda item: (_follows(item[1]), item[0]))
    if failure.exitcode < 0 or not _message(failure):
        return LmbenchError(
            f"rank {rank} of {count} ended, and the others with it "
            f"({why_ended(failure.exitcode)}); {RESUME} to go on from its last checkpoint"
        )
    if nodes > 1 and _follows(failure) == 2:
        return LmbenchError(
            f"a rank of another machine ended, and rank {rank} of {count} with it (lmbench runs "
            f"join says there why); {RESUME} to go on from its last checkpoint"
        )
    kind, _, words = _message(failure).partition(": ")
    if kind == LmbenchError.__name__:
        return LmbenchError(*words.split("\n"))
    return RankError(f"rank {rank} of {count}: {kind}: {words}")


def _follows(failure: ProcessFailure) -> int:
    """How likely it is that a failure only followed from another one's."""
    message = _message(failure)
    if failure.exitcode < 0:
        # By SIGTERM the launcher ends the others.
        return 2 if failure.exitcode == -signal.SIGTERM else 0
    return 2 if any(word in message.lower() for word in _COLLECTIVES) else 1


def _message(failure: ProcessFailure) -> str:
    """What a rank wrote of its error: its class and its words; "" where it wrote nothing."""
    data: Any = failure.error_file_data
    message = data.get("message", {}) if isinstance(data, dict) else {}
    return str(message.get("message", "")) if isinstance(message, dict) else ""
