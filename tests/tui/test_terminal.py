"""The workbench as a process in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import waiting

LEFT_THE_SCREEN = b"\x1b[?1049l"
CURSOR_SHOWN = b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[[0-9;]*(3|4)8;(2|5);")


class Terminal:
    """A workbench in one. It has a session of its own without a controlling terminal: where our end
    is cut off, nobody sends it SIGHUP."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        known = {"LMBENCH_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lmbench", "tui", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | known | environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.ours = ours
        self.seen = b""

    def read(self, seconds: float) -> bytes:
        """What comes within that time, or until the process ends."""
        fresh, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            ready, _, _ = select.select([self.ours], [], [], 0.1)
            if not ready:
                continue
            try:
                data = os.read(self.ours, 65536)
            except OSError:
                break
            fresh += data
        self.seen += fresh
        return fresh

    def read_until(self, words: bytes, limit_s: float = 60) -> None:
        end = time.monotonic() + limit_s
        while words not in self.seen:
            assert time.monotonic() < end, self.seen[-2000:]
            self.read(0.2)

    def settle(self, words: bytes = b"int8") -> None:
        """Wait until everything has been painted."""
        self.read_until(words)
        while self.read(1.0):
            pass

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def cut(self) -> None:
        os.close(self.ours)
        self.ours = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.ours >= 0:
            self.cut()


@pytest.fixture
def begin() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def one_more(*arguments: Any, **environment: str) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield one_more
    for terminal in opened:
        terminal.close()


@pytest.fixture
def start(full, begin) -> Callable[..., Terminal]:
    return partial(begin, full.home.path, "demo")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(start, number):
    terminal = start()
    terminal.read_until(b"Runs")
    terminal.process.send_signal(number)
    terminal.read(0.5)
    terminal.process.wait(30)
    terminal.read(0.5)
    assert terminal.process.returncode == 128 + number
    assert LEFT_THE_SCREEN in terminal.seen
    assert CURSOR_SHOWN in terminal.seen
    assert b"Traceback" not in terminal.seen


def test_an_idle_screen_sends_nothing_a_key_is_answered_and_q_restores_the_screen(full, start):
    for number in (2, 4):
        full.session.run(number).update(status="stopped")
    terminal = start()
    terminal.settle()
    assert terminal.read(3.0) == b""
    # Its threads share one heap; this is glibc's malloc.
    assert not sys.platform.startswith("linux") or threads_heaps(terminal.process.pid) == 0
    terminal.press(b"5")
    waiting.until(lambda: terminal.read(0.2))
    terminal.press(b"q")
    terminal.read(1.0)
    assert terminal.process.wait(30) == 0
    assert LEFT_THE_SCREEN in terminal.seen


def threads_heaps(pid: int) -> int:
    """Heaps beside the first: glibc reserves 64 MiB for each, at a multiple of that."""
    size, found, before = 64 << 20, 0, (0, 0)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, *_ = line.split()
        first, end = (int(address, 16) for address in addresses.split("-"))
        if rights == "---p" and before[1] == first and before[0] % size == 0:
            found += end - before[0] == size
        before = (first, end)
    return found


def test_without_colours_nothing_is_lost_but_colour(start):
    terminal = start(NO_COLOR="1")
    terminal.settle()
    colours = {m.group(0) for m in COLOUR.finditer(terminal.seen)}
    grey = re.compile(rb"8;2;(\d+);\1;\1m")
    for m in re.finditer(rb"[34]8;2;\d+;\d+;\d+m", terminal.seen):
        assert grey.search(m.group(0)), m.group(0)
    assert "●".encode() in terminal.seen
    assert "◆".encode() in terminal.seen
    assert colours


def test_a_terminal_of_sixteen_colours_is_sent_no_others(start):
    terminal = start(TERM="xterm", COLORTERM="")
    terminal.settle()
    assert not COLOUR.search(terminal.seen)
    # Each of the two runs has a colour of the sixteen, and its marker.
    sixteen = rb"\x1b\[[0-9;]*(?:3[0-7]|9[0-7])[0-9;]*m"
    for marker in ("●", "◆"):
        assert re.search(sixteen + rb" ?" + marker.encode(), terminal.seen), marker


def test_without_a_terminal_it_says_so_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lmbench", "tui"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"LMBENCH_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("lmbench: the workbench needs a terminal")
    assert len(done.stderr.splitlines()) == 1


# -- a terminal that is gone, and one that comes back ----------------------------------------------


def test_a_terminal_that_is_cut_off_without_a_signal_ends_the_workbench(begin, tmp_path):
    terminal = begin(tmp_path)
    terminal.read_until(b"lmbench")
    terminal.cut()
    assert terminal.process.wait(60) == 129


def test_so_it_does_in_the_middle_of_a_picture_and_woken_by_the_kernel(begin, tmp_path):
    terminal = begin(tmp_path, "--demo", "--speed", "50")
    terminal.read_until(b"lmbench")
    terminal.cut()
    # The kernel sends it with the SIGHUP that tells of a terminal's end.
    terminal.process.send_signal(signal.SIGCONT)
    assert terminal.process.wait(60) == 129


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("asleep", [False, True], ids=["it had not slept", "it had slept"])
def test_woken_it_paints_anew_and_takes_no_second_reader(begin, tmp_path, asleep):
    terminal = begin(tmp_path)
    terminal.settle(b"lmbench")
    threads = threads_of(terminal.process.pid)
    if asleep:
        terminal.process.send_signal(signal.SIGTSTP)
        waiting.until(lambda: state_of(terminal.process.pid) == "T")
        terminal.read(0.1)
    terminal.seen = b""
    terminal.process.send_signal(signal.SIGCONT)
    terminal.read_until(b"lmbench")
    assert threads_of(terminal.process.pid) == threads


def threads_of(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/task").iterdir()])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
