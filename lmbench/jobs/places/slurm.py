"""The machines of a Slurm cluster: plain ``sbatch``, an array of jobs for each stage of a sweep.

A job runs `lmbench.jobs.places.slurm_task` on one run's folder, which all machines share. What
becomes of the run is in its folder; ``squeue`` is asked only for jobs that do not begin.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from lmbench.errors import LmbenchError
from lmbench.jobs.places.interface import Place
from lmbench.jobs.places.settings import SlurmSettings, load_place_settings, places_path
from lmbench.jobs.queue import is_queued
from lmbench.report.numbers import plural
from lmbench.session.process import python
from lmbench.session.shared_folder import unseen_from
from lmbench.session.store import LIVE, Home, Run

__all__ = ["Slurm"]

_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_ANSWER_S = 60.0
# Between two calls of squeue, for all jobs, by one process.
_ASK_S = 30.0
# The largest array that Slurm takes where nobody configured another (MaxArraySize is 1001).
_LARGEST_ARRAY = 1000
# How long before its time limit a run is asked to save and end.
_SAVE_S = 120


class Slurm(Place):
    name = "slurm"
    look_s = 2.0

    def __init__(self) -> None:
        self._asked = -_ASK_S

    def refusal(self, home: Home) -> str | None:
        missing = [command for command in _COMMANDS if shutil.which(command) is None]
        if missing:
            return (
                f"{missing[0]} is not on the path, so there is no Slurm here: give the command on "
                "a machine from which you submit jobs"
            )
        try:
            settings = load_place_settings().slurm
            machines = _machines(settings)
        except LmbenchError as error:
            return error.message
        if not machines:
            what = f"no partition {settings.partition!r}" if settings.partition else "no machine"
            return f"Slurm has {what} (partition in {places_path()}; sinfo lists them)"
        return unseen_from(home.path, machines)

    def describe(self) -> str:
        settings = load_place_settings().slurm
        machines = _machines(settings)
        where = f"partition {settings.partition}" if settings.partition else "default partition"
        return f"{where}, {plural(len(machines), 'node')}; settings: {places_path()}"

    def submit(self, runs: Sequence[Run], *, queue: bool = True) -> None:
        """Each stage (runs that start from those before) is an array that waits for the one
        before to end. The jobs are held until their numbers are in the runs' records, since from
        then on a worker may write those."""
        waiting = [run for run in runs if _is_new(run)]
        if not waiting:
            return
        settings = load_place_settings().slurm
        before: list[str] = []
        for stage in _stages(waiting):
            parts = [stage[i : i + _LARGEST_ARRAY] for i in range(0, len(stage), _LARGEST_ARRAY)]
            before = [
                _submit_array(part, settings, [*before, *_awaited(part, waiting)]) for part in parts
            ]
        self._asked = -_ASK_S

    def poll(self, runs: Sequence[Run]) -> None:
        submitted = {run: job for run in runs if (job := _job_of(run))}
        if not submitted:
            return
        if time.monotonic() - self._asked >= _ASK_S:
            # Waits its turn after a failure, too: a controller that is busy is left alone.
            self._asked = time.monotonic()
            try:
                listed = _call("squeue", "--noheader", "--me", "--array", "--format=%i")
            except LmbenchError:
                return
            jobs = frozenset(listed.split())
            for run, job in submitted.items():
                if job not in jobs:
                    _give_up(run, job)

    def stop(self, run: Run) -> None:
        record = run.read()
        if record.job:
            # A job that has not begun is not ended by a signal.
            at_once = ("--signal=KILL", "--full") if record.status in LIVE else ()
            _call("scancel", *at_once, record.job)


def _is_new(run: Run) -> bool:
    record = run.read()
    return record.status == "queued" and not record.job


def _job_of(run: Run) -> str:
    record = run.read()
    return record.job if record.status == "queued" else ""


def _give_up(run: Run, job: str) -> None:
    reason = (
        f"its Slurm job {job} ended before the run began: see that {run.path} is there on the "
        f"cluster's nodes (sacct --jobs={job} tells more)"
    )
    run.transition("failed", only_if=lambda r: is_queued(r) and r.job == job, reason=reason)


def _stages(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by how many of their ancestors are among them."""
    depths: dict[str, int] = {}
    for run in runs:
        # A parent is made before its children.
        depths[run.ref] = depths.get(run.read().parent or "", -1) + 1
    stages: list[list[Run]] = [[] for _ in range(max(depths.values()) + 1)]
    for run in runs:
        stages[depths[run.ref]].append(run)
    return stages


def _awaited(runs: Sequence[Run], submitted: Sequence[Run]) -> list[str]:
    """The jobs of runs that these start from, but for those that are submitted with them."""
    parents = {run.home.run_of(run.read().parent or "") for run in runs} - set(submitted)
    records = [parent.read() for parent in parents if parent is not None]
    return sorted({r.job for r in records if r.job and r.status in ("queued", *LIVE)})


def _submit_array(runs: Sequence[Run], settings: SlurmSettings, before: Sequence[str]) -> str:
    """Submit one array of jobs; its number."""
    words = ["sbatch", "--parsable", "--hold", "--requeue", f"--array=0-{len(runs) - 1}"]
    words += [f"--job-name=lmbench-{runs[0].session.name.replace(' ', '_')}"]
    words += ["--output=/dev/null", "--ntasks=1", f"--cpus-per-task={settings.cpus}"]
    words += [f"--signal=B:TERM@{_SAVE_S}", f"--chdir={runs[0].home.path}"]
    for flag in ("partition", "account", "time"):
        if value := getattr(settings, flag):
            words.append(f"--{flag}={value}")
    if settings.gpus:
        words.append(f"--gres=gpu:{settings.gpus}")
    if before:
        words.append(f"--dependency=afterany:{':'.join(before)}")
    job = _call(*words, script=_script(runs, settings)).strip().partition(";")[0]
    try:
        for number, run in enumerate(runs):
            run.update(job=f"{job}_{number}")
        _call("scontrol", "release", job)
    except BaseException:
        # So that they can be submitted again.
        with suppress(OSError, LmbenchError):
            for run in runs:
                run.update(job="")
        with suppress(LmbenchError):
            _call("scancel", job)
        raise
    return job


def _script(runs: Sequence[Run], settings: SlurmSettings) -> str:
    """What a job does: find its run, write into its log from then on, and work on it."""
    folders = "\n".join(shlex.quote(str(run.path)) for run in runs)
    setup = "\n".join(settings.setup)
    task = shlex.join(python("lmbench.jobs.places.slurm_task"))
    return f"""#!/bin/bash
runs=(
{folders}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
exec >> "$run/log.txt" 2>&1 || exit 2
{setup}
export LMBENCH_HOME={shlex.quote(str(runs[0].home.path))}
exec {task} "$run"
"""


def _machines(settings: SlurmSettings) -> list[str]:
    """The host names of the nodes that runs may be sent to, a name for each node.

    Raises:
        LmbenchError: Slurm does not answer.
    """
    where = [f"--partition={settings.partition}"] if settings.partition else []
    return _call("sinfo", "--noheader", "--Node", "--format=%n", *where).split()


def _call(*words: str, script: str | None = None) -> str:
    """What a command of Slurm writes.

    Raises:
        LmbenchError: it fails, or does not answer.
    """
    try:
        done = subprocess.run(
            words, input=script, capture_output=True, text=True, check=False, timeout=_ANSWER_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LmbenchError(f"{words[0]}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise LmbenchError(f"{words[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout
