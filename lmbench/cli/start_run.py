"""Commands that make a run: how they start it, and what they print where they do not follow it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from lmbench.cli.flags import whole
from lmbench.cli.foreground import command_line, interrupts_after, work_through
from lmbench.cli.output import answer, complain, note, print_json, print_line
from lmbench.config import Config, Kind, TrainConfig
from lmbench.config.command_line import run_name
from lmbench.errors import INTERRUPTED, LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.distillation_teacher import lasting_name
from lmbench.jobs.prepare import make_run
from lmbench.jobs.queue import awaited_parent
from lmbench.jobs.reproduce import begin
from lmbench.jobs.sweeps.axes import MOST_VALUES
from lmbench.report.numbers import plural
from lmbench.report.seeds import one_setting, spread_of
from lmbench.report.tables import run_document
from lmbench.session import Run, Session
from lmbench.session.manage import run_name_problem
from lmbench.session.store import LIVE

__all__ = [
    "Detach",
    "PlaceName",
    "RunName",
    "Seeds",
    "derive",
    "derive_all",
    "named_with_seed",
    "new_run",
    "resume_run",
    "start",
    "start_all",
    "submit_elsewhere",
    "work_through_all",
]


def _check_seeds(_type: object, seeds: int | None) -> None:
    if seeds is not None and not 1 <= seeds <= MOST_VALUES:
        raise LmbenchError(f"--seeds {seeds}: give a number from 1 to {MOST_VALUES:,}")


Seeds = Annotated[
    int | None,
    Parameter(
        converter=whole,
        validator=_check_seeds,
        help="make this many runs that differ only in their seed, from --seed on; where the run to "
        "start from is one of several seeds, one from each of those",
    ),
]


def _check_run_name(_type: object, name: str | None) -> None:
    if name is not None and (problem := run_name_problem(name)):
        raise LmbenchError(f"--name: {problem}")


RunName = Annotated[
    str | None,
    Parameter(help="what the run is called in tables and plots", validator=_check_run_name),
]

Detach = Annotated[
    bool,
    Parameter(
        negative="",
        help="leave it running in the background, once what is at work there has ended; without, "
        "a single run begins at once",
    ),
]

PlaceName = Annotated[
    Literal["local", "slurm", "ray"],
    Parameter(
        name="--place",
        help="where it is worked on: this machine, or a Slurm or Ray cluster (docs/clusters.md)",
    ),
]


def new_run(
    session: Session,
    kind: Kind,
    config: Config,
    *,
    parent: Run | None = None,
    name: str | None = None,
    place: str = "local",
) -> Run:
    """The queued run that this command asks for."""
    return make_run(
        session, kind, config, parent=parent, name=name, command=command_line(), place=place
    )


def derive(
    parent: Run,
    kind: Kind,
    config: Config,
    *,
    name: str | None,
    detach: bool,
    json: bool,
    place: str = "local",
) -> tuple[Run, int]:
    """Make, start and follow a run of `parent`; gives it and the command's exit code.

    Raises:
        LmbenchError: the parent has no checkpoint to work on, so nothing is made.
    """
    if parent.checkpoint("best") is None and not detach:
        raise LmbenchError(
            f"run {parent.ref} ({parent.status()}) has no model to start from: have it trained "
            "first (lmbench runs resume), or let --detach queue this behind it"
        )

    make = partial(new_run, parent.session, kind, config, parent=parent, name=name, place=place)
    return start(make, detach=detach, json=json)


def start(
    make: Callable[[], Run], *, detach: bool, json: bool, document: bool = True
) -> tuple[Run, int]:
    """Make a run and follow it, or leave it in the background; gives it and the exit code.

    Args:
        document: False leaves the JSON document to a caller that has several.
    """
    if not detach:
        begun = partial(launch.start_new, make, queue=False)
        return work_through(begun, json=json, document=document)
    run = launch.start_new(make)
    if document or not json:
        show = f"`lmbench runs log {shlex.quote(run.ref)} --follow` or `lmbench tui` show it"
        answer(run_document(run), f"{run.ref} is {run.status()}: {show}", json=json)
    return run, 0


def start_all(make: Callable[[], Iterator[Run]], *, detach: bool, json: bool) -> int:
    """Make the runs of several seeds, one after the other, and work through them, or leave them to
    the queue; gives the exit code."""
    with launch.all_or_none() as runs:
        with interrupts_after():
            runs.extend(make())
        if detach:
            launch.start_all(runs)
        else:
            submit_elsewhere(runs)
    code = 0 if detach else work_through_all(runs, json=json, go_on=True)
    kept = [run for run in runs if not was_deleted(run)]
    if json:
        print_json([run_document(run) for run in kept])
    elif detach:
        print_line(f"{', '.join(run.ref for run in kept)}: `lmbench runs list` shows them")
    else:
        print_line(over_seeds(kept))
    return code


def over_seeds(runs: Sequence[Run]) -> str:
    """The test perplexity of runs that differ in seed alone, in a line."""
    done = [run.read() for run in runs if run.status() == "finished"]
    spread = spread_of(record.results.get("test_ppl") for record in done)
    return "no seed has a test perplexity" if spread is None else f"test ppl {spread.text()}"


def named_with_seed(name: str | None, kind: Kind, config: Config, seed: int) -> str:
    """What the run of one of several seeds is called."""
    return f"{name or run_name(kind, config)} s{seed}"


def resume_run(run: Run, *, detach: bool, json: bool, place: str | None = None) -> tuple[Run, int]:
    """Have a run go on and follow it, or leave it in the background; gives it and the exit code."""

    def begin() -> Run:
        launch.resume(run, queue=detach, place=place)
        return run

    if not detach:
        return work_through(begin, json=json)
    begin()
    answer(run_document(run), f"{run.ref} goes on", json=json)
    return run, 0


def derive_all(
    parent: Run,
    kind: Kind,
    config: Config,
    seeds: int,
    *,
    name: str | None,
    detach: bool,
    json: bool,
    place: str = "local",
) -> int:
    """As `derive`, from `parent` and the runs that differ from it in seed alone; gives the exit
    code.

    Raises:
        LmbenchError: there are not so many of them with a model, or it is a run of no working
            folder; nothing is made then.
    """
    parent.session.check_takes_runs()
    parents = siblings(parent, seeds)
    if isinstance(config, TrainConfig):
        config = config.model_copy(update={"teacher": lasting_name(config.teacher, parent.session)})

    def make() -> Iterator[Run]:
        for one in parents:
            seed = _seed(one)
            own = config.model_copy(update={"seed": seed}) if kind == "prune" else config
            called = named_with_seed(name, kind, config, seed)
            yield new_run(one.session, kind, own, parent=one, name=called, place=place)

    return start_all(make, detach=detach, json=json)


def siblings(parent: Run, seeds: int) -> list[Run]:
    """`seeds` runs that differ from `parent` in seed alone, itself the first.

    Raises:
        LmbenchError: there are not so many that are finished.
    """
    # A damaged record is no run to start from.
    done = [
        run
        for run in parent.session.runs()
        if run == parent or run.status_if_readable() == "finished"
    ]
    done.sort(key=lambda run: (run != parent, run.id))
    [group] = [group for group in one_setting(done) if parent in group]
    if len(group) < seeds:
        numbers = ", ".join(str(run.id) for run in group)
        raise LmbenchError(
            f"--seeds {seeds}: of {parent.ref} there {'is' if len(group) == 1 else 'are'} "
            f"{plural(len(group), 'finished seed')} ({numbers}): train the others first "
            f"(lmbench train --seeds {seeds})"
        )
    return group[:seeds]


def _seed(run: Run) -> int:
    """Of a trained run."""
    return int(getattr(run.config(), "seed", 0))


def work_through_all(runs: Sequence[Run], *, json: bool, go_on: bool = False) -> int:
    """Work through runs one after the other, those that are finished passed over, and those that
    somebody deletes meanwhile; gives the exit code. Ctrl-C stops the one at work and takes the
    others out of the queue.

    Args:
        go_on: past a run that fails or is stopped, with those that do not need it; else that ends
            it as Ctrl-C does: what starts from half a model is not what was asked for.
    """
    code = 0
    submit_elsewhere(runs)
    for place, run in enumerate(runs):
        try:
            if run.status() == "finished":
                continue
            if go_on and _stays_behind(run):
                # On a cluster several are at work at once, of which one is followed.
                record = run.read()
                if (status := run.status(record)) != "queued" and not record.stopped_early:
                    why = launch.why_lost(run) if status == "lost" else record.reason
                    complain(f"{run.ref}: {why or f'was {status} before its end'}")
                    code = 1
                continue
            if not json:
                note(f"{place + 1} of {len(runs)}: {run.ref} {run.read().name}")
            # By the queue alone: beside the supervisor that the first run leaves, one that is begun
            # at once would compute beside another, or before the run that it starts from is
            # finished.
            _, failed = work_through(partial(begin, run), json=json, document=False)
            if not go_on and run.status() == "stopped":
                note("the same command again goes on with it")
                failed = INTERRUPTED
        except LmbenchError:
            if not was_deleted(run):
                raise
            complain(f"{run.ref} was deleted")
            failed = 1
        if failed == INTERRUPTED or (failed and not go_on):
            _stop_those_left([run for run in runs if not was_deleted(run)])
            return failed
        code = code or min(failed, 1)
    return code


def was_deleted(run: Run) -> bool:
    """By another process, since it was made."""
    return not run.path.is_dir()


def submit_elsewhere(runs: Sequence[Run]) -> None:
    """What goes to a cluster is submitted whole, and followed one after the other."""
    launch.start_all([run for run in runs if run.read().place != "local"])


def _stays_behind(run: Run) -> bool:
    """Has it ended, or does it wait for a run that ended before its end?"""
    return run.status() not in ("queued", *LIVE) or awaited_parent(run) is not None


def _stop_those_left(runs: Sequence[Run]) -> None:
    """Take out of the queue what waits there, the last first: the supervisor would go on with it,
    and may have begun with one."""
    with interrupts_after():
        for run in reversed(runs):
            try:
                if run.status() in ("queued", *LIVE):
                    launch.request(run, "stop")
            except LmbenchError as error:
                note(f"{run.ref}: {error.message}")
