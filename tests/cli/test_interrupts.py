"""Ctrl-C at each moment of a command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmbench.cli import foreground, start_run
from lmbench.cli import run as lmbench
from lmbench.jobs import launch
from lmbench.session import Home, Run

Capture = pytest.CaptureFixture[str]

START = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from lmbench.cli import main
main(["train", "--data", "nowhere"])
"""


@pytest.fixture(scope="module")
def forked_workers() -> None:
    """Ctrl-C is of a real start."""


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """A background job of a shell ignores Ctrl-C, and so would these tests in it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "module",
    ["cyclopts", "rich.console", "lmbench.cli.output", "lmbench.cli.app", "lmbench.cli.train",
     "lmbench.config", "pydantic", "numpy", "lmbench.jobs.prepare", "psutil"],
)  # fmt: skip
def test_while_modules_are_imported_it_ends_the_command_in_one_line(module):
    words = [sys.executable, "-c", START.format(module=module)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "lmbench: interrupted\n")


def interrupted(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if not after:
            os.kill(os.getpid(), signal.SIGINT)
        result = function(*arguments, **named)
        if after:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["make_run", "start"])
def test_as_a_run_is_made_and_started_it_stops_that_run(
    what, after, trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setenv("LMBENCH_HOME", str(trained.path))
    if what == "make_run":
        monkeypatch.setattr(start_run, "make_run", interrupted(start_run.make_run, after=after))
    else:
        monkeypatch.setattr(start_run.launch, "start", interrupted(launch.start, after=after))
    small = ["--emsize", "16", "--nhid", "16", "--tied", "--threads", "1", "--epochs", "5000"]
    assert lmbench(["train", "--data", "tiny", *small, "--session", f"{what}-{after}"]) == 130
    [run] = trained.session(f"{what}-{after}").runs()
    assert run.status() == "stopped"
    assert "stopping: " in capsys.readouterr().err


def test_one_that_comes_while_the_run_is_asked_to_stop_waits_for_that(
    trained: Home, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []

    def request(_run: object, what: str) -> None:
        calls.append(f"{what} begins")
        if what == "stop":
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(f"{what} ends")

    monkeypatch.setattr(launch, "request", request)
    with foreground._Interrupts() as interrupts:
        interrupts.concern(trained.find_run("1"))
        os.kill(os.getpid(), signal.SIGINT)
    assert calls == ["stop begins", "stop ends", "kill begins", "kill ends"]


def test_seeds_that_are_being_made_are_removed_again(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setenv("LMBENCH_HOME", str(trained.path))
    monkeypatch.setattr(start_run, "make_run", interrupted(start_run.make_run, after=True))
    command = ["train", "--data", "tiny", "--seeds", "3", "--detach", "--session", "seeds"]
    assert lmbench(command) == 130
    assert trained.session("seeds").runs() == []


def test_a_seed_that_is_deleted_meanwhile_keeps_none_of_the_others_waiting(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setenv("LMBENCH_HOME", str(trained.path))
    worked: list[str] = []

    def work(begin: Callable[[], Run], **_: Any) -> tuple[Run, int]:
        done = next(run for run in trained.session("seeds").runs() if run.path.name not in worked)
        worked.append(done.path.name)
        done.update(status="finished", results={"test_ppl": 100.0 + done.id})
        if done.id == 1:
            shutil.rmtree(trained.find_run("seeds/2").path)
        return done, 0

    monkeypatch.setattr(start_run, "work_through", work)
    command = ["train", "--data", "tiny", "--seeds", "3", "--session", "seeds"]
    assert lmbench(command) == 1
    said = capsys.readouterr()
    assert "seeds/002-train was deleted" in said.err
    assert said.out == "test ppl 102.0 ± 1.4, n = 2\n"
    assert worked == ["001-train", "003-train"]


def test_elsewhere_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture):
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(Home, "sessions", interrupted(Home.sessions, after=False))
    assert lmbench(["sessions", "list"]) == 130
    assert capsys.readouterr().err == "lmbench: interrupted\n"
