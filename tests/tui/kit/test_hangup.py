"""A workbench whose terminal is gone ends by itself, also where no signal tells of it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")


@contextmanager
def workbench(home: Path, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A workbench that has painted: our end of its terminal, and its process.

    It has a session of its own without a controlling terminal: nobody sends it SIGHUP.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "lmbench", "tui", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"LMBENCH_HOME": str(home), "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = bytearray()
        until(lambda: seen.extend(sent(ours)) or b"lmbench" in seen)
        yield ours, process
    finally:
        process.kill()
        process.wait()


def sent(ours: int, seconds: float = 0.1) -> bytes:
    """What the workbench sends until it is silent for so long."""
    told = b""
    while select.select([ours], [], [], seconds)[0]:
        told += os.read(ours, 65536)
    return told


def test_a_terminal_that_is_cut_off_without_a_signal_ends_the_workbench(tmp_path: Path) -> None:
    with workbench(tmp_path) as (ours, process):
        os.close(ours)
        assert process.wait(60) == 129


def test_so_it_does_in_the_middle_of_a_picture_and_woken_by_the_kernel(tmp_path: Path) -> None:
    with workbench(tmp_path, "--demo", "--speed", "50") as (ours, process):
        os.close(ours)
        # The kernel sends it with the SIGHUP that tells of a terminal's end.
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 129


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("asleep", [False, True], ids=["it had not slept", "it had slept"])
def test_woken_it_paints_anew_and_takes_no_second_reader(tmp_path: Path, asleep: bool) -> None:
    with workbench(tmp_path) as (ours, process):
        sent(ours, 1.0)
        threads = threads_of(process.pid)
        if asleep:
            process.send_signal(signal.SIGTSTP)
            until(lambda: state_of(process.pid) == "T")
            sent(ours)
        process.send_signal(signal.SIGCONT)
        assert b"lmbench" in sent(ours, 1.0)
        assert threads_of(process.pid) == threads


def threads_of(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/task").iterdir()])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
