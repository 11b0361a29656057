"""A kind of run that computes nothing. `runtime` says how it behaves, `tokens` for how long."""

import ctypes
import os
import sys
import time
from pathlib import Path

from lmbench.config import EvaluateConfig
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.session.events import Progress, RunResumed
from lmbench.session.files import fresh_folder, fsync_folder, read_json, swap_in, write_json

TICK_S = 0.01


class OutOfMemoryError(RuntimeError):
    """As torch's: known by its name alone."""


def work(job: Job) -> None:
    assert isinstance(job.config, EvaluateConfig)
    globals()[job.config.runtime](job, job.config.tokens)


def count(job: Job, total: int) -> None:
    """Count to `total` (0: for ever); stops, and goes on from a checkpoint, exactly."""
    number = 0
    if job.resuming:
        folder = job.run.checkpoint("last")
        assert folder is not None
        state = read_json(folder / "trainer.json", version=1)
        number = state["number"]
        job.emit(RunResumed(offset=state["offset"], step=number, epoch=1))
    while not total or number < total:
        number += 1
        job.emit(Progress(what="count", done=float(number), total=float(total)))
        wish = job.control()
        if wish is not None:
            save(job, number)
        if wish == "stop":
            break
        time.sleep(TICK_S)
    job.add_results(number=number, test_ppl=float("inf"), valid_ppl=12.5)


def save(job: Job, number: int) -> None:
    fresh = fresh_folder(job.run.path / "last", job.run.staging)
    document = {"version": 1, "number": number, "offset": job.events_offset}
    write_json(fresh / "trainer.json", document)
    fsync_folder(fresh)
    swap_in(fresh, job.run.path / "last")


def deaf(job: Job, total: int) -> None:
    """Never does what the user wants; says when it has heard of it."""
    job.emit(Progress(what="deaf", done=0.0, total=0.0))
    while not job.stop_requested:
        time.sleep(TICK_S)
    job.emit(Progress(what="heard", done=0.0, total=0.0))
    while True:
        time.sleep(TICK_S)


def look(job: Job, total: int) -> None:
    """Say what the process is like."""
    print("to stdout")
    print("to stderr", file=sys.stderr)
    job.warn("mind the gap")
    job.add_results(
        cwd=str(Path.cwd()),
        torch="torch" in sys.modules,
        kinds=sorted(m for m in sys.modules if m.startswith("lmbench.jobs.kinds.")),
        session=os.getsid(0),
        pid=os.getpid(),
        stdin=sys.stdin.read(),
        home=str(job.home.path),
    )


def fail(job: Job, total: int) -> None:
    raise ZeroDivisionError("nothing to\ndivide by")


def refuse(job: Job, total: int) -> None:
    raise LmbenchError("corpus x: file y is missing; put it there")


def out_of_gpu_memory(job: Job, total: int) -> None:
    raise OutOfMemoryError("tried to allocate 7 GiB")


def out_of_memory(job: Job, total: int) -> None:
    raise MemoryError


def fault(job: Job, total: int) -> None:
    ctypes.string_at(0)


def leave(job: Job, total: int) -> None:
    os._exit(7)
