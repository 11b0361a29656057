"""A working folder whose runs are worked on by real processes that do fake work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import waiting

from lmbench.config import EvaluateConfig
from lmbench.session import Home, Run, read_events
from lmbench.session.events import Epoch, Progress, PruneStep, Step

SITE = Path(__file__).parent / "worker_site"


def comparable(run: Run) -> list[tuple[Any, ...]]:
    """The events that must not depend on interruptions, without the clock."""
    kept: list[tuple[Any, ...]] = []
    for e in read_events(run.events_path):
        if isinstance(e, Epoch):
            kept.append((e.epoch, e.step, e.train_loss, e.valid_loss, e.lr, e.best_epoch))
        elif isinstance(e, Step):
            kept.append((e.step, e.loss, e.grad_norm, e.lr))
        elif isinstance(e, PruneStep):
            kept.append((e.step, e.param, e.target, e.reached))
    return kept


class World:
    """The working folder and what tests ask of it."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def run(
        self, behaviour: str = "count", total: int = 0, session: str = "default", **more: Any
    ) -> Run:
        """A queued run that behaves as fake_kinds/evaluate.py says."""
        config = EvaluateConfig(runtime=behaviour, tokens=total, device="cpu")
        return self.home.open_session(session).new_run(config, "evaluate", **more)

    def until(self, condition: Callable[[], object], what: object = "") -> None:
        waiting.until(condition, what)

    def until_status(self, run: Run, *statuses: str) -> None:
        self.until(
            lambda: run.read().status in statuses,
            lambda: f"{run.ref} never became {statuses}: {run.read()}",
        )

    def until_working(self, run: Run) -> None:
        """Wait until its handler has done something."""
        self.until(lambda: run.read().status == "running" and self.counted(run))

    def counted(self, run: Run) -> list[float]:
        return [event.done for event in read_events(run.events_path) if isinstance(event, Progress)]

    def pid(self, run: Run) -> int:
        pid = run.read().pid
        assert pid is not None
        return pid

    def processes(self) -> list[psutil.Process]:
        """Our supervisors and workers of this folder that still live."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(str(self.home.path) in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PYTHONPATH", str(SITE))
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    world = World(Home(tmp_path))
    yield world
    for process in world.processes():
        # One may end by itself in this moment.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    world.until(lambda: not world.processes())
