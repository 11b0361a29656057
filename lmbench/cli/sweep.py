"""``lmbench sweep``: many runs by one file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from lmbench.cli.flags import free_place
from lmbench.cli.foreground import interrupts_after, work_through
from lmbench.cli.output import Json, Yes, answer, confirm, console, note, print_json, print_line
from lmbench.cli.progress import corpus_progress
from lmbench.cli.start_run import PlaceName, submit_elsewhere
from lmbench.errors import INTERRUPTED, LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.places import check_place
from lmbench.jobs.queue import refuse_needed
from lmbench.jobs.sweeps import control
from lmbench.jobs.sweeps.checking import Forecast, forecast, stage_rungs
from lmbench.jobs.sweeps.kept_file import kept_files
from lmbench.jobs.sweeps.status import (
    Setting,
    SweepStatus,
    plotted,
    sweep_status,
    value_words,
)
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.report.seeds import Spread
from lmbench.report.tables import AS_PACKED, OF_A_PART, PART_SIGN
from lmbench.session import Home, Run, Session

__all__ = ["app"]

app = App(name="sweep")

Holds = Annotated[
    str | None,
    Parameter(name="--session", help="the session of its runs; left out: the sweep's own name"),
]
Named = Annotated[str | None, Parameter(name="--session", help="the same as NAME")]
Detach = Annotated[
    bool, Parameter(negative="", help="leave the runs to the queue and come back at once")
]


@app.command
def check(file: Path, /, *, session: Holds = None, json: Json = False) -> None:
    """Check a sweep's file: each mistake is one line with the fix. Then how many runs it is, how
    long they take on this machine, and what they ask of the disk; nothing is made.

    Args:
        file: a YAML file (docs/sweeps.md).
    """
    home = Home.find()
    with corpus_progress() as progress:
        prepared = control.prepare(file, home, session, progress)
    stages = forecast(prepared.plan, prepared.runs, home)
    rungs = stage_rungs(prepared.plan, prepared.runs, home)
    total = _total(stages)
    if json:
        document = asdict(total)
        del document["stage"], document["kind"]
        each = [{**asdict(stage), "rungs": rungs.get(stage.stage, [])} for stage in stages]
        print_json({"session": prepared.session, **document, "stages": each})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for heading in ("runs", "time", "disk"):
        table.add_column(heading, justify="right")
    for row in (*stages, *((total,) if len(stages) > 1 else ())):
        disk = f"about {numbers.size(row.bytes)}"
        table.add_row(printable(row.stage), f"{row.runs:,}", _time(row.seconds), disk)
    out = console()
    out.print(table)
    for stage, epochs in rungs.items():
        after = f"after epochs {', '.join(map(str, epochs))}" if epochs else "none"
        out.print(f"rungs of {printable(stage)}: {after}", soft_wrap=True)
    out.print(f"{file.name}: in order; its session is {prepared.session}", soft_wrap=True)


def _total(stages: list[Forecast]) -> Forecast:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    return Forecast(
        "in all",
        "",
        sum(stage.runs for stage in stages),
        sum(known) if len(known) == len(stages) else None,
        sum(stage.bytes for stage in stages),
    )


def _time(seconds: float | None) -> str:
    return "not known" if seconds is None else f"about {numbers.duration(seconds)}"


@app.command
def start(
    file: Path,
    /,
    *,
    place: PlaceName = "local",
    session: Holds = None,
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Make all runs of a sweep and work through them.

    Called again with the same file it goes on with what was not made or not begun yet. Ctrl-C stops
    the sweep: the run at work saves and ends, the others leave the queue.

    Args:
        file: a YAML file (docs/sweeps.md).
    """
    home = Home.find()
    check_place(place, home)
    with corpus_progress() as progress:
        prepared = control.prepare(file, home, session, progress)
    made, runs = control.start(prepared, home, place)
    return _work_through(made, runs, detach=detach, json=json)


