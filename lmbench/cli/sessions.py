"""``lmbench sessions``: the sessions of the working folder, as folders and as files to share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from lmbench.cli.output import (
    WIDE,
    Json,
    Yes,
    answer,
    complain_of_damaged,
    confirm,
    console,
    note,
    print_json,
    print_line,
)
from lmbench.errors import LmbenchError
from lmbench.jobs.queue import refuse_needed
from lmbench.report import numbers
from lmbench.report.tables import run_document, runs_table, sessions_table
from lmbench.session import Home, Session
from lmbench.session.archive import SUFFIX, pack, unpack
from lmbench.session.files import files_in
from lmbench.session.manage import copy_session, delete_session, refuse_busy, rename_session
from lmbench.session.store import LIVE
from lmbench.user_folder import expanded

__all__ = ["app"]

app = App(name="sessions")

Named = Annotated[
    str | None, Parameter(name="--session", help="the session, where NAME is left out")
]


def _session_document(session: Session) -> dict[str, Any]:
    """A session in short; `problem` says what is wrong with a damaged one."""
    statuses = []
    problem = None
    for run in session.runs():
        try:
            statuses.append(run.status())
        except LmbenchError as error:
            problem = error.message
    try:
        record = session.read()
    except LmbenchError as error:
        record, problem = None, error.message
    size = 0
    for file in files_in(session.path):
        # A file that is being written has another name in the next moment.
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return {
        "session": str(session.path),
        "name": session.name,
        "created": record.created if record else None,
        "notes": record.notes if record else "",
        "corpus": record.corpus.name if record and record.corpus else None,
        "runs": len(session.runs()),
        "live": sum(status in LIVE for status in statuses),
        "queued": statuses.count("queued"),
        "bytes": size,
        "problem": problem,
    }


@app.command(name="list")
def list_(*, session: Named = None, json: Json = False) -> None:
    """The sessions of the working folder."""
    home = Home.find()
    found = home.sessions() if session is None else [home.session(session)]
    documents = [_session_document(one) for one in found]
    if json:
        print_json(documents)
    elif documents:
        console().print(sessions_table(documents))
    else:
        print_line(f"no sessions in {home.sessions_path}")


@app.command
def show(name: str | None = None, *, session: Named = None, json: Json = False) -> None:
    """A session and its runs.

    Args:
        name: the session.
    """
    found = Home.find().session(_name(name, session))
    document = _session_document(found)
    runs = found.runs()
    documents = [run_document(run) for run in runs]
    complain_of_damaged(documents)
    if json:
        print_json({**document, "runs": documents})
        return
    out = console(pipe_width=WIDE)
    out.print(f"{found.name}: {found.path} ({numbers.size(document['bytes'])})", soft_wrap=True)
    if document["notes"]:
        out.print(document["notes"])
    out.print(runs_table(runs) if runs else "it has no runs yet")


def _name(positional: str | None, flag: str | None) -> str:
    """The session that a command is about, named in either way."""
    if positional is not None and flag is not None and positional != flag:
        raise LmbenchError(f"which session: {positional!r} or --session {flag!r}?")
    named = flag if positional is None else positional
    return "default" if named is None else named


@app.command
def copy(
    name: str, new_name: str | None = None, *, session: Named = None, json: Json = False
) -> None:
    """Make a second session with all that the first holds.

    Args:
        name: the session.
        new_name: what the copy is called.
    """
    name, new_name = _two_names(name, new_name, session)
    made = copy_session(Home.find(), name, new_name)
    answer(_session_document(made), f"{name} is copied to {made.path}", json=json)


@app.command
def rename(
    name: str, new_name: str | None = None, *, session: Named = None, json: Json = False
) -> None:
    """Give a session another name.

    Args:
        name: the session.
        new_name: its new name.
    """
    name, new_name = _two_names(name, new_name, session)
    made = rename_session(Home.find(), name, new_name)
    answer(_session_document(made), f"{name} is now {new_name}", json=json)


def _two_names(first: str, second: str | None, flag: str | None) -> tuple[str, str]:
    """The old name and the new one: both by position, or the old one by its flag."""
    if second is not None:
        return _name(first, flag), second
    if flag is None:
        raise LmbenchError(f"session '{first}': and the new name?")
    return flag, first


@app.command
def delete(
    name: str | None = None, *, yes: Yes = False, session: Named = None, json: Json = False
) -> None:
    """Remove a session, its runs and their checkpoints for good.

    Args:
        name: the session.
    """
    home = Home.find()
    if name is None and session is None:
        raise LmbenchError("name the session to delete (lmbench sessions list shows them)")
    doomed = home.session(_name(name, session))
    refuse_busy(doomed, "deleted")
    refuse_needed(home, doomed.runs())
    document = _session_document(doomed)
    size = numbers.size(document["bytes"])
    runs = numbers.plural(document["runs"], "run")
    confirm(f"Delete session {doomed.name} ({runs}, {size}) for good?", yes=yes)
    delete_session(home, doomed.name)
    document = {"session": str(doomed.path), "name": doomed.name, "deleted": True}
    answer(document, f"deleted {doomed.name}", json=json)


@app.command(name="pack")
def pack_(
    name: str | None = None,
    *,
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help=f"the file to write; left out: NAME{SUFFIX} here"),
    ] = None,
    yes: Yes = False,
    session: Named = None,
    json: Json = False,
) -> None:
    """Write a session into one file, to share or to keep.

    Args:
        name: the session.
    """
    found = Home.find().session(_name(name, session))
    target = expanded(output) if output else Path(f"{found.name}{SUFFIX}")
    if target.is_dir():
        target = target / f"{found.name}{SUFFIX}"
    there = os.path.lexists(target)
    if there:
        confirm(f"{target} is there already. Replace it?", yes=yes)
    packed = pack(found, target, replace=there)
    for left_out in packed.left_out:
        note(f"left out: {left_out}")
    written = {"name": found.name, "path": str(packed.path), "bytes": packed.bytes}
    text = f"{found.name} is in {packed.path} ({numbers.size(packed.bytes)})"
    answer({**written, "left_out": list(packed.left_out)}, text, json=json)


@app.command(name="unpack")
def unpack_(
    archive: Path,
    *,
    name: Annotated[
        str | None, Parameter(name=("--name", "--session"), help="call the session this")
    ] = None,
    json: Json = False,
) -> None:
    """Make the session that a file holds. A file that holds anything else is refused whole.

    Args:
        archive: what lmbench sessions pack wrote.
    """
    made = unpack(expanded(archive), Home.find(), name)
    answer(_session_document(made), f"{made.name} is in {made.path}", json=json)
