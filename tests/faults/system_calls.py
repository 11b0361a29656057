"""Fails or kills a command at each system call by which it writes, one call at a time (strace)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forks import end, fork

from lmbench.cli import run as lmbench

__all__ = [
    "FAULTS",
    "TRACING",
    "Call",
    "End",
    "calls_in",
    "failing",
    "run_with_fault",
    "strace_works",
    "under_strace",
    "writing_calls",
]

WRITING = (
    *("open", "openat", "write", "pwrite64", "writev", "copy_file_range", "sendfile", "truncate"),
    *("ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "link", "linkat", "symlink", "symlinkat", "chmod", "fchmod"),
)
FAULTS = ("error=ENOSPC", "error=EIO", "error=EACCES", "signal=SIGKILL")
TRACING = ("-y", "-e", f"trace={','.join(WRITING)}")
_IN_NO_FOLDER = re.compile(r'AT_FDCWD<[^>]*>, "/')
_CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)")


@dataclass(frozen=True)
class Call:
    """The `number`-th call of `name` in a process, from 1."""

    name: str
    number: int
    about: str
    """The call as strace writes it."""


@dataclass(frozen=True)
class End:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def strace_works() -> bool:
    """Is there an strace here that may inject faults?"""
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-qq", "-o", os.devnull, "-e", "inject=chdir:error=EIO", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def writing_calls(arguments: list[str], home: Path) -> Iterator[Call]:
    """The calls by which a command changes something below `home`; runs it to find out."""
    log = home.parent / "strace.log"
    end = _command(arguments, home, log, TRACING)
    assert end.code == 0, end.stderr
    yield from calls_in(log, home)


def calls_in(log: Path, home: Path) -> Iterator[Call]:
    """The calls in a log of strace that change something below `home`."""
    count: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        name, rest = found.groups()
        count[name] += 1
        # The current folder does not matter to a path from the root.
        rest = _IN_NO_FOLDER.sub('"/', rest)
        reads = name.startswith("open") and not re.search(r"O_(WRONLY|RDWR|CREAT)", rest)
        if str(home) in rest and not reads:
            yield Call(name, count[name], line)


def run_with_fault(arguments: list[str], home: Path, call: Call, fault: str) -> End:
    """Run the command with one of its calls failed, or killed at it."""
    return _command(arguments, home, Path(os.devnull), failing(call, fault))


def _command(arguments: list[str], home: Path, log: Path, strace: Sequence[str]) -> End:
    def act() -> int:
        os.environ |= {"LMBENCH_HOME": str(home), "LMBENCH_CACHE": str(home / "cache")}
        return lmbench(arguments)

    files = [home.parent / name for name in ("stdout.txt", "stderr.txt")]
    for file in files:
        file.unlink(missing_ok=True)
    _, code = under_strace(act, log, strace, output=files[0], errors=files[1])
    return End(code, *(file.read_text(errors="replace") for file in files))


def failing(call: Call, fault: str) -> list[str]:
    """Options of strace that fail one call, or kill at it."""
    inject = f"inject={call.name}:{fault}:when={call.number}"
    return ["-e", f"trace={call.name}", "-e", inject]


def under_strace(
    act: Callable[[], int], log: Path, options: Sequence[str], *, output: Path, errors: Path
) -> tuple[int, int]:
    """Let a forked process act under strace; its number and its exit code."""
    ours, its = socket.socketpair()

    def wait() -> None:
        # Only now, with its output open, may calls be counted.
        ours.close()
        its.sendall(b".")
        if not its.recv(1):
            # The parent is gone.
            os._exit(1)

    with ours:
        pid = fork(act, output=output, errors=errors, first=wait)
        its.close()
        assert ours.recv(1), "the forked process ended before its work"
        command = ["strace", "-p", str(pid), "-o", str(log), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            assert "attached" in said, said
            ours.sendall(b".")
            code = end(pid)
    return pid, code
