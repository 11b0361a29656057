"""The copy of its file that a session keeps of its sweep, and of the files that this one names.

What goes on with a sweep reads the copy, so the original may be changed, moved or removed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.yaml_values import one_line, read_yaml
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import lasting_name
from lmbench.jobs.sweeps.plan import FILES, located
from lmbench.jobs.sweeps.sweep_file import RECIPE, SWEEP_FILE, Sweep, parse_sweep, read_text
from lmbench.session.files import files_in, write_atomic
from lmbench.session.leftovers import is_temporary
from lmbench.session.store import Run, RunRecord, Session

__all__ = [
    "Made",
    "has_sweep",
    "keep",
    "kept_files",
    "kept_path",
    "made_records",
    "other_files",
    "sweep_of",
]

Made = dict[str, tuple[Run, RunRecord]]
"""The runs of a sweep that there are, with their records, by their points."""

_FOLDERS = {
    "compress": "schedules",
    "config": "quantization",
    "stats": "quantization",
    RECIPE: "recipes",
}
_OWN = re.compile(r"session\.json|proposals\.json|vocabulary/[0-9a-f]{32}\.txt|\.(\w+\.)?lock")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._ -]|^[^A-Za-z0-9]")


def kept_path(session: Session) -> Path:
    return session.path / SWEEP_FILE


def has_sweep(session: Session) -> bool:
    return kept_path(session).is_file()


def sweep_of(session: Session) -> Sweep:
    """The sweep of a session, of its own copy.

    Raises:
        LmbenchError: it has none, or the copy is damaged.
    """
    if not has_sweep(session):
        raise LmbenchError(f"session '{session.name}' is no sweep: lmbench sweep start makes one")
    return parse_sweep(read_text(kept_path(session)), kept_path(session))


def kept_files(session: Session) -> list[Path]:
    """The files of a session that its sweep names, of schedules, recipes and quantizations."""
    named = {value for _, name, value in _named(sweep_of(session)) if name != "data"}
    return [path for value in sorted(named) if (path := session.path / value).is_file()]


def other_files(session: Session) -> list[Path]:
    """The files of a session that are neither of its sweep nor of its runs."""
    own = {*kept_files(session), kept_path(session)}
    runs = {run.path for run in session.runs()}
    found = (path for path in files_in(session.path) if path not in own)
    # What lies in a run's folder goes with the run.
    others = [path for path in found if not runs.intersection(path.parents)]
    return [path for path in others if not _is_own(path.relative_to(session.path))]


def _is_own(path: Path) -> bool:
    """Is it of the session itself: its record, words, locks, or what is not whole yet?"""
    return bool(_OWN.fullmatch(path.as_posix())) or any(map(is_temporary, path.parts))


def made_records(session: Session) -> Made:
    """The runs of a session's sweep that there are, the oldest first, but none before the one that
    it starts from, which may have been made anew. Damaged ones are left out."""
    left = {run.ref: (run, record) for run, record in session.records() if record.point}
    found: Made = {}

    def take(ref: str) -> None:
        if (one := left.pop(ref, None)) is not None:
            take(one[1].parent or "")
            found[one[1].point] = one

    for ref in list(left):
        take(ref)
    return found


def keep(session: Session, sweep: Sweep, folder: Path) -> None:
    """Copy a checked sweep into its session, with the schedules, recipes, quantization
    settings and statistics that it names; `folder` is where its file lies.

    The sweep's own file is written last: without it there is no sweep yet.

    Raises:
        LmbenchError: the session has another sweep; says what differs.
    """
    paths: dict[tuple[object, ...], str] = {}
    files: dict[Path, bytes] = {}
    for place, name, value in _named(sweep):
        found = located(name, value, folder, session.home)
        if name == "data":
            if found != value:
                paths[place] = found
        elif (session.home.path / found).is_file():
            data = (session.home.path / found).read_bytes()
            target = _target(session, name, Path(found), data, files)
            files[target] = data
            paths[place] = str(target.relative_to(session.path))
    assert sweep.places is not None
    text = sweep.places.replaced(paths | _runs_named(session, sweep))
    if has_sweep(session):
        # An earlier version kept the names of runs as they were written.
        _refuse_other(session, sweep, text, sweep.places.replaced(paths))
        return
    for target, data in files.items():
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            write_atomic(target, data)
    write_atomic(kept_path(session), text.encode())


def _runs_named(session: Session, sweep: Sweep) -> dict[tuple[object, ...], str]:
    """Where in the file runs are named to start from or to learn from, and each as
    ``SESSION/NNN-kind``: names and ``@`` may mean another run tomorrow."""
    found: dict[tuple[object, ...], str] = {}
    stages: set[str] = set()
    for number, stage in enumerate(sweep.stages):
        several = len(stage.sources) > 1
        for place, name in enumerate(stage.sources):
            if name not in stages:
                run = session.home.find_run(name, session.name, with_model=True)
                found["stages", number, "from", *([place] if several else [])] = run.ref
        stages.add(stage.name)
    for place, _, teacher in _named(sweep, ("teacher",)):
        found[place] = lasting_name(teacher, session) or teacher
    return found


def _named(
    sweep: Sweep, settings: Sequence[str] = (*FILES, "data")
) -> Iterator[tuple[tuple[object, ...], str, str]]:
    """Where in the file the values of these settings stand, for which setting, and they."""
    for number, stage in enumerate(sweep.stages):
        for name in settings:
            if isinstance(stage.settings.get(name), str):
                yield ("stages", number, "settings", name), name, stage.settings[name]
            for place, value in enumerate(stage.axes.get(name, ())):
                if isinstance(value, str):
                    yield ("stages", number, "axes", name, place), name, value


def _target(
    session: Session, name: str, path: Path, data: bytes, files: Mapping[Path, bytes]
) -> Path:
    """Where a file's copy goes: under its own name, or with a number where another one has that."""
    folder = session.path / _FOLDERS[name]
    stem = _UNUSUAL.sub("_", path.stem)[:80] or name
    number = 1
    while True:
        target = folder / (f"{stem}.yaml" if number == 1 else f"{stem}-{number}.yaml")
        there = files.get(target)
        if there is None and target.exists():
            there = target.read_bytes()
        if there is None or there == data:
            return target
        number += 1


