"""The workbench's tests have a session of their own, and nothing of this machine on the screen."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from laboratory_double import Laboratory, size_of
from sampler_double import SamplerDouble
from workbench_world import World

from lmbench.jobs import launch
from lmbench.session import Run
from lmbench.tui.bench import messages
from lmbench.tui.generate.panel import GeneratePanel
from lmbench.tui.laboratory.screen import LabScreen


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test trains to find out how fast this machine is, or counts the words of a corpus in a
    process, unless it says so."""

    async def none() -> None: ...

    monkeypatch.setattr("lmbench.tui.new_run.training_speed.try_out", none)
    for module in ("new_run.chains_screen", "new_run.about_panel"):
        monkeypatch.setattr(f"lmbench.tui.{module}.size_of", size_of)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="session")
def full_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `full` is a copy of: a thousand events are written once."""
    folder = tmp_path_factory.mktemp("full")
    World(folder).full()
    return folder


@pytest.fixture
def full(full_session: Path, tmp_path: Path) -> World:
    shutil.copytree(full_session, tmp_path, dirs_exist_ok=True)
    return World(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """No process is started; the runs that would be are kept."""
    runs: list[Run] = []
    monkeypatch.setattr(LabScreen, "client_class", Laboratory)
    monkeypatch.setattr(launch, "start", lambda run, **_: runs.append(run))
    monkeypatch.setattr(launch, "start_all", runs.extend)
    return runs


@pytest.fixture
def lab(full: Any) -> Any:
    """The full session: its dense run has a model, and was measured."""
    dense = full.session.run(1)
    (dense.path / "best").mkdir()
    (dense.path / "best" / "model.safetensors").write_bytes(b"")
    config = {"emsize": 200, "nhid": 200, "tied": True, "epochs": 6, "data": "pydoc"}
    dense.update(config=config, shape={**config, "model": "LSTM", "nlayers": 2, "ntoken": 33278})
    return full


@pytest.fixture(autouse=True)
def _no_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter in the prompt starts no process."""
    monkeypatch.setattr(SamplerDouble, "made", [], raising=False)
    monkeypatch.setattr(GeneratePanel, "client_class", SamplerDouble)


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours taken away, no zone of this machine, no animation; what was said stays, however
    slow the machine is."""
    monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 3600.0)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
