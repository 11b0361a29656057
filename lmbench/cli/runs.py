"""``lmbench runs``: what runs there are, and what to ask of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from lmbench.cli.flags import Whole
from lmbench.cli.output import (
    WIDE,
    Json,
    SessionName,
    Yes,
    answer,
    complain,
    complain_of_damaged,
    confirm,
    console,
    pairs_table,
    print_json,
    print_line,
    write,
)
from lmbench.cli.start_run import Detach, PlaceName, RunName, resume_run
from lmbench.config.setting import value_text
from lmbench.errors import BAD_INPUT, LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.queue import refuse_needed
from lmbench.report import numbers
from lmbench.report.tables import run_document, runs_table
from lmbench.session import Home, Run, Status, read_events
from lmbench.session.events import Epoch, Event, RunStarted, Step
from lmbench.session.manage import delete_run, refuse_folder, rename_run
from lmbench.session.store import LIVE
from lmbench.user_folder import expanded

__all__ = ["app"]

app = App(name="runs")


@app.command(name="list")
def list_(
    *,
    session: Annotated[
        str | None, Parameter(help="only this session's; left out, those of all sessions")
    ] = None,
    status: Annotated[tuple[Status, ...], Parameter(help="only runs in this state")] = (),
    json: Json = False,
) -> None:
    """The runs, oldest first."""
    home = Home.find()
    runs = list(home.all_runs() if session is None else home.session(session).runs())
    if status:
        runs = [run for run in runs if run.status_if_readable() in status]
    documents = [run_document(run) for run in runs]
    complain_of_damaged(documents)
    if json:
        print_json([document for document in documents if "problem" not in document])
    elif runs:
        console(pipe_width=WIDE).print(runs_table(runs))
    else:
        which = f" that are {' or '.join(status)}" if status else ""
        print_line(f"no runs{which} in {home.sessions_path}")


@app.command
def show(run: str, *, session: SessionName = "default", json: Json = False) -> None:
    """All that is known of a run.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, or a path.
    """
    found = Home.find().find_run(run, session)
    found.read()
    document = run_document(found)
    if document["status"] == "lost":
        document["reason"] = launch.why_lost(found)
    if json:
        print_json(document)
        return
    rows = [(key, _shown(key, value)) for key, value in document.items()]
    settings = (f"{name} = {value_text(value)}" for name, value in document["config"].items())
    rows = [(key, "\n".join(settings) if key == "config" else text) for key, text in rows]
    progress = _progress(read_events(found.events_path))
    if progress and document["status"] in LIVE:
        rows.append(("progress", progress))
    console().print(pairs_table(rows))


def _shown(key: str, value: object) -> str:
    if value is None:
        return ""
    if key in ("created", "started", "ended") and isinstance(value, float):
        return time.strftime("%F %T", time.localtime(value))
    if key == "seconds" and isinstance(value, int | float):
        return numbers.duration(value)
    if isinstance(value, dict):
        return "\n".join(f"{name} = {_shown('', item)}" for name, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    # Of a setting such as a learning rate four decimals may be none.
    return f"{value:,.4f}" if abs(value) >= 0.1 else f"{value:.4g}"


def _progress(events: Sequence[Event]) -> str:
    started = next((e for e in reversed(events) if isinstance(e, RunStarted)), None)
    step = next((e for e in reversed(events) if isinstance(e, Step)), None)
    epoch = next((e for e in reversed(events) if isinstance(e, Epoch)), None)
    if step is None:
        return ""
    total = f" of {started.total_steps:,}" if started and started.total_steps else ""
    text = f"step {step.step:,}{total}, epoch {step.epoch}, loss {step.loss:.3f}"
    return text + (f", valid ppl {epoch.valid_ppl:.2f}" if epoch else "")


@app.command(name="import")
def import_(
    file: Path,
    *,
    data: Annotated[
        str, Parameter(help="the corpus that the model was trained on: a name or a folder")
    ],
    vocab: Annotated[
        Literal["all", "train"], Parameter(help="whose words its vocabulary is")
    ] = "all",
    model: Annotated[
        Literal["RNN_TANH", "RNN_RELU"] | None,
        Parameter(help="the kind of Elman cells, which a file of tensors alone does not say"),
    ] = None,
    name: RunName = None,
    session: Annotated[str, Parameter(help="the session that gets the run")] = "default",
    json: Json = False,
) -> None:
    """Make a run of a model that PyTorch's example or Distiller has saved, called as the file is,
    without its ending, unless --name says otherwise.

    Args:
        file: model.pt or .pth.tar; its tensors are read, and nothing in it is run.
    """
    from lmbench.cli.foreground import command_line
    from lmbench.cli.progress import corpus_progress
    from lmbench.jobs.import_checkpoint import import_checkpoint

    with corpus_progress() as progress:
        found, lines = import_checkpoint(
            Home.find(), session, expanded(file), data,
            vocab=vocab, kind=model, name=name, command=command_line(), progress=progress,
        )  # fmt: skip
    if json:
        print_json({**run_document(found), "notes": lines})
        return
    print_line(f"run {found.ref}: {file}")
    for line in lines:
        print_line(f"  {line}")


@app.command
def pause(*run: str, session: SessionName = "default", json: Json = False) -> int:
    """Have runs wait, their process and memory kept.

    Args:
        run: one or more runs.
    """
    return _ask_all(run, session, "pause", json=json)


@app.command(name="continue")
def continue_(*run: str, session: SessionName = "default", json: Json = False) -> int:
    """Have paused runs go on.

    Args:
        run: one or more runs.
    """
    return _ask_all(run, session, "continue", json=json)


@app.command
def checkpoint(*run: str, session: SessionName = "default", json: Json = False) -> int:
    """Have trainings write a checkpoint now.

    Args:
        run: one or more runs.
    """
    return _ask_all(run, session, "checkpoint", json=json)


@app.command
def stop(
    *run: str,
    now: Annotated[
        bool, Parameter(negative="", help="kill the process; what was not saved is lost")
    ] = False,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Have runs finish their step, save, and end; queued ones leave the queue.

    Args:
        run: one or more runs.
    """
    return _ask_all(run, session, "kill" if now else "stop", json=json)


