"""One run as a job of Slurm: ``python -m lmbench.jobs.places.slurm_task RUN_DIR``.

Starts the run's worker and sees it to its end, as `lmbench.jobs.supervisor` does on a machine. The
job of a worker that was killed, or that Slurm asked to end before its time limit, is put back into
Slurm's queue, and the run goes on from its last checkpoint; where a node died, Slurm does the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lmbench.errors import ERROR, LmbenchError
from lmbench.jobs.launch import take_over
from lmbench.jobs.places.task import MOST_DEATHS, is_to_begin
from lmbench.jobs.queue import is_queued
from lmbench.jobs.supervisor import conclude
from lmbench.session.process import python
from lmbench.session.store import Run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a queued run")
    run = Run(parser.parse_args(arguments).run.absolute())
    try:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return _work(run, job, restarts) if is_to_begin(run, job, again=restarts > 0) else 0
    except (OSError, LmbenchError) as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return 1


def _work(run: Run, job: str, restarts: int) -> int:
    attempt = run.read().attempt
    # No session of its own: what Slurm kills the job by must reach it.
    worker = subprocess.Popen(
        python("lmbench.jobs.worker", str(run.path)), stdin=subprocess.DEVNULL
    )
    asked_to_end = False

    def end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        worker.terminate()

    signal.signal(signal.SIGTERM, end)
    code = worker.wait()
    died = code < 0 and restarts < MOST_DEATHS
    if (died or (asked_to_end and run.read().status == "stopped")) and take_over(run, job):
        return _requeue(run, job)
    conclude(run, worker.pid, code, attempt)
    return 0


def _requeue(run: Run, job: str) -> int:
    """Have Slurm start this job again."""
    # Not SLURM_JOB_ID: that of an array's last task is the array's own, and requeues all of it.
    print(f"job {job} goes back into the queue of Slurm", flush=True)
    done = subprocess.run(["scontrol", "requeue", job], check=False)
    if done.returncode != 0:
        reason = f"Slurm does not take job {job} back into its queue: resume the run"
        run.transition("stopped", only_if=is_queued, reason=reason)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
