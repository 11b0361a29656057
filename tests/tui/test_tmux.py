"""The workbench as a user has it: in tmux, by keys alone, with real workers on the embedded corpus.

A training is started from the form, watched, zoomed, sampled from while it runs; the workbench is
left with the run alive, and everything is found again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmbench.jobs import launch
from lmbench.session import Home

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.timeout(600),
    # Minutes of real trainings and real keys.
    pytest.mark.slow,
]

LIMIT_S = 180


class Tmux:
    """A tmux server of our own with one window."""

    def __init__(self, home: Path, columns: int, rows: int) -> None:
        self.server = f"lmbench-{uuid.uuid4().hex[:8]}"
        self.home = home
        environment = {
            "LMBENCH_HOME": str(home),
            "LMBENCH_CONFIG": str(home),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm-256color",
        }
        command = f"{sys.executable} -m lmbench; echo LEFT $?; exec sleep 600"
        self._call(
            "new-session", "-d", "-x", str(columns), "-y", str(rows), command,
            env=os.environ | environment,
        )  # fmt: skip

    def _call(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-f", "/dev/null", "-L", self.server, *words],
            capture_output=True, text=True, check=True, env=env,
        )  # fmt: skip
        return done.stdout

    def press(self, *keys: str) -> None:
        for key in keys:
            self._call("send-keys", key)
            time.sleep(0.15)

    def type(self, text: str) -> None:
        self._call("send-keys", "-l", text)
        time.sleep(0.3)

    def screen(self) -> str:
        return self._call("capture-pane", "-p")

    def wait_for(self, pattern: str, limit_s: float = LIMIT_S) -> str:
        """Until the screen shows the pattern; gives the screen."""
        end = time.monotonic() + limit_s
        while not re.search(pattern, screen := self.screen()):
            assert time.monotonic() < end, f"no {pattern!r} on\n{screen}"
            time.sleep(0.2)
        return screen

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.server, "kill-server"], check=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for run in Home(tmp_path).all_runs():
        if run.status() in ("running", "paused"):
            launch.request(run, "kill")


def help_of(screen: str) -> str:
    """The form's line about the field that has the focus."""
    _, _, below = screen.partition("What it will be")
    return below.partition("\n")[2].partition("\n")[0]


def fill(tmux: Tmux, explained: str, value: str, shown: str) -> None:
    """Go down to the field whose help says `explained`, and give it a value."""
    for _ in range(40):
        before = tmux.screen()
        if re.search(explained, before):
            break
        tmux.press("Down")
        # On a busy machine the next field's help may take a while; never run past it.
        end = time.monotonic() + 60
        while help_of(tmux.screen()) == help_of(before) and time.monotonic() < end:
            time.sleep(0.1)
    tmux.wait_for(explained)
    tmux.press("C-u")
    tmux.type(value)
    tmux.wait_for(shown)


def start_training(tmux: Tmux) -> None:
    """From the form: a model of 16 units in one layer."""
    tmux.wait_for("Train a small model now")
    tmux.press("Escape")
    tmux.wait_for("No run yet")
    tmux.press("n")
    tmux.wait_for("What the run does")
    fill(tmux, "--emsize: ", "16", r"train --emsize 16")
    fill(tmux, "--nhid: ", "16", r"--nhid 16")
    fill(tmux, "--nlayers: ", "1", r"--nlayers 1")
    tmux.press("C-s")
    tmux.wait_for(r"● 1 .*▶")


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids="{0[0]}x{0[1]}".format)
def test_a_day_at_the_workbench(home, size):
    tmux = Tmux(home, *size)
    try:
        start_training(tmux)
        # Watch it: the curve, its values, a part of it.
        tmux.wait_for(r"train [\d,.]+")
        tmux.press("2", "Left", "Left")
        tmux.wait_for(r"step [\d,]+")
        tmux.press("+")
        tmux.wait_for("zoomed")
        tmux.press("0", "Escape")
        # Write with it while it trains, from its last checkpoint.
        run = Home(home).session("default").run(1)
        launch.request(run, "checkpoint")
        tmux.wait_for("saved last|from its last checkpoint|last")
        tmux.press("g")
        tmux.type("the value of")
        tmux.press("Enter")
        tmux.wait_for(r"words/s|/s")
        # Leave with the run alive, come back and find everything.
        tmux.press("Escape", "Escape", "q")
        tmux.wait_for("leave running")
        tmux.press("l")
        tmux.wait_for("LEFT 0")
        assert run.status() == "running"
    finally:
        tmux.close()
    again = Tmux(home, *size)
    try:
        screen = again.wait_for(r"● 1 .*▶")
        assert "Runs" in screen
        again.press("4")
        again.wait_for("the value of")
    finally:
        again.close()
