"""A real Slurm on this machine: one controller, two nodes, their own munge; all in one folder."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import waiting

__all__ = ["Cluster", "slurm", "why_no_slurm"]

# The daemons are where only root's path leads.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_DAEMONS = ("munged", "slurmctld", "slurmd")


def why_no_slurm() -> str:
    """Why no Slurm can be started here; "" where one can."""
    if os.geteuid() != 0:
        return "a Slurm for tests is started by root alone"
    missing = [d for d in (*_DAEMONS, "sbatch") if shutil.which(d, path=_PATH) is None]
    return f"{missing[0]} is not installed (slurm-wlm and munge)" if missing else ""


class Cluster:
    """Two nodes, n1 and n2, of one core each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self.config.write_text(_config(self.folder))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        key, sock = self.folder / "munge.key", self.folder / "munge.socket"
        files = [f"--{n}-file={self.folder / n}" for n in ("pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={sock}",
                    *files)  # fmt: skip
        waiting.until(sock.exists, self.logs)
        self._start("slurmctld", "-D", "-i", "-f", str(self.config))
        for name in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", name, "-f", str(self.config), name=name)
        waiting.until(self._idle, self.logs, every_s=0.5)

    def _start(self, command: str, *arguments: str, name: str = "") -> None:
        program = shutil.which(command, path=_PATH)
        assert program is not None
        with (self.folder / f"{name or command}.out").open("ab") as log:
            self._processes[name or command] = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"SLURM_CONF": str(self.config)},
            )

    def _idle(self) -> bool:
        return self.ask("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle", "idle"]

    def ask(self, *words: str) -> str:
        environment = os.environ | {"SLURM_CONF": str(self.config)}
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment, timeout=60
        )
        return done.stdout

    def logs(self) -> str:
        return "\n".join(p.read_text(errors="replace")[-3000:] for p in self.folder.glob("*.out"))

    def end(self) -> None:
        self.ask("scancel", "--signal=KILL", "--full", f"--user={os.getuid()}")
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _config(folder: Path) -> str:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    nodes = "\n".join(
        f"NodeName=n{number} NodeHostname={platform.node()} NodeAddr=127.0.0.1 Port={port} CPUs=1"
        for number, port in enumerate(ports[1:], 1)
    )
    return f"""ClusterName=test
SlurmctldHost={platform.node()}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
{nodes}
PartitionName=both Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = why_no_slurm()
    if reason:
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()
