"""Holds a device and works through its queue: ``python -m lmbench.jobs.supervisor RUN_DIR``.

A small process (no torch) between the launcher and the workers. It takes the locks of the device's
queue and of the device, runs one worker after the other, each a fresh process, until no run waits
for the device, and leaves. So a queue needs neither a UI nor a terminal, and a worker's death has a
witness: the supervisor writes the exit code and the reason into the dead run's record and goes on.

Where another supervisor holds the queue this one leaves at once: a run is written as ``queued``
*before* its supervisor looks at the lock, and the holder looks at the queue once more *after* it
has let go, so one of the two sees the run. Where the device alone is taken, by a worker whose
supervisor was killed or is leaving, this one waits for it. ``--now`` (foreground commands) works on
the named run even while the device is busy.

SIGTERM means: begin no further run. The live worker is a process of its own and is left alone, and
the queue is another supervisor's.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lmbench.errors import RESUME, LmbenchError, os_error_line
from lmbench.jobs.control_file import asked
from lmbench.jobs.exit_reasons import KILLED_BY_USER, ROOM, last_log_lines, why_ended
from lmbench.jobs.next_run import FolderQueue, Stamp
from lmbench.jobs.queue import device_of, is_queued, take_device, take_queue
from lmbench.session.files import file_stamp
from lmbench.session.leftovers import remove_leftovers
from lmbench.session.process import python
from lmbench.session.store import LIVE, Run, RunRecord

__all__ = ["Supervisor", "conclude", "main"]

# Between two looks at a device that another process's worker holds.
_WAIT_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lmbench.jobs.supervisor", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a queued run")
    parser.add_argument("--now", action="store_true", help="do not wait for the device")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run = Run(options.run.absolute())
    if not run.path.is_dir():
        return 0
    supervisor = Supervisor(run, device_of(run))
    try:
        supervisor.supervise(now=options.now)
    except OSError as error:
        supervisor.give_up(run, error)
    # Whoever follows a run that waits sees by this that it will not begin.
    return 1 if run in supervisor.hopeless else 0


class Supervisor:
    """One device's queue, from a first run on."""

    def __init__(self, first: Run, device: str) -> None:
        self._first = first
        self._home = first.home
        self._queue = FolderQueue(first.home)
        self._device = device
        self._queue_lock: int | None = None
        self._lock: int | None = None
        self._leaving = False
        # Runs whose start or end could not be written (a full disk), with the stamp of the record
        # then: not tried again from here before it is another one.
        self.hopeless: dict[Run, Stamp | None] = {}

    def supervise(self, *, now: bool) -> None:
        signal.signal(signal.SIGTERM, self._leave)
        held = self._take()
        if now:
            self._has_device()
            self._work(self._first)
        while held and not self._leaving:
            run = self._next()
            if run is None:
                self._let_go()
                # Something queued between the look and letting go found the queue held.
                held = self._next() is not None and self._take()
            elif self._has_device():
                self._work(run)
            else:
                time.sleep(_WAIT_S)

    def _leave(self, *_: object) -> None:
        self._leaving = True
        self._let_go_of_queue()

    def _take(self) -> bool:
        self._queue_lock = take_queue(self._home, self._device)
        return self._queue_lock is not None

    def _has_device(self) -> bool:
        if self._lock is None:
            self._lock = take_device(self._home, self._device)
        return self._lock is not None

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._let_go_of_queue()

    def _let_go_of_queue(self) -> None:
        held, self._queue_lock = self._queue_lock, None
        if held is not None:
            os.close(held)

    def _next(self) -> Run | None:
        self._queue.look()
        return self._queue.next(self._device, self.hopeless)

    def _work(self, run: Run) -> None:
        try:
            attempt = run.read().attempt
            pid, code = self._run_worker(run)
            conclude(run, pid, code, attempt)
        except (OSError, LmbenchError) as error:
            self.give_up(run, error)
        self._advance(run)

    def _advance(self, run: Run) -> None:
        """Have the sweep that a run was of, if any, queue or stop what follows from its end."""
        try:
            if run.path.is_dir() and run.read().point:
                from lmbench.jobs.sweeps.advance import advance

                advance(run.session)
        except (OSError, LmbenchError) as error:
            # Nothing is lost: the next end, or a resume of the sweep, has the same to go by.
            print(f"supervisor: {error}", file=sys.stderr, flush=True)

    def give_up(self, run: Run, error: OSError | LmbenchError) -> None:
        """Say why a run cannot be begun or ended from here, in the log and, if it can be, in its
        record."""
        refused = isinstance(error, LmbenchError)
        reason = error.message if refused else os_error_line(error, file=run.path, then=RESUME)
        print(f"supervisor: {reason}", file=sys.stderr, flush=True)
        with suppress(OSError, LmbenchError):
            run.transition("failed", only_if=is_queued, reason=reason)
        self.hopeless[run] = file_stamp(run.path / "run.json")

    def _run_worker(self, run: Run) -> tuple[int, int]:
        """Run a worker to its end; its process number and exit code (minus a signal's number)."""
        command = python("lmbench.jobs.worker", str(run.path))
        inherited = ()
        if self._lock is not None:
            # The device stays taken while the worker lives, even if this process is killed.
            command += ["--holds", str(self._lock)]
            inherited = (self._lock,)
        with run.log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=inherited,
            )
        return process.pid, process.wait()


def conclude(run: Run, pid: int, code: int, attempt: int) -> None:
    """Write the end of a run whose worker died without writing one.

    Args:
        attempt: the run's last one before that worker was started.
    """
    if code == 0 or not run.path.is_dir():
        return
    with suppress(OSError):
        (run.path / ROOM).unlink(missing_ok=True)
    remove_leftovers(run.path)

    def unclaimed(record: RunRecord) -> bool:
        # Queued again after the worker had claimed it: it was resumed meanwhile.
        return record.status == "queued" and record.attempt == attempt

    def ours(record: RunRecord) -> bool:
        return record.status in LIVE and record.pid == pid and record.host == platform.node()

    reason = f"the worker could not start ({why_ended(code)}): {last_log_lines(run, 1)}"
    if run.transition("failed", only_if=unclaimed, exit_code=code, reason=reason):
        return
    if "kill" in asked(run):
        run.transition("stopped", only_if=ours, exit_code=code, reason=KILLED_BY_USER)
    else:
        run.transition("lost", only_if=ours, exit_code=code, reason=why_ended(code))


if __name__ == "__main__":
    sys.exit(main())
