"""Kills real workers at random moments and sees that nothing is lost.

``python tests/faults/kills.py --kills 500 --seed 7`` prints a line for each kind. A worker is
a process forked from this one, which has imported torch already, so that a kill falls on its work.
Half of the kills fall after some time, half at some change of the disk; which change follows from
the seed alone. After each: the session opens, statuses are right, the last checkpoint loads and is
no older than it was. Each run is resumed until it ends, and then has to equal, bit for bit, one
that nobody disturbed, with no file besides.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from forks import end, fork
from small_runs import KINDS, make_home, new_run

from lmbench.deploy.load_model import load_run
from lmbench.errors import LmbenchError
from lmbench.jobs import launch, worker
from lmbench.jobs.kinds import (  # noqa: F401 (before the forks)
    evaluate,
    pack,
    prune,
    quantize,
    sensitivity,
    train,
)
from lmbench.jobs.supervisor import conclude
from lmbench.session import Home, Run, read_events
from lmbench.session.leftovers import remove_leftovers
from lmbench.training.checkpoint import read_checkpoint

CHANGES = ("open", "rename", "replace", "unlink", "rmdir", "mkdir", "fsync")
TIMES = {"t", "seconds", "tokens_per_s", "memory", "utilisation"}


DISTURBANCES = (
    "SIGTERM",
    "SIGTERM SIGTERM",
    "SIGINT",
    "SIGHUP",
    "SIGSTOP SIGCONT",
    "clock set back",
)


class FaultError(Exception):
    """Something was lost, or left about."""


def log_of(run: Run) -> str:
    """The end of the run's log; one that is killed at once has none."""
    return run.log_path.read_text()[-2000:] if run.log_path.exists() else "no log"


def need(holds: object, what: str) -> None:
    if not holds:
        raise FaultError(what)


def begin(
    run: Run,
    first: Callable[[], object] = lambda: None,
    act: Callable[[Run], int] = worker.work,
) -> int:
    """Start a worker, which calls `first` before it works; its process number."""
    return fork(partial(act, run), output=run.log_path, errors=run.log_path, first=first)


def at_changes(act: Callable[[int], object]) -> None:
    """Call `act` with the number of each change that this process makes to the disk, before it."""
    number = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal number
            act(number)
            number += 1
            return real(*arguments, **options)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    io.open = counted(io.open)


def dies_at(last: int) -> Callable[[], None]:
    """Kill this process just before a change of the disk."""

    def act(number: int) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: at_changes(act)


def clock_goes_back_at(last: int) -> Callable[[], None]:
    """From a change of the disk on, this process lives a year earlier."""
    real = time.time

    def act(number: int) -> None:
        if number == last:
            time.time = lambda: real() - 365 * 86400.0

    return lambda: at_changes(act)


def resume(run: Run, first: Callable[[], object] = lambda: None) -> int:
    """What `lmbench runs resume` does, but for the supervisor."""
    real, launch.start = launch.start, lambda *_, **__: None
    try:
        launch.resume(run)
    finally:
        launch.start = real
    return begin(run, first)


def figures(run: Run) -> dict[str, Any]:
    """All that must not depend on interruptions: files, events and results."""
    found: dict[str, Any] = {}
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if path.is_file() and path.suffix in (".safetensors", ".lmpack", ".csv", ".yaml"):
            found[name] = path.read_bytes()
    skipped = ("run_started", "run_resumed", "progress", "checkpoint", "status")
    skipped += ("failed", "finished")
    found["events"] = [
        {k: getattr(e, k) for k in e.__dataclass_fields__ if k not in TIMES}
        for e in read_events(run.events_path)
        if e.kind not in skipped
    ]
    kept = {k: v for k, v in run.read().results.items() if k not in TIMES}
    # A run that was stopped notes some of them earlier.
    results = json.dumps(kept, sort_keys=True)
    found["results"] = results.replace(str(run.path), "")
    return found


