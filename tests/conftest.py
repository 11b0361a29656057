"""What every test stands on: one thread each, and no folder of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when torch is loaded: two test processes with two threads each would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# Read when Textual is loaded: pictures must not depend on where the tests are started.
os.environ["TERM"] = "xterm"
os.environ.pop("COLORTERM", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three processes on two cores: a third of the time a test waits for a process or a timer."""
    return max(1, round(1.5 * (os.cpu_count() or 1)))


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels for all tests, since compiling takes seconds of each training."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def apart_from_the_user(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kernels: Path
) -> None:
    """Caches, settings and working folder lie in a temporary folder for each test."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "cache").mkdir()
    (folder / "cache" / "native").symlink_to(kernels)
    monkeypatch.setenv("LMBENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "xdg-cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "xdg-config"))
    monkeypatch.delenv("LMBENCH_HOME", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent
