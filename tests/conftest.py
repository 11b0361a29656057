"""What every test stands on: one thread each, and no folder of the user's."""

from __future__ import annotations

import gc
import html
import os
import re
from collections.abc import Iterator
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from forked_workers import Forking
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

# Read when torch is loaded: two test processes with two threads each would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
# Read when Textual is loaded: pictures must not depend on where the tests are started.
os.environ["TERM"] = "xterm"
os.environ.pop("COLORTERM", None)
# No file of a test has to outlive a power cut: waiting for the disk is a tenth of the tests' time.
os.fsync = lambda fd: None

# Machines are shared: how long an example takes says nothing.
settings.register_profile("lmbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lmbench")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--delays", type=int, metavar="SEED", help="see tests/helpers/delays.py")


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--delays")) is not None:
        from delays import delay_all

        delay_all(seed)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three processes on two cores: a third of the time a test waits for a process or a timer."""
    return max(1, round(1.5 * (os.cpu_count() or 1)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Each process has a run of neighbouring tests, whose fixtures are set up once, and takes from
    the others when it has none left."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first: begun last, they would keep one process and idle the others."""
    items.sort(key=lambda item: item.path.name != "test_tmux.py")


def pytest_collection_finish() -> None:
    """What is here now stays: going through it for garbage is a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Of each picture that is not as it was, the lines that differ: a log is all that CI leaves."""
    for picture in getattr(config, "_textual_snapshots", ()):
        terminalreporter.write_line(f"{picture.test_name}: picture, and what was shown")
        before, now = (_lines_of_picture(svg) for svg in (picture.snapshot, picture.actual))
        for line in islice(unified_diff(before, now, n=0, lineterm=""), 60):
            terminalreporter.write_line(line)


def _lines_of_picture(svg: str) -> list[str]:
    """Its styles, and each piece of text with its place and style."""
    pieces = re.findall(r"<text [^>]*>[^<]*</text>|<rect [^>]*>|\.[\w-]+ {[^}]*}", svg)
    return [html.unescape(re.sub(r"terminal-\d+-", "", piece)) for piece in pieces]


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
def forking() -> Iterator[Forking]:
    """What the fixture `forked_workers` has workers from."""
    from forked_workers import Forking

    process = Forking()
    yield process
    process.close()


@pytest.fixture(scope="module")
def forked_workers(forking: Forking) -> Iterator[None]:
    """Runs of these tests are worked on by processes that have torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmbench.jobs.places.local.subprocess", forking)
        yield
    left = forking.end_what_is_left()
    assert not left, f"runs that would go on beside the tests that follow: {left}"
