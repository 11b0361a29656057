"""A sweep at work, of which no process is started."""

from __future__ import annotations

import pytest
from study_world import StudyWorld
from sweep_world import sweep_home

from lmbench.jobs import launch
from lmbench.session import Home, Run

__all__ = ["sweep_home"]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What would be worked on from now on."""
    runs: list[Run] = []
    monkeypatch.setattr(launch, "start_all", runs.extend)
    return runs


@pytest.fixture
def study(sweep_home: Home, begun: list[Run]) -> StudyWorld:
    return StudyWorld(sweep_home).full()