def _work_through(session: Session, runs: list[Run], *, detach: bool, json: bool) -> int:
    code = 0
    if detach:
        launch.start_all(runs)
    else:
        submit_elsewhere(runs)
        try:
            code = _follow(session, json=json)
        except KeyboardInterrupt:
            # Between two runs.
            code = INTERRUPTED
        if code == INTERRUPTED:
            with interrupts_after():
                control.stop(session)
    if json or not detach:
        _show(sweep_status(session), json=json)
    else:
        print_line(
            f"{session.name}: {numbers.plural(len(runs), 'run')}; lmbench sweep status "
            f"{shlex.quote(session.name)} and lmbench tui show them"
        )
    return code


def _follow(session: Session, *, json: bool) -> int:
    """Follow the runs of a sweep one after the other until none is left that will begin; gives the
    exit code. Ctrl-C stops the one at work."""
    failed_before = _failed(session)
    code = 0
    while True:
        run = control.next_run(session)
        if run is None:
            # What follows from the last end, the supervisor may not have seen to yet.
            control.advance(session)
            run = control.next_run(session)
        if run is None:
            # On a cluster several are at work at once, of which one is followed.
            return code or int(bool(_failed(session) - failed_before))
        if not json:
            note(f"{run.ref} {printable(run.read().name)}")
        _, failed = work_through(partial(_begun, run), json=json, document=False)
        if failed == INTERRUPTED:
            return failed
        code = code or min(failed, 1)


def _failed(session: Session) -> set[str]:
    made = control.made_runs(session).values()
    return {run.ref for run in made if run.status() in ("failed", "lost")}


def _begun(run: Run) -> Run:
    # What waits in the queue is left there: others may wait before it.
    if run.status() == "queued":
        launch.start(run)
    return run


@app.command
def status(
    name: str | None = None,
    *,
    plot: Annotated[
        Path | None,
        Parameter(
            help="write test perplexity against size here, with error bars over the seeds: a new "
            ".svg, .txt or .csv"
        ),
    ] = None,
    session: Named = None,
    json: Json = False,
) -> None:
    """The table of a sweep: a row for each setting, its figures over the seeds.

    Args:
        name: the sweep's session; left out where there is but one sweep.
    """
    sweep = sweep_status(_found(name, session))
    if plot is not None:
        _write_plot(sweep, plot)
    _show(sweep, json=json)


def _write_plot(sweep: SweepStatus, path: Path) -> None:
    from lmbench.report.pareto_front import front_plot
    from lmbench.report.plots.export import export

    place = free_place("--plot", path)
    if (corpora := len({row.corpus for row in sweep.rows if row.test})) > 1:
        raise LmbenchError(
            f"--plot {path}: perplexities on {corpora} corpora do not compare; give each a sweep"
        )
    front = front_plot([plotted(row) for row in sweep.rows])
    if front is None:
        raise LmbenchError(
            f"--plot {path}: fewer than two settings have a size and the perplexity of all of "
            "test yet"
        )
    export(front, place, f"{sweep.session}: test perplexity against size")


@app.command
def stop(name: str | None = None, *, session: Named = None, json: Json = False) -> None:
    """Have the run at work finish its step, save and end, and take the others out of the queue.

    Args:
        name: the sweep's session; left out where there is but one sweep.
    """
    found = _found(name, session)
    stopped = control.stop(found)
    line = f"{found.name}: {numbers.plural(stopped, 'run')} stopped or left the queue"
    answer({"session": found.name, "stopped": stopped}, line, json=json)


