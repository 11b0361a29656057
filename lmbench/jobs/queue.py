"""Which device a run waits for, and who holds it. One run at a time computes on a device.

A device is held through a lock file of the working folder, which the kernel frees on any death
of its holder. The queue itself is nothing but the runs whose status is ``queued``: `next_run`.
No torch here.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from lmbench.config import Config
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import PARENT
from lmbench.session.files import try_lock
from lmbench.session.store import Home, Run, RunRecord

__all__ = [
    "awaited_parent",
    "device_of",
    "gpu_count",
    "is_queued",
    "queue_device",
    "refuse_needed",
    "take_device",
    "take_queue",
    "waiting_for",
]


def is_queued(record: RunRecord) -> bool:
    return record.status == "queued"


def queue_device(config: Config) -> str:
    """The device that these settings lead to, as far as it can be known without torch.

    Where the guess is wrong (a GPU that this torch cannot use) two runs may share a device, which
    costs time and nothing else.

    Returns:
        ``cpu``, ``mps`` or ``cuda:N``.
    """
    device = "cuda" if getattr(config, "cuda", False) else str(getattr(config, "device", "cpu"))
    if device == "auto":
        device = _best_device()
    return "cuda:0" if device == "cuda" else device


@cache
def _best_device() -> str:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cuda" if gpu_count() else "cpu"


def gpu_count() -> int:
    """The NVIDIA GPUs that a worker can use, as far as it can be known without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return 0
    try:
        if importlib.metadata.version("torch").endswith("+cpu"):
            return 0
    except importlib.metadata.PackageNotFoundError:
        return 0
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0
    return count if visible is None else min(count, len(visible.split(",")))


def device_of(run: Run) -> str:
    """The device that `run` waits for. Settings that cannot be read fail at once, on any."""
    try:
        return queue_device(run.config())
    except LmbenchError:
        return "cpu"


def take_device(home: Home, device: str) -> int | None:
    """Hold `device`: a descriptor to close when done, or None while another process holds it."""
    home.sessions_path.mkdir(parents=True, exist_ok=True)
    return try_lock(lock_path(home, device))


def take_queue(home: Home, device: str) -> int | None:
    """As `take_device`, of what begins the runs that wait for it: no worker inherits it."""
    return try_lock(lock_path(home, device, "queue"))


def lock_path(home: Home, device: str, what: str = "device") -> Path:
    return home.sessions_path / f".{what}-{device.replace(':', '-')}.lock"


def awaited_parent(run: Run) -> Run | None:
    """The run that one of a sweep has to wait for: the one that it starts from, while that may yet
    finish, by itself or when it is resumed. What is not of a sweep waits for none: whoever prunes a
    stopped run means to."""
    record = run.read()
    if not record.point or record.parent is None:
        return None
    parent = run.home.run_of(record.parent)
    # Of one that is gone, or whose record is damaged, the worker tells.
    status = parent.status_if_readable() if parent else None
    return parent if status not in (None, "finished", "failed") else None


def refuse_needed(home: Home, runs: Sequence[Run]) -> None:
    """Refuse to delete these runs while others that wait need the model of one.

    Raises:
        LmbenchError: names those that wait, and what to do.
    """
    waiting = waiting_for(home, runs)
    if waiting:
        refs = ", ".join(run.ref for run in waiting)
        raise LmbenchError(
            f"{refs}: queued, and would fail without a model that it needs: stop it first "
            "(lmbench runs stop), or delete it too"
        )


def waiting_for(home: Home, runs: Sequence[Run]) -> list[Run]:
    """The queued runs of all sessions, but for `runs` themselves, that need a model of theirs."""
    return [run for run in home.all_runs() if run not in runs and _needs_one_of(run, runs)]


def _needs_one_of(run: Run, runs: Sequence[Run]) -> bool:
    """Does it wait, and is one of `runs` what it starts from, learns from or measures?"""
    record = run.read_if_readable()
    if record is None or record.status != "queued":
        return False
    teacher = record.config.get("teacher")
    names = [record.parent if teacher == PARENT else teacher, *record.config.get("models", ())]
    if not run.checkpoint("last"):
        names.append(record.parent)
    for name in filter(None, names):
        # Of what is gone already, nothing is lost.
        with suppress(LmbenchError):
            if run.home.find_run(name, run.session.name) in runs:
                return True
    return False