def _refuse_other(session: Session, sweep: Sweep, text: str, as_written: str) -> None:
    kept = kept_path(session)
    try:
        before = _leaves(read_yaml(read_text(kept), kept.name, kind="sweep"))
    except ScheduleError as error:
        last = f"session '{session.name}' cannot go on with it: --session NAME starts this one anew"
        raise LmbenchError(*error.problems, last) from None
    now = _leaves(read_yaml(text, sweep.source, kind="sweep"))
    if before == _leaves(read_yaml(as_written, sweep.source, kind="sweep")):
        return
    lines = []
    for place in dict.fromkeys([*before, *now]):
        old, new = before.get(place, _NOTHING), now.get(place, _NOTHING)
        if (old, type(old)) != (new, type(new)):
            line = f"was {one_line(old, 80)}, is {one_line(new, 80)}"
            lines.append(sweep.problem(list(place), line))
    if lines:
        resume = f"lmbench sweep resume {shlex.quote(session.name)}"
        last = (
            f"session '{session.name}' has the sweep as it was: {resume} goes on with that, "
            "--session NAME starts this one beside it"
        )
        raise LmbenchError(*lines, last)


_NOTHING = "not there"


def _leaves(document: Any, place: tuple[object, ...] = ()) -> dict[tuple[object, ...], Any]:
    """Each plain value of a document by where it stands."""
    if isinstance(document, Mapping):
        entries: list[tuple[object, Any]] = list(document.items())
    elif isinstance(document, list):
        entries = list(enumerate(document))
    else:
        return {place: document}
    found: dict[tuple[object, ...], Any] = {}
    for key, value in entries:
        found |= _leaves(value, (*place, key))
    return found
