"""The lists that a form's fields choose from, with a few words on each entry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lmbench.corpus import data_list
from lmbench.distiller.quantization import settings_files as quantization
from lmbench.distiller.schedules.preset_files import preset_names, preset_summary
from lmbench.jobs.distillation_teacher import PARENT
from lmbench.jobs.input_files import name_of_file
from lmbench.printable import printable
from lmbench.session.files import write_atomic
from lmbench.session.store import Session
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.snapshots import RunView

__all__ = [
    "EDITOR",
    "corpora",
    "offered",
    "open_prune_form",
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
    """Write a schedule into the session, under a name that no other one has; gives what settings
    call it."""
    folder = schedule_folder(session)
    folder.mkdir(exist_ok=True)
    names = (f"{stem}.yaml" if n == 1 else f"{stem}-{n}.yaml" for n in itertools.count(1))
    paths = (folder / name for name in names)
    path = next(p for p in paths if not p.exists() or p.read_text(encoding="utf-8") == text)
    write_atomic(path, text.encode())
    return name_of_file(path, session.home)


async def open_prune_form(
    bench: Bench, view: RunView, write: Callable[[], tuple[str, str]]
) -> bool:
    """Open the form of a run that prunes another by a schedule that `write` puts into that one's
    session, in a thread; it gives the schedule's path and text. Where no run is started the file
    goes again, unless it was there before or was changed since. False where it cannot be written.
    """
    session = view.run.session
    kept = {path for path, _ in own_schedules(session)}
    written = await bench.run_in_thread(write)
    if written is None:
        return False
    path, text = written

    def left(started: str | None) -> None:
        whole = session.home.path / path
        with suppress(OSError):
            if started is None and path not in kept and whole.read_text(encoding="utf-8") == text:
                whole.unlink()

    settings = {"compress": path}
    bench.open("new_run", then=left, kind="prune", settings=settings, parent=view.key)
    return True


def own_schedules(session: Session) -> list[tuple[str, str]]:
    """The session's own schedules, as settings call them."""
    folder = schedule_folder(session)
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return [(name_of_file(path, session.home), "saved in this session") for path in found]
