"""A workbench whose terminal is gone ends by itself, also where no signal tells of it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_terminal_that_is_cut_off_without_a_signal_ends_the_workbench(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # A session of its own without a controlling terminal: nobody sends it SIGHUP.
    process = subprocess.Popen(
        [sys.executable, "-m", "lmbench", "tui"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"LMBENCH_HOME": str(tmp_path), "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 60
    while b"lmbench" not in seen and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536)
    os.close(ours)
    try:
        assert process.wait(60) == 129
    finally:
        process.kill()
    assert b"lmbench" in seen
