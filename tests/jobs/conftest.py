"""A working folder for real processes, with none of them left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from jobs_world import SITE, World

from lmbench.session import Home


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