@app.command
def resume(
    name: str | None = None,
    *,
    retry_failed: Annotated[
        bool, Parameter(negative="", help="work on the failed runs again, too")
    ] = False,
    session: Named = None,
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Go on with a sweep: make the runs that are missing, and resume those that were stopped or
    lost, each from its checkpoint.

    Args:
        name: the sweep's session; left out where there is but one sweep.
    """
    found = _found(name, session)
    runs = control.resume(found, failed=retry_failed)
    return _work_through(found, runs, detach=detach, json=json)


@app.command
def delete(
    name: str | None = None, *, yes: Yes = False, session: Named = None, json: Json = False
) -> None:
    """Remove a sweep and its runs for good, and its session where that holds nothing else.

    Another run, notes, a sample, or a file that the sweep does not name keep the session.

    Args:
        name: the sweep's session.
    """
    if name is None and session is None:
        raise LmbenchError("name the sweep to delete (lmbench sessions list shows them)")
    found = _found(name, session)
    control.refuse_busy(found)
    made = list(control.made_runs(found).values())
    refuse_needed(found.home, made)
    runs = len(made)
    what = numbers.plural(runs, "run")
    if control.ends_session(found):
        kept = [str(path.relative_to(found.path)) for path in kept_files(found)]
        what = ", ".join([what, *map(printable, kept)]) + ", and its session"
    confirm(f"Delete sweep {found.name} ({what}) for good?", yes=yes)
    control.delete(found)
    document = {"session": found.name, "runs": runs, "deleted": True}
    answer(document, f"deleted {found.name}", json=json)


def _found(name: str | None, flag: str | None) -> Session:
    if name is not None and flag is not None and name != flag:
        raise LmbenchError(f"which sweep: {name!r} or --session {flag!r}?")
    return control.find_sweep(Home.find(), flag if name is None else name)


# -- the table ----------------------------------------------------------------------------------


def _show(sweep: SweepStatus, *, json: bool) -> None:
    if json:
        print_json(_document(sweep))
        return
    out = console()
    out.print(_table(sweep))
    counts = ", ".join(f"{count:,} {status}" for status, count in sweep.statuses.items())
    out.print(f"{sweep.session}: {counts or 'no runs yet'}", soft_wrap=True)
    for row in sweep.rows:
        for line in row.stopped_at:
            out.print(Text(printable(line)), soft_wrap=True)
    for line in _advice(sweep):
        out.print(line, soft_wrap=True)


def _advice(sweep: SweepStatus) -> Iterable[str]:
    resume = f"lmbench sweep resume {shlex.quote(sweep.session)}"
    ended = sum(sweep.statuses.get(status, 0) for status in ("stopped", "lost"))
    if sweep.to_propose:
        combinations = numbers.plural(sweep.to_propose, "combination")
        yield f"{combinations} still to be proposed, each when the one before has ended"
    if sweep.missing:
        yield f"{numbers.plural(sweep.missing, 'run')} not made yet: {resume} makes them"
    if ended:
        yield f"{numbers.plural(ended, 'run')} ended before the end: {resume} goes on with them"
    if sweep.stuck:
        yield f"{numbers.plural(sweep.stuck, 'run')} queued behind those"
    if sweep.statuses.get("failed"):
        yield f"what failed is left as it is: {resume} --retry-failed works on it again"


def _table(sweep: SweepStatus) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stage", *map(printable, sweep.columns), "runs"):
        table.add_column(heading)
    for heading in ("valid ppl", "test ppl", "sparsity", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("against the stage's best")
    for row in sweep.rows:
        values = [value_words(row.values.get(column)) for column in sweep.columns]
        part = PART_SIGN if row.part_tokens else ""
        size = numbers.size(*row.size)
        table.add_row(
            printable(row.stage),
            *values,
            _progress(row),
            _spread(row.valid, part),
            _spread(row.test, part),
            numbers.percent(row.sparsity),
            size if row.size.bytes else "",
            _behind(row),
        )
    notes = [AS_PACKED] * any(row.size.as_packed for row in sweep.rows)
    notes += [OF_A_PART] * any(row.part_tokens for row in sweep.rows)
    if notes:
        table.caption = Text("\n".join(notes), "dim")
        table.caption_justify = "left"
    return table


def _progress(row: Setting) -> str:
    done = row.statuses.get("finished", 0)
    others = [f"{count} {status}" for status, count in row.statuses.items() if status != "finished"]
    return ", ".join([f"{done} of {len(row.runs)}", *others])


def _spread(spread: Spread | None, part: str) -> str:
    return "" if spread is None else spread.text() + part


def _behind(row: Setting) -> str:
    if row.behind is None:
        return "" if row.valid is None else "best"
    return f"{row.behind:+.1%}" + (", inside the spread" if row.inside else "")


def _document(sweep: SweepStatus) -> dict[str, Any]:
    """`behind` is a share of the best's perplexity; of a figure of one seed `deviation` is null."""
    document = asdict(sweep)
    for row, setting in zip(document["rows"], sweep.rows, strict=True):
        del row["size"]
        row |= {"bytes": setting.size.bytes, "as_packed": setting.size.as_packed}
    return document
