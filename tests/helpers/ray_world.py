"""A real Ray on this machine: two nodes of one CPU each, started by the test and ended with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import waiting

from lmbench.session import Run

__all__ = ["Cluster", "ray_cluster"]

_OBJECT_STORE = 80_000_000


class Cluster:
    """A head node, to which drivers connect, and another one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self) -> None:
        port = self.address.rpartition(":")[2]
        self._start("head", "--head", f"--port={port}", f"--temp-dir={self.folder}",
                    "--include-dashboard=false")  # fmt: skip
        waiting.until(lambda: self._raylet("head"), self.logs)
        self._start("other", f"--address={self.address}")
        waiting.until(lambda: self._raylet("other"), self.logs)

    def _start(self, name: str, *arguments: str) -> None:
        program = Path(sys.executable).with_name("ray")
        with (self.folder / f"{name}.out").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                [program, "start", *arguments, "--block", "--num-cpus=1", "--disable-usage-stats",
                 f"--object-store-memory={_OBJECT_STORE}", "--include-log-monitor=false"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Else the processes of tasks give way to all others of a busy machine (nice 15).
                env=os.environ | {"RAY_worker_niceness": "0"},
            )  # fmt: skip

    def _raylet(self, name: str) -> psutil.Process | None:
        """The process that is a node: it starts the processes of its tasks, and is their parent."""
        # Asked anew each time, since a node's processes come one after the other.
        for process in psutil.Process(self._nodes[name].pid).children():
            with suppress(psutil.Error):
                if process.name() == "raylet":
                    return process
        return None

    def works_on(self, run: Run, name: str) -> bool:
        """Is the worker of a run one of a node's processes?"""
        raylet = self._raylet(name)
        return raylet is not None and run.read().pid in {
            process.pid for process in raylet.children(recursive=True)
        }

    def kill(self, name: str) -> None:
        """Kill a node by SIGKILL. What it has started has to end by itself."""
        raylet = self._raylet(name)
        assert raylet is not None, self.logs()
        raylet.kill()

    def logs(self) -> str:
        return "\n".join(p.read_text(errors="replace")[-3000:] for p in self.folder.glob("*.out"))

    def end(self) -> None:
        left = [process for node in self._nodes.values() for process in _tree(node.pid)]
        for node in reversed(self._nodes.values()):
            node.send_signal(signal.SIGTERM)
        for node in self._nodes.values():
            with suppress(subprocess.TimeoutExpired):
                node.wait(timeout=30)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        for node in self._nodes.values():
            node.wait()


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (pip install 'lmbench[ray]')")
    # Sockets lie in it, whose paths have to be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    cluster = Cluster(folder)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)
