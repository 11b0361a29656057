"""Supervisors and workers forked from a process that has torch loaded.

Loading torch is most of what a worker of a tiny run does (two of three seconds). A forked process
has a number, a session, an environment and open files of its own, is signalled and killed as any
other, and runs the same `main`; what it lacks is the start of an interpreter. Tests of that start,
and those that put a module of their own in its way by PYTHONPATH, have processes that were started.

Run as a script this file is the process that forks.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NoReturn

import psutil

KINDS = ("benchmark", "evaluate", "pack", "prune", "quantize", "sensitivity", "train")
LOADED = (
    *("lmbench.jobs.supervisor", "lmbench.jobs.worker", "lmbench.jobs.sweeps.advance"),
    # Loaded by the first optimizer and the first function that is not to be compiled.
    "torch._dynamo",
    *(f"lmbench.jobs.kinds.{kind}" for kind in KINDS),
)
REQUEST_BYTES = 128 * 1024
SECONDS_TO_END = 20


class Supervisor:
    """As much of `subprocess.Popen` as the one who starts a supervisor looks at."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self.process = None

    def poll(self) -> int | None:
        """0 for any end: the process that forked it was told how, not this one."""
        return None if self.process is not None and self.process.is_running() else 0


class Forking:
    """The process that forks, asked over a socket; stands for `subprocess` where runs start."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self) -> None:
        self._started: list[tuple[psutil.Process, str]] = []
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def Popen(  # noqa: N802
        self,
        command: Sequence[str],
        *,
        stdout: IO[bytes],
        cwd: Path,
        env: dict[str, str],
        **as_usual: Any,
    ) -> Supervisor | subprocess.Popen[Any]:
        if "PYTHONPATH" in env:
            return subprocess.Popen(command, stdout=stdout, cwd=cwd, env=env, **as_usual)
        arguments = command[command.index("-m") + 2 :]
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode()
        socket.send_fds(self._socket, [request], [stdout.fileno()])
        supervisor = Supervisor(int(self._socket.recv(20)))
        if supervisor.process is not None:
            self._started.append((supervisor.process, stdout.name))
        return supervisor

    def end_what_is_left(self) -> list[str]:
        """Kill supervisors that do not end by themselves, with their workers; gives their logs."""
        names = dict(self._started)
        self._started.clear()
        _, left = psutil.wait_procs(list(names), timeout=SECONDS_TO_END)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                for one in (process, *process.children(recursive=True)):
                    one.kill()
        return [names[process] for process in left]

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def serve(asked: socket.socket) -> None:
    """Fork a supervisor for each request, until nobody can ask any more."""
    for module in LOADED:
        importlib.import_module(module)
    supervisor = importlib.import_module("lmbench.jobs.supervisor")
    supervisor.subprocess = SimpleNamespace(Popen=Worker, DEVNULL=subprocess.DEVNULL)  # pyright: ignore
    gc.freeze()
    # None of them is waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, files, *_ = socket.recv_fds(asked, REQUEST_BYTES, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            request = json.loads(message)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            become("lmbench.jobs.supervisor", request["arguments"], files[0])
        os.close(files[0])
        asked.send(str(pid).encode())


def become(module: str, arguments: Sequence[str], log: int) -> NoReturn:
    """Be a process of its own session that writes to `log` and runs a module's `main`."""
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        code = importlib.import_module(module).main(arguments)
    except Exception:
        # Not to be taken for an error of the process that this one was forked from.
        traceback.print_exc()
        code = 1
    sys.exit(code)


class Worker:
    """As much of `subprocess.Popen` as a supervisor needs; it has all of its open files."""

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], **_: Any) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            arguments = command[command.index("-m") + 2 :]
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            become("lmbench.jobs.worker", arguments, stdout.fileno())

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
