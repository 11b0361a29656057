"""Candidates of the laboratory: settings, and what each was evaluated to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

import yaml

from lmbench.config import QuantizeConfig, changed_settings, validate
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import name_of_file
from lmbench.jobs.prepare import command_for, make_run
from lmbench.session import Run
from lmbench.session.files import write_atomic
from lmbench.tui.laboratory.quantization_settings import Settings

__all__ = [
    "Candidate",
    "State",
    "are_settings",
    "best_first",
    "from_json",
    "start_quantize_run",
    "to_json",
]

State = Literal["waiting", "running", "evaluated", "failed"]


@dataclass(frozen=True)
class Candidate:
    """`settings` are the engine's ({} for the model as it is); `preset` names them where they are
    a preset's unchanged; `words` describe how they differ from what they were made from."""

    number: int
    name: str
    settings: Settings
    preset: str = ""
    words: str = ""
    state: State = "waiting"
    loss: float = math.inf
    ppl: float = math.inf
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""

    def evaluated(self, loss: float, ppl: float, size: int, seconds: float) -> Candidate:
        return replace(self, state="evaluated", loss=loss, ppl=ppl, bytes=size, seconds=seconds)

    def waiting(self) -> Candidate:
        return Candidate(self.number, self.name, self.settings, self.preset, self.words)


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The evaluated ones, the least loss first (of equals the smaller); then those that wait, in
    their order; then those that failed."""
    order = {"evaluated": 0, "running": 1, "waiting": 2, "failed": 3}
    return sorted(candidates, key=lambda c: (order[c.state], c.loss, c.bytes, c.number))


_ASKED = ("number", "name", "settings", "preset", "words")
_SCORES = ("loss", "ppl", "bytes", "seconds")


def to_json(candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
    """Those that did not fail, to be saved; one without scores waits again when it is read."""
    return [
        {key: getattr(c, key) for key in (*_ASKED, *_SCORES * (c.state == "evaluated"))}
        for c in candidates
        if c.state != "failed"
    ]


def from_json(document: Any) -> list[Candidate]:
    """What was saved; entries that do not fit are left out."""
    found = []
    for entry in document if isinstance(document, list) else []:
        if not isinstance(entry, dict) or set(entry) - set(_SCORES) != set(_ASKED):
            continue
        scores = [entry[name] for name in _SCORES if name in entry]
        texts = (entry["name"], entry["preset"], entry["words"])
        good = all(isinstance(n, int | float) for n in (entry["number"], *scores))
        good = good and all(isinstance(text, str) for text in texts)
        good = good and len(scores) in (0, len(_SCORES))
        if good and (entry["settings"] == {} or are_settings(entry["settings"])):
            found.append(Candidate(**entry, state="evaluated" if scores else "waiting"))
    return found


def are_settings(value: Any) -> TypeGuard[Settings]:
    """Does the engine know what was saved as settings?"""
    if not isinstance(value, dict) or not isinstance(value.get("overrides"), dict):
        return False
    try:
        QuantSettings.from_dict(value)
    except QuantizationError:
        return False
    return True


def start_quantize_run(parent: Run, chosen: Candidate) -> Run:
    """Make a quantize run of a candidate; settings that no preset has go into a file.

    In a thread: writes files and starts a process.
    """
    from lmbench.jobs import launch

    session, name, path = parent.session, chosen.name, None
    try:
        if chosen.preset:
            given: dict[str, Any] = {"preset": chosen.preset}
        else:
            folder = session.path / "quantization"
            folder.mkdir(exist_ok=True)
            path = _free(folder, parent.path.name)
            write_atomic(path, yaml.safe_dump(dict(chosen.settings), sort_keys=False).encode())
            given = {"config": name_of_file(path, session.home)}
        config = validate(QuantizeConfig, given)
        command = command_for("quantize", changed_settings(config), parent=parent.ref, name=name)
        make = partial(make_run, session, "quantize", config, parent=parent)
        return launch.start_new(partial(make, name=name, command=command))
    except (LmbenchError, OSError):
        if path is not None:
            path.unlink(missing_ok=True)
        raise


def _free(folder: Path, stem: str) -> Path:
    """A file of that folder that is not there yet."""
    numbers = itertools.count(1)
    return next(p for n in numbers if not (p := folder / f"{stem}-{n}.yaml").exists())
