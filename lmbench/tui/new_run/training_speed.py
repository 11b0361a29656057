"""How fast this machine trains, as far as it is known; where it is not, found out by a trial."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from lmbench.report.training_speed import Measured, known_trial, measured_speeds
from lmbench.session.process import python
from lmbench.training.thread_environment import worker_environment
from lmbench.tui.bench.bench import Bench

__all__ = ["speeds", "try_out"]


async def speeds(bench: Bench) -> AsyncIterator[list[Measured] | None]:
    """What trainings reached here, or the trial of an earlier day; else None while a trial goes
    on, some seconds, and then what it found. None is tried while a run computes: the two would
    slow each other, and the run soon tells by itself."""
    known = await bench.run_in_thread(measured_speeds, bench.home) or []
    trial = None if known else await bench.run_in_thread(known_trial)
    if known or trial is not None or bench.demo or bench.snapshot.current is not None:
        yield known or ([trial] if trial is not None else [])
        return
    yield None
    await try_out()
    trial = await bench.run_in_thread(known_trial)
    yield [trial] if trial is not None else []


async def try_out() -> None:
    """In a process of its own, which computes with torch; what it says is in the cache."""
    process = await asyncio.create_subprocess_exec(
        *python("lmbench.jobs.speed_trial"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | worker_environment(),
    )
    try:
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
