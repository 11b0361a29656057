"""This machine: a queue for each device, worked through by `lmbench.jobs.supervisor`.

Nothing is held open between this process and the work: a run is started as a process of its own
session, with no terminal, and from then on only its folder is looked at and written to.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence

from lmbench.errors import LmbenchError
from lmbench.jobs.exit_reasons import last_log_lines
from lmbench.jobs.places.interface import Place
from lmbench.jobs.queue import is_queued
from lmbench.session.process import python
from lmbench.session.store import Home, Run

__all__ = ["Local"]


class Local(Place):
    name = "local"
    look_s = 0.1

    def __init__(self) -> None:
        # Supervisors that this process started, kept so that each is reaped when it has ended.
        self._started: dict[Run, subprocess.Popen[bytes]] = {}

    def refusal(self, home: Home) -> str | None:
        return None

    def submit(self, runs: Sequence[Run], *, queue: bool = True) -> None:
        """The first of them starts the queue, which goes through all that wait."""
        if runs:
            self._reap()
            self._start(runs[0], queue=queue)

    def _start(self, run: Run, *, queue: bool) -> None:
        command = python("lmbench.jobs.supervisor", str(run.path))
        if not queue:
            command.append("--now")
        try:
            with run.log_path.open("ab") as log:
                self._started[run] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=run.home.path,
                    env=os.environ | {"LMBENCH_HOME": str(run.home.path)},
                )
        except OSError as error:
            raise LmbenchError(f"run {run.ref} cannot be started: {error}") from None

    def _reap(self) -> None:
        for run, process in list(self._started.items()):
            if process.poll() is not None:
                del self._started[run]

    def poll(self, runs: Sequence[Run]) -> None:
        """A queued run whose supervisor crashed at once will not begin."""
        for run in runs:
            process = self._started.get(run)
            if process is not None and process.poll():
                reason = f"its supervisor could not start: {last_log_lines(run, 1)}"
                run.transition("failed", only_if=is_queued, reason=reason)

    def stop(self, run: Run) -> None:
        """Nothing to do: a run that has left the queue is begun by nobody."""

    def describe(self) -> str:
        return f"this machine ({platform.node()}), one run at a time on each device"
