"""The workbench as a user has it: in tmux, by keys alone, with real workers on the embedded corpus.

A training is started from the form, watched, zoomed and read, sampled from while it runs, branched
from; pruned under a schedule that is edited, and watched; both are asked the same. The workbench is
left with a run alive, and everything is found again.
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
    pytest.mark.timeout(900),
]

LIMIT_S = 180
BOTH = "● 1 vs ◆ 2|◆ 2 vs ● 1"


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

    def wait_until_gone(self, pattern: str, limit_s: float = LIMIT_S) -> None:
        end = time.monotonic() + limit_s
        while re.search(pattern, screen := self.screen()):
            assert time.monotonic() < end, f"still {pattern!r} on\n{screen}"
            time.sleep(0.2)

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.server, "kill-server"], check=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for run in Home(tmp_path).all_runs():
        if run.status() in ("running", "paused"):
            launch.request(run, "kill")


def help_of(tmux: Tmux) -> str:
    """The form's line about the field that has the focus, when it stands still."""
    seen = ""
    while True:
        _, _, below = tmux.screen().partition("What it will be")
        line = below.partition("\n")[2].partition("\n")[0]
        # A picture may be taken while the line is being painted.
        if line == seen:
            return line
        seen = line
        time.sleep(0.2)


def fill(tmux: Tmux, explained: str, value: str, shown: str) -> None:
    """Go down to the field whose help says `explained`, and give it a value."""
    for _ in range(40):
        before = help_of(tmux)
        if explained in before:
            break
        tmux.press("Down")
        # On a busy machine the next field's help may take a while; never run past it.
        end = time.monotonic() + LIMIT_S
        while help_of(tmux) == before and time.monotonic() < end:
            pass
    tmux.press("C-u")
    tmux.type(value)
    tmux.wait_for(shown)


def start_training(tmux: Tmux) -> None:
    """From the form: a model of 16 units."""
    tmux.wait_for("Train a small model now")
    tmux.press("Escape")
    tmux.wait_for("No run yet")
    tmux.press("n")
    tmux.wait_for("What the run does")
    fill(tmux, "--emsize: ", "16", r"train --emsize 16")
    fill(tmux, "--nhid: ", "16", r"--nhid 16")
    tmux.press("C-s")
    tmux.wait_for(r"● 1 .*▶")


def read_the_plot(tmux: Tmux) -> None:
    """The value under the cursor, in all of the curve and in a part of it."""
    tmux.wait_for(r"─ 1 .*train [\d,.]+")
    tmux.press("2", "Left", "Left")
    tmux.wait_for(r"step [\d,]+")
    tmux.press("+")
    tmux.wait_for("zoomed")
    tmux.press("0")
    tmux.wait_until_gone("zoomed")
    tmux.press("Escape", "Escape")


def point_at_another(tmux: Tmux) -> str:
    """In the list of alternatives, go to the likeliest that was not written."""
    row = r"before +after.*\n.*[│┃]([▸ ])(\S+) +█"
    tmux.press("Home")
    seen = None
    while (found := re.search(row, tmux.wait_for(row))) and found[0] != seen:
        seen = found[0]
        time.sleep(0.2)
    assert found
    if found[1] == " ":
        return found[2]
    tmux.press("Down")
    below = re.search(row + r".*\n.*[│┃] (\S+) +█", tmux.screen())
    assert below
    return below[3]


def write_and_branch(tmux: Tmux) -> None:
    """From the checkpoint of the run that trains; then on from another word in the second place."""
    tmux.press("g")
    tmux.type("the value of")
    tmux.press("Enter")
    tmux.wait_for(r"/s · [\d.]+ bits")
    tmux.wait_for(r"last checkpoint")
    tmux.press("Down", "Down", "Right", "Right")
    tmux.wait_for(r"before +after")
    tmux.press("Enter")
    another = point_at_another(tmux)
    tmux.press("Enter")
    tmux.wait_for(rf"the value of \S+\s+{re.escape(another)}")
    tmux.wait_for(r"/s · [\d.]+ bits")
    tmux.press("Escape", "Escape")


def prune_half(tmux: Tmux) -> None:
    """Under the preset, with the first layer's goal changed in the editor; watch the table."""
    tmux.press("s")
    tmux.wait_for(r"● 1 .*□")
    tmux.press("n")
    tmux.wait_for("What the run does")
    tmux.press("Right")
    tmux.wait_for("‹ prune ›")
    tmux.press("C-e")
    tmux.wait_for("Sparsity by epoch")
    tmux.wait_for(r"final_sparsity: 0\.74")
    tmux.press(*["Down"] * 9, "End", "BSpace", "BSpace")
    tmux.type("50")
    tmux.wait_for(r"50\.0% +rnn\.weight_ih_l0")
    tmux.press("C-s")
    tmux.wait_for("Save the schedule")
    tmux.type("half")
    tmux.press("Enter")
    tmux.wait_for(r"schedule •")
    tmux.press("C-s")
    tmux.wait_for(r"◆ 2 half .*▶")
    tmux.press("3")
    tmux.wait_for(r"rnn\.weight_ih_l0 .* [1-5]\d\.\d")
    tmux.press("Escape")


def ask_both(tmux: Tmux) -> None:
    """The same prompt, side by side."""
    tmux.press("Space", "Up", "Space")
    tmux.wait_for("2 marked")
    tmux.press("g")
    tmux.wait_for(BOTH)
    tmux.press("i", "C-u")
    tmux.type("the end of")
    tmux.press("Enter")
    # In the prompt and in both texts, which stand beside each other where there is room.
    tmux.wait_for(r"(?s)(the end of .*){3}")
    tmux.wait_for(r"(?s)(· [\d,]+/s.*){2}")


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids="{0[0]}x{0[1]}".format)
def test_a_day_at_the_workbench(home, size):
    tmux = Tmux(home, *size)
    try:
        start_training(tmux)
        read_the_plot(tmux)
        write_and_branch(tmux)
        prune_half(tmux)
        ask_both(tmux)
        tmux.press("Escape", "Escape", "q")
        tmux.wait_for("leave running")
        tmux.press("l")
        tmux.wait_for("LEFT 0")
    finally:
        tmux.close()
    assert Home(home).session("default").run(2).status() == "running"
    again = Tmux(home, *size)
    try:
        again.wait_for(r"● 1 .*□")
        again.wait_for(r"◆ 2 half .*▶")
        again.press("g")
        again.wait_for("the end of")
        again.wait_for(BOTH)
    finally:
        again.close()
