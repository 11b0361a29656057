"""The lists that a form's fields choose from, with a few words on each entry."""

from __future__ import annotations

import itertools
from pathlib import Path

from lmbench.corpus import data_list
from lmbench.distiller.quantization import settings_files as quantization
from lmbench.distiller.schedules.preset_files import preset_names, preset_summary
from lmbench.jobs.distillation_teacher import PARENT
from lmbench.printable import printable
from lmbench.session.files import write_atomic
from lmbench.session.store import Session
from lmbench.tui.bench.bench import Bench

__all__ = [
    "EDITOR",
    "corpora",
    "forget_schedule",
    "offered",
    "own_schedules",
    "save_schedule",
    "schedule_folder",
    "schedules",
]

EDITOR = "write your own"
"""The entry that stands for the schedule editor."""

_FOLDER = "schedules"


def offered(kind: str, bench: Bench) -> list[tuple[str, str]]:
    """The entries of the list that ``choices_from`` names: values with words about them."""
    match kind:
        case "corpora":
            return corpora(bench.home.path)
        case "schedules":
            own = own_schedules(bench.session) if bench.session else []
            return [(EDITOR, "the schedule editor"), *own, *schedules()]
        case "quantization_presets":
            names = quantization.preset_names()
            return [(name, printable(quantization.preset_description(name))) for name in names]
        case "teachers":
            return [(PARENT, "the run that this one starts from"), *offered("runs", bench)]
        case "runs":
            return [
                (view.run.ref, f"{view.kind} {view.name}, {view.status}")
                for view in bench.snapshot.runs
                if view.kind in ("train", "prune")
            ]
    return []


def corpora(home: Path) -> list[tuple[str, str]]:
    """What ``--data`` takes by name, those that are here first."""
    entries = sorted(data_list(home), key=lambda entry: not entry.is_here)
    return [
        (entry.name, printable(entry.about if entry.is_here else f"is fetched: {entry.about}"))
        for entry in entries
    ]


def schedules() -> list[tuple[str, str]]:
    """The presets that come with the package."""
    return [(name, preset_summary(name).partition(". ")[0]) for name in preset_names()]


def schedule_folder(session: Session) -> Path:
    """Where a session keeps the schedules that were written in it."""
    return session.path / _FOLDER


def save_schedule(session: Session, stem: str, text: str) -> str:
    """Write a schedule into the session, under a name that no other one has; its path from the
    working folder."""
    folder = schedule_folder(session)
    folder.mkdir(exist_ok=True)
    names = (f"{stem}.yaml" if n == 1 else f"{stem}-{n}.yaml" for n in itertools.count(1))
    paths = (folder / name for name in names)
    path = next(p for p in paths if not p.exists() or p.read_text(encoding="utf-8") == text)
    write_atomic(path, text.encode())
    return str(path.relative_to(session.home.path))


def forget_schedule(session: Session, path: str, text: str) -> None:
    """Remove what `save_schedule` wrote, unless it was changed since."""
    whole = session.home.path / path
    try:
        if whole.read_text(encoding="utf-8") == text:
            whole.unlink()
    except OSError:
        return


def own_schedules(session: Session) -> list[tuple[str, str]]:
    """The session's own schedules, as paths from the working folder."""
    folder = schedule_folder(session)
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return [(str(path.relative_to(session.home.path)), "saved in this session") for path in found]
