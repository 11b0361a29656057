"""What the jobs of all clusters do before a run's worker starts."""

from __future__ import annotations

from lmbench.jobs.launch import take_over
from lmbench.jobs.queue import awaited_parent, is_queued
from lmbench.session.store import Run

__all__ = ["MOST_DEATHS", "is_to_begin"]

MOST_DEATHS = 3
"""How often a run whose worker dies is begun again by itself."""


def is_to_begin(run: Run, job: str, *, again: bool) -> bool:
    """Is this job to start the worker of its run? Where the run that it starts from did not finish
    it is ``stopped``, with the reason.

    Args:
        job: what the run's record has to name.
        again: the job began before, and died with its machine or its worker.
    """
    if run.read().job != job:
        print(f"job {job} leaves run {run.ref} to where it was sent since", flush=True)
        return False
    if again:
        take_over(run, job)
    parent = awaited_parent(run)
    if parent is not None:
        reason = f"run {parent.ref}, which it starts from, is {parent.status()}"
        run.transition("stopped", only_if=is_queued, reason=reason)
    return is_queued(run.read())