def names(folder: Path) -> set[str]:
    """What is in a run's folder; how many attempts it took makes no difference."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*")} - {"control"}
    attempt = f".attempt-{Run(folder).read().attempt}"
    return {n.replace(attempt, ".attempt-N", 1) for n in found}


def step_of(run: Run) -> int:
    """The step of the last checkpoint, which is read whole; -1 where there is none."""
    folder = run.checkpoint("last")
    if folder is None:
        return -1
    if not (folder / "trainer.json").is_file():
        load_file(folder / "model.safetensors")
        return 0
    read_checkpoint(folder)
    return int(json.loads((folder / "meta.json").read_bytes())["step"])


def check(run: Run, runs: int, step: int, *, failed: bool = False) -> int:
    """Is all there that was there before the kill? Gives the step of the last checkpoint.

    Args:
        failed: the run may have failed for any reason.
    """
    (session,) = run.home.sessions()
    need(len(session.runs()) == runs, f"{len(session.runs())} runs where there were {runs}")
    for one in session.runs():
        record, status = one.read(), one.status()
        if one.path != run.path:
            need(status == "finished", f"{one.ref} is {status}")
        elif status == "failed" and not failed:
            need("could not start" in record.reason, f"{one.ref} failed: {record.reason}")
        else:
            allowed = ("lost", "queued", "stopped", "finished", "failed")
            need(status in allowed, f"{one.ref} is {status}")
    now = step_of(run)
    need(now >= step, f"{run.ref}: the last checkpoint is of step {now}; {step} was there")
    if run.checkpoint("best") is not None:
        load_run(run)
    return now


def old(folder: Path) -> None:
    """As if what the dead left had been lying there for a while."""
    for path in folder.rglob(".*"):
        os.utime(path, (1.0, 1.0), follow_symlinks=False)


def compare(run: Run, whole: Run) -> None:
    need(run.status() == "finished", f"{run.ref} is {run.status()}: {run.read().reason}")
    ours, theirs = figures(run), figures(whole)
    need(ours.keys() == theirs.keys(), f"{run.ref}: {sorted(ours.keys() ^ theirs.keys())}")
    unequal = [name for name in theirs if ours[name] != theirs[name]]
    need(not unequal, f"{run.ref} differs from {whole.ref} in {unequal}")
    for folder in (run.home.sessions_path, run.session.path, run.session.runs_path):
        remove_leftovers(folder)
        left = [p.name for p in folder.glob(".*") if not p.name.endswith(".lock")]
        need(not left, f"{folder}: left behind: {left}")
    left = names(run.path) ^ names(whole.path)
    need(not left, f"{run.ref}: left behind or missing: {sorted(left)}")


def killed_run(generator: random.Random, home: Home, name: str, whole: Run, took: float,
               changes: int, most: int) -> int:  # fmt: skip
    """A run killed up to `most` times, and resumed to its end; how often it was killed."""
    run, kills, step = new_run(home, name), 0, -1
    runs = len(run.session.runs())
    start: Callable[..., int] = begin
    while kills < most:
        by_change = generator.random() < 0.5
        at, delay = generator.randrange(changes), generator.random() * took
        attempt = run.read().attempt
        pid = start(run, dies_at(at)) if by_change else start(run)
        if not by_change:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        code = end(pid)
        if code == 0:
            break
        kills += code == -signal.SIGKILL
        need(code == -signal.SIGKILL, f"{run.ref}: exit code {code}: {log_of(run)}")
        if generator.random() < 0.5:
            # Else the supervisor was killed, too.
            conclude(run, pid, code, attempt)
        step = check(run, runs, step)
        old(home.sessions_path)
        if run.status() == "finished":
            break
        start = resume
    if run.status() != "finished":
        code = end(start(run))
        need(code == 0, f"{run.ref}: exit code {code}: {log_of(run)}")
    check(run, runs, step)
    compare(run, whole)
    return kills


def disturbed_run(
    generator: random.Random, home: Home, name: str, whole: Run, took: float, changes: int, how: str
) -> None:
    """A run that gets a signal, or whose clock is set back; it has to end as if it had not."""
    run = new_run(home, name)
    if how == "clock set back":
        pid = begin(run, clock_goes_back_at(generator.randrange(changes)))
    else:
        pid = begin(run)
        while run.read().status == "queued":
            time.sleep(0.001)
        time.sleep(generator.random() * took)
        for number in (getattr(signal, one) for one in how.split()):
            os.kill(pid, number)
            time.sleep(generator.random() * 0.05)
    code = end(pid)
    need(code == 0, f"{run.ref}: exit code {code}: {log_of(run)}")
    wanted = ("stopped", "finished") if "SIGTERM" in how else ("finished",)
    need(run.status() in wanted, f"{run.ref} is {run.status()} after {how}: {run.read().reason}")
    if run.status() == "stopped":
        old(home.sessions_path)
        need(end(resume(run)) == 0, f"{run.ref}: {log_of(run)}")
    compare(run, whole)


def undisturbed(home: Home, make: Callable[[], Run]) -> tuple[Run, float, int]:
    """A run that nobody disturbs, how long it takes, and about how many changes it makes."""
    run = make()
    counting = home.path / "changes"

    def count() -> None:
        descriptor = os.open(counting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        at_changes(lambda _: os.write(descriptor, b"."))

    began = time.monotonic()
    code = end(begin(run, count))
    need(code == 0 and run.status() == "finished", f"{run.ref}: {run.read()}")
    return run, time.monotonic() - began, counting.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=500, help="over all kinds of runs")
    parser.add_argument("--signals", type=int, default=60, help="runs that get other disturbances")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    arguments = parser.parse_args()
    chosen, total = arguments.kind or list(KINDS), Counter[str]()

    def attempt(work: Callable[[], int | None]) -> int:
        try:
            return work() or 0
        except (FaultError, LmbenchError, OSError) as error:
            print(f"fault: {error}", file=sys.stderr, flush=True)
            total["faults"] += 1
            return 1

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LMBENCH_HOME": folder, "LMBENCH_CACHE": folder, "LMBENCH_NATIVE": "0"}
        os.chdir(folder)
        home = make_home(Path(folder))
        parent = undisturbed(home, partial(new_run, home, "train"))
        wholes = {
            n: parent if n == "train" else undisturbed(home, partial(new_run, home, n))
            for n in chosen
        }
        for name, whole in wholes.items():
            generator = random.Random(f"{name} {arguments.seed}")
            kills = runs = 0
            while kills < arguments.kills // len(chosen):
                most = generator.randrange(1, 5)
                kills += attempt(partial(killed_run, generator, home, name, *whole, most))
                runs += 1
            total.update(kills=kills, runs=runs)
            print(f"{name:<26} {kills:>4} kills in {runs:>4} runs", flush=True)
        for number in range(arguments.signals):
            how = DISTURBANCES[number % len(DISTURBANCES)]
            name = chosen[number // len(DISTURBANCES) % len(chosen)]
            generator = random.Random(f"{how} {number} {arguments.seed}")
            attempt(partial(disturbed_run, generator, home, name, *wholes[name], how))
    print(
        f"seed {arguments.seed}: {total['kills']} kills in {total['runs']} runs, "
        f"{arguments.signals} runs with {', '.join(DISTURBANCES)}: {total['faults']} faults"
    )
    return 1 if total["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
