"""Fails or kills a run's processes at each system call by which they write, one call at a time.

``python tests/faults/failing_calls.py`` goes through all calls of all kinds of runs, and
``--sample 50 --seed 3`` through as many of each kind; it prints a line for each kind. A worker is
forked from this process, which has imported torch, and waits until strace holds it. After each
fault: the worker has ended well, or its end is recorded with a reason and one line in the log; the
session opens, the last checkpoint that was announced loads, and a resumed run ends equal, bit for
bit, to one that nobody disturbed, with no file besides.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from forks import end
from kills import FaultError, check, compare, need, old, resume, undisturbed
from small_runs import KINDS, make_home, new_run
from system_calls import FAULTS, TRACING, Call, calls_in, failing, under_strace

from lmbench.errors import ERROR, LmbenchError
from lmbench.jobs import supervisor, worker
from lmbench.jobs.supervisor import conclude
from lmbench.session import Home, Run, read_events
from lmbench.session.events import Checkpoint

FEW: dict[str, Any] = {"checkpoint_every": 60.0, "event_interval": 20}
"""A training that writes a checkpoint only after an epoch."""
SETTINGS: dict[str, dict[str, Any]] = {
    "train": FEW,
    "prune": FEW,
    "train under a quantizer": FEW | {"epochs": 1, "batch_size": 24},
    "quantize": {"calibration_tokens": 300},
    "sensitivity": {"levels": (0.5,)},
}
SUPERVISOR = "supervisor"
"""A supervisor whose worker dies at once."""


def make(home: Home, name: str) -> Run:
    # The ids of a corpus are written by whoever needs them first.
    for folder in (home.data / "tiny" / ".lmbench", home.path / "ids"):
        shutil.rmtree(folder, ignore_errors=True)
    kind = "train" if name == SUPERVISOR else name
    return new_run(home, kind, **SETTINGS.get(kind, {}))


def supervise(run: Run) -> int:
    supervisor.python = lambda *_: ["sh", "-c", "kill -9 $$"]
    return supervisor.main(["--now", str(run.path)])


def worked(run: Run, name: str, log: Path, options: Sequence[str]) -> int:
    """Let a run's worker, or its supervisor, work under strace; its exit code."""
    act = partial(supervise if name == SUPERVISOR else worker.work, run)
    attempt = run.read().attempt
    pid, code = under_strace(act, log, options, output=run.log_path, errors=run.log_path)
    if name != SUPERVISOR:
        conclude(run, pid, code, attempt)
    return code


def calls_of(home: Home, name: str, log: Path) -> list[Call]:
    run = make(home, name)
    worked(run, name, log, TRACING)
    calls = list(calls_in(log, home.path))
    need(calls, f"{name} writes nothing")
    shutil.rmtree(run.path)
    return calls


def announced(run: Run) -> int:
    """The step of the last checkpoint that the events tell of; -1 where they tell of none."""
    events = read_events(run.events_path)
    steps = [e.step for e in events if isinstance(e, Checkpoint) and e.which == "last"]
    return steps[-1] if steps else -1


def with_fault(home: Home, name: str, whole: Run, call: Call, fault: str, log: Path) -> bool:
    """One fault, and all that has to hold after it; whether the call was reached."""
    run = make(home, name)
    try:
        return _with_fault(run, name, whole, call, fault, log)
    finally:
        shutil.rmtree(run.path)


def _with_fault(run: Run, name: str, whole: Run, call: Call, fault: str, log: Path) -> bool:
    runs = len(run.session.runs())
    code = worked(run, name, log, failing(call, fault))
    reached = "INJECTED" in log.read_text() or "killed by" in log.read_text()
    record, written = run.read(), run.log_path.read_text()
    where = f"{name}: {fault} at {call.about[:200]}: {record.status}, {record.reason}\n{written}"
    need("Traceback" not in written, f"a traceback: {where}")
    if fault != "signal=SIGKILL" and record.status in ("failed", "lost"):
        need(record.reason and "\n" not in record.reason, f"no reason: {where}")
        lines = sum(one.startswith((ERROR, "supervisor: ")) for one in written.splitlines())
        need(lines == 1 or (name == SUPERVISOR and not lines), f"{lines} lines: {where}")
    if name == SUPERVISOR:
        need(fault == "signal=SIGKILL" or record.status == "failed", where)
    elif fault != "signal=SIGKILL":
        need((code != 0) <= (run.status() in ("failed", "lost")), f"exit code {code}: {where}")
    try:
        check(run, runs, announced(run), failed=True)
        old(run.home.sessions_path)
        if run.status() != "finished":
            last = end(resume(run))
            need(last == 0, f"exit code {last} when resumed")
        compare(run, whole)
    except (FaultError, LmbenchError, OSError) as error:
        raise FaultError(f"{error}: {where}") from error
    return reached


def faults_of(
    home: Home, name: str, sample: int | None, seed: int, log: Path
) -> tuple[int, list[tuple[Call, str]]]:
    calls = calls_of(home, name, log)
    faults = [(call, fault) for call in calls for fault in FAULTS]
    if sample is not None:
        faults = random.Random(f"{name} {seed}").sample(faults, min(sample, len(faults)))
    return len(calls), faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    kinds = [*KINDS, SUPERVISOR]
    parser.add_argument("--kind", choices=kinds, action="append")
    parser.add_argument("--sample", type=int, help="faults of each kind; all where not given")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as logs:
        os.environ |= {"LMBENCH_HOME": folder, "LMBENCH_CACHE": folder, "LMBENCH_NATIVE": "0"}
        os.chdir(folder)
        home, log = make_home(Path(folder)), Path(logs) / "strace.log"
        parent = undisturbed(home, partial(make, home, "train"))[0]
        for name in arguments.kind or kinds:
            trains = name in ("train", SUPERVISOR)
            whole = parent if trains else undisturbed(home, partial(make, home, name))[0]
            # What is imported now is not imported, by calls that count, in a forked worker.
            with_fault(home, name, whole, Call("unlink", 65535, "none"), FAULTS[0], log)
            number, faults = faults_of(home, name, arguments.sample, arguments.seed, log)
            reached = mine = 0
            for call, fault in faults:
                try:
                    reached += with_fault(home, name, whole, call, fault, log)
                except (FaultError, LmbenchError, OSError) as error:
                    print(f"fault: {error}", file=sys.stderr, flush=True)
                    mine += 1
            print(
                f"{name:<26} {number:>4} calls, {reached:>5} of {len(faults):>5} faults "
                f"injected, {mine} found",
                flush=True,
            )
            found += mine
    print(f"seed {arguments.seed}: {found} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