_DONE: dict[launch.Action, str] = {
    "pause": "pauses after its step",
    "continue": "goes on",
    "checkpoint": "writes a checkpoint after its step",
    "stop": "stops after its step",
    "kill": "was killed",
}


def _ask_all(refs: tuple[str, ...], session: str, action: launch.Action, *, json: bool) -> int:
    """Ask it of all, also where one refuses; gives the exit code."""
    runs = _find_all(refs, session)
    code = 0
    # Those that wait leave the queue first: the end of another would let them begin.
    for run in sorted(runs, key=lambda run: run.status_if_readable() != "queued"):
        before = run.status_if_readable()
        try:
            launch.request(run, action)
        except LmbenchError as error:
            complain(error.message)
            code = BAD_INPUT
            continue
        if not json:
            done = "has left the queue" if before == "queued" else _DONE[action]
            print_line(f"{run.ref} {done}")
    if json:
        print_json([run_document(run) for run in runs])
    return code


def _find_all(refs: tuple[str, ...], session: str) -> list[Run]:
    """The runs that are meant, each once; all are found before anything is done to one."""
    if not refs:
        raise LmbenchError("name at least one run: SESSION/3, 3, a name, @ or a path")
    home = Home.find()
    return list(dict.fromkeys(home.find_run(ref, session) for ref in refs))


@app.command
def resume(
    run: str,
    *,
    detach: Detach = False,
    place: PlaceName | None = None,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Go on with a run that was stopped, failed or lost, exactly where its checkpoint is.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, or a path.
    """
    home = Home.find()
    found = home.find_run(run, session)
    return resume_run(found, detach=detach, json=json, place=place)[1]


@app.command
def join(run: str, *, session: SessionName = "default", json: Json = False) -> None:
    """Have this machine train one run (--nodes) together with the machine that works on it, until
    the run ends; given on each of the others, in the folder that they share (docs/several-gpus.md).

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, or a path.
    """
    from lmbench.jobs.join_ranks import join_ranks

    found = Home.find().find_run(run, session)
    node = join_ranks(found)
    line = f"the part of machine {node} in {found.ref} has ended"
    answer({"run": str(found.path), "node": node}, line, json=json)


@app.command
def rename(run: str, name: str, *, session: SessionName = "default", json: Json = False) -> None:
    """Call a run otherwise; its number and folder stay as they are.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, or a path.
        name: its new name.
    """
    found = Home.find().find_run(run, session)
    rename_run(found, name)
    answer(run_document(found), f"{found.ref} is now called {name}", json=json)


@app.command
def delete(
    *run: str, yes: Yes = False, session: SessionName = "default", json: Json = False
) -> None:
    """Remove runs and their checkpoints for good.

    Args:
        run: one or more runs.
    """
    runs = _find_all(run, session)
    for found in runs:
        refuse_folder(found)
        status = found.status_if_readable()
        if status in LIVE:
            raise LmbenchError(f"run {found.ref} is {status}; stop it before you delete it")
    for home in {found.home for found in runs}:
        refuse_needed(home, [found for found in runs if found.home == home])
    names = ", ".join(found.ref for found in runs)
    confirm(f"Delete {names} for good?", yes=yes)
    for found in runs:
        delete_run(found)
    deleted = [{"run": str(found.path), "deleted": True} for found in runs]
    answer(deleted, f"deleted {names}", json=json)


@app.command
def log(
    run: str,
    *,
    follow: Annotated[
        bool, Parameter(name=("--follow", "-f"), negative="", help="go on until the run ends")
    ] = False,
    lines: Annotated[
        Whole, Parameter(name=("--lines", "-n"), help="only the last lines; 0 shows all")
    ] = 0,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """What a run's worker wrote.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, or a path.
    """
    if lines < 0:
        raise LmbenchError(f"--lines {lines}: a number of lines is 0 or more")
    if follow and json:
        raise LmbenchError("--follow goes on for as long as the run does: leave out --json")
    found = Home.find().find_run(run, session)
    text, position = _read_log(found, 0)
    if lines:
        text = "".join(text.splitlines(keepends=True)[-lines:])
    if json:
        print_json({"run": str(found.path), "status": found.status(), "log": text})
        return
    write(text)
    for _ in launch.follow(found) if follow else ():
        text, position = _read_log(found, position)
        write(text)


def _read_log(run: Run, position: int) -> tuple[str, int]:
    """Whole lines from `position` on, and where they end (all there is, once the run has ended)."""
    try:
        with run.log_path.open("rb") as file:
            file.seek(position)
            data = file.read()
    except FileNotFoundError:
        return "", position
    if run.status() in LIVE:
        data = data[: data.rfind(b"\n") + 1]
    return data.decode("utf-8", "replace"), position + len(data)
