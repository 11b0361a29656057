"""The process that does a run's work: ``python -m lmbench.jobs.worker RUN_DIR``.

It claims the queued run, calls the handler of the run's kind (`lmbench.jobs.kinds`), and writes
how it ended. The first SIGTERM asks for a clean end, as ``lmbench runs stop`` does; a second one
ends it at once, which loses nothing that was saved. SIGINT and SIGHUP are for the terminal's
programs and mean nothing here.

Started by `lmbench.jobs.supervisor`, which holds the device meanwhile and says what happened
when this process dies without a word. The exit code is 0 whenever an end was written, however
sad, so that any other code means such a death; and where a newer attempt at the run has begun
(`lmbench.session.attempts`), which ends this one with a line in the log and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import importlib.metadata
import io
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lmbench import __version__
from lmbench.errors import ERROR, RESUME, LmbenchError, os_error_line
from lmbench.jobs.end_with_parent import end_with_parent
from lmbench.jobs.exit_reasons import ROOM
from lmbench.jobs.heartbeat import heartbeat
from lmbench.jobs.job import Job
from lmbench.session.attempts import (
    FencedError,
    attempt_folder,
    begin_attempt,
    check_attempt,
    next_attempt,
    remove_fenced,
)
from lmbench.session.event_log import EventReader, EventWriter, ends_torn
from lmbench.session.events import (
    Candidate,
    Failed,
    Finished,
    RunResumed,
    SensitivityPoint,
    TuningPass,
)
from lmbench.session.files import reserve_space
from lmbench.session.leftovers import remove_leftovers
from lmbench.session.process import process_started, return_to
from lmbench.session.store import Run, RunRecord, Status
from lmbench.training.thread_environment import worker_environment

__all__ = ["main"]

# What `exit_code` of a failed run says: that its input was refused, or anything else.
_BAD_INPUT, _FAILED = 2, 1
# A traceback, in the log and in the events, and the record.
_LAST_WORDS_BYTES = 64 * 1024

_OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory")


class StopAtOnceError(BaseException):
    """A second SIGTERM arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lmbench.jobs.worker", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a queued run")
    parser.add_argument("--holds", type=int, metavar="FD", help="inherited lock of the device")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process is gone")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        end_with_parent(options.parent)
    if options.holds is not None:
        # Ours until we die, and no child's.
        os.set_inheritable(options.holds, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    faulthandler.enable()
    os.environ.update(worker_environment())
    return work(Run(options.run.absolute()))


def work(run: Run) -> int:
    """Claim the run, do its work, and write its end; 1 where no end could be written."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        claim = _claim(run)
        if claim is None:
            return 0
        run = claim[0]
        return _work(*claim)
    except (OSError, LmbenchError) as error:
        if _is_fenced(run):
            return 0
        _print_reason(run, reason_in_words(error, run))
        return _FAILED


def _work(run: Run, record: RunRecord, begun_before: bool) -> int:
    assert run.staging is not None
    with contextlib.ExitStack() as while_at_work:
        try:
            remove_leftovers(run.path)
            remove_fenced(run.path)
            while_at_work.enter_context(heartbeat(run.staging))
            reserve_space(run.path / ROOM, _LAST_WORDS_BYTES)
            # While the job is being set up, one SIGTERM is enough to end it.
            signal.signal(signal.SIGTERM, _raise_stop)
            job = _job(run, record, begun_before)
        except Exception as error:
            return _fail(run, error)
        except StopAtOnceError:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _end(run, "stopped", reason="stopped before it began to work")
            return 0
        signal.signal(signal.SIGTERM, _stopper(job))
        try:
            _handler(record.kind)(job)
            _finish(job)
        except StopAtOnceError:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            job.close()
            _end(run, "stopped", reason="stopped at once; goes on from its last checkpoint")
        except Exception as error:
            job.close()
            return _fail(run, error)
    return 0


def _is_fenced(run: Run) -> bool:
    """Has a newer attempt at the run begun? Then this says so; this one has nothing to write."""
    try:
        check_attempt(run.staging)
    except FencedError as error:
        _print_reason(run, error.message)
        return True
    return False


def _claim(run: Run) -> tuple[Run, RunRecord, bool] | None:
    """Make a queued run ours, by a new attempt, or None if it is not (or no longer) waiting.

    Another worker of the same run waits at its lock and finds it taken. Where locks do not reach
    from machine to machine, of two that claim at once the one of the higher attempt has it. The
    last value is whether the run had begun before.
    """
    if not run.path.is_dir():
        return None
    number = next_attempt(run.path, run.read().attempt)
    run = Run(run.path, attempt_folder(run.path, number))
    before: list[RunRecord] = []

    def is_ours(record: RunRecord) -> bool:
        if record.status != "queued" or not begin_attempt(run.path, number):
            return False
        before.append(record)
        # Requests to an earlier worker are over. Where a folder has that name, there are none.
        with contextlib.suppress(OSError):
            run.control_path.unlink(missing_ok=True)
        return True

    record = run.transition(
        "running",
        only_if=is_ours,
        attempt=number,
        pid=os.getpid(),
        process_started=process_started(os.getpid()),
        host=platform.node(),
        started=time.time(),
        ended=None,
        reason="",
        exit_code=None,
        versions=_versions(),
    )
    return None if record is None else (run, record, before[0].started is not None)


def _versions() -> dict[str, str]:
    versions = {"lmbench": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # None, against its type, where the installation cannot be read.
            versions[package] = importlib.metadata.version(package) or "unknown"
    return versions


def _job(run: Run, record: RunRecord, begun_before: bool) -> Job:
    return_to(record.cwd)
    resuming = begun_before and run.checkpoint("last") is not None
    anew = begun_before and not resuming
    # What a search logged after its last try is done again.
    searched = _searched(run) if anew else 0
    job = Job(run, record, run.config(), resuming=resuming, carries_on=searched > 0)
    if anew:
        job.emit(RunResumed(offset=searched, step=0, epoch=0))
    return job


def _searched(run: Run) -> int:
    """How far the log of a search goes that can be carried on; 0 for any other run."""
    reader, end = EventReader(run.events_path), 0
    for event in reader.read():
        if isinstance(event, Candidate | SensitivityPoint | TuningPass):
            end = reader.position
    return end


def _handler(kind: str) -> Any:
    return importlib.import_module(f"lmbench.jobs.kinds.{kind}").work


def _raise_stop(_signal: int, _frame: FrameType | None) -> None:
    raise StopAtOnceError


def _stopper(job: Job) -> Any:
    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, _raise_stop)
        job.stop()

    return on_sigterm


def _finish(job: Job) -> None:
    # The end is short and must be written whole.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    halt = job.halt
    status: Status = "stopped" if job.stopped or halt else "finished"
    job.add_results(seconds=round(job.seconds(), 3))
    results = job.record.results
    job.emit(
        Finished(
            status=status,
            seconds=job.seconds(),
            test_loss=results.get("test_loss"),
            test_ppl=results.get("test_ppl"),
            results=results,
        )
    )
    job.close()
    # From a finished run nobody removes it later.
    (job.run.path / ROOM).unlink(missing_ok=True)
    if halt is not None:
        _end(job.run, status, reason=halt.reason, early_stopping=halt.kind)
        return
    _end(job.run, status, reason="stopped at the user's request" if job.stopped else "")


def _fail(run: Run, error: Exception) -> int:
    """Write why the run failed; gives the exit code, as `work` does."""
    if _is_fenced(run):
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        (run.path / ROOM).unlink(missing_ok=True)
    trace = "".join(traceback.format_exception(error))
    reason = reason_in_words(error, run)
    refused = isinstance(error, LmbenchError)
    in_a_line = refused or (isinstance(error, OSError) and error.errno is not None)
    if not in_a_line:
        _print(trace)
    code = 0
    try:
        with contextlib.suppress(OSError):
            # The record says it, too.
            writer = EventWriter(run.events_path)
            writer.write(Failed(reason=reason, traceback=trace))
            writer.close()
        _end(run, "failed", reason=reason, exit_code=_BAD_INPUT if refused else _FAILED)
    except (OSError, LmbenchError):
        # What goes wrong now has the cause that is told already, as on a disk that is full.
        code = _FAILED
    if in_a_line:
        # A line says what was wrong; where in the code it was noticed is in the events. It comes
        # last, when a command that waits for the run can tell that it is the reason.
        _print_reason(run, reason)
    return code


def _print_reason(run: Run, reason: str) -> None:
    """A line of its own, also where the log's last one was not written whole."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    torn = False
    with contextlib.suppress(OSError):
        torn = ends_torn(run.log_path)
    _print("\n" * torn + f"{ERROR}{reason}\n")


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, end="", flush=True)


def reason_in_words(error: BaseException, run: Run) -> str:
    """One line that says why, without needing torch's own exception classes."""
    if isinstance(error, LmbenchError):
        return "; ".join(error.message.split("\n"))
    words = " ".join(str(error).split())
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"} or any(w in words for w in _OUT_OF_MEMORY):
        return f"out of memory: {words}" if words else "out of memory"
    if isinstance(error, OSError) and error.errno is not None:
        return os_error_line(error, file=run.path, then=RESUME)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _end(run: Run, status: Status, *, reason: str, exit_code: int = 0, **changes: Any) -> None:
    check_attempt(run.staging)
    with contextlib.suppress(OSError):
        (run.path / ROOM).unlink(missing_ok=True)
    run.transition(status, reason=reason, exit_code=exit_code, **changes)


if __name__ == "__main__":
    sys.exit(main())
