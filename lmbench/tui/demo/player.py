"""Plays recorded runs into a working folder, at their pace or faster."""

from __future__ import annotations

import json
import os
import platform
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.session import Home, Run, Session
from lmbench.session.process import process_started
from lmbench.session.records import RunRecord, SessionRecord, parse_record

__all__ = ["Player", "recording"]

SESSION = "demo"
# What the first run did is history when the demo opens; the next one begins after this long.
_HISTORY = 1
_PAUSE_S = 1.5
_OPENING_S = 2.0


def recording() -> Path:
    """The recorded session that comes with lmbench."""
    return Path(__file__).parent / "session.zip"


@dataclass
class _Recorded:
    """One run of the recording: its lines with the seconds since its own start."""

    folder: str
    record: RunRecord
    lines: list[tuple[float, dict[str, Any]]]
    begins: float = 0.0
    written: int = 0
    status: str = "queued"

    @property
    def seconds(self) -> float:
        return self.lines[-1][0] if self.lines else 0.0


@dataclass
class Player:
    """Writes a recording into `home` as time goes by.

    `start` makes the session with everything that is history; `advance` writes what is due by a
    moment. `speed` says how many times faster than it was recorded.
    """

    archive: Path
    home: Home
    speed: float = 1.0
    _runs: list[_Recorded] = field(default_factory=list)
    _began: float = 0.0

    def start(self, now: float) -> Session:
        """Lay out the session as it stands at its opening; `now` is the time of day.

        Raises:
            LmbenchError: the recording is missing or damaged.
        """
        try:
            with zipfile.ZipFile(self.archive) as archive:
                files = {name: archive.read(name) for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as error:
            raise LmbenchError(f"{self.archive}: no recording to play ({error})") from None
        self._began = now
        self._runs = list(_recorded(files))
        self._lay_out_time()
        session = Session(self.home.sessions_path / SESSION)
        session.runs_path.mkdir(parents=True, exist_ok=True)
        record = parse_record(SessionRecord, json.loads(files["session.json"]), "session.json")
        session.write(record.model_copy(update={"name": SESSION, "workbench": {}}))
        if "samples.jsonl" in files:
            session.samples_path.write_bytes(files["samples.jsonl"])
        for recorded in self._runs:
            run = Run(session.runs_path / recorded.folder)
            run.path.mkdir()
            self._write_record(run, recorded, "queued")
        self.advance(now)
        return session

    def advance(self, now: float) -> bool:
        """Write what has happened by `now`; is there more to come?"""
        played = (now - self._began) * self.speed
        for recorded in self._runs:
            run = Run(self.home.sessions_path / SESSION / "runs" / recorded.folder)
            if played < recorded.begins or not run.path.is_dir():
                continue
            if recorded.status == "queued":
                self._write_record(run, recorded, "running")
            due = []
            while recorded.written < len(recorded.lines):
                at, document = recorded.lines[recorded.written]
                if recorded.begins + at > played:
                    break
                due.append(json.dumps({**document, "t": self._time_of(recorded, at)}))
                recorded.written += 1
            if due:
                with run.events_path.open("a", encoding="utf-8") as file:
                    file.write("\n".join(due) + "\n")
            if recorded.written == len(recorded.lines) and recorded.status == "running":
                self._write_record(run, recorded, recorded.record.status)
        return any(recorded.written < len(recorded.lines) for recorded in self._runs)

    def _lay_out_time(self) -> None:
        """The runs one after another, without the waits between them."""
        history = self._runs[:_HISTORY]
        at = -sum(recorded.seconds + _PAUSE_S for recorded in history)
        for index, recorded in enumerate(self._runs):
            if index == len(history):
                at = _OPENING_S
            recorded.begins = at
            at += recorded.seconds + _PAUSE_S

    def _time_of(self, recorded: _Recorded, at: float) -> float:
        return self._began + (recorded.begins + at) / self.speed

    def _write_record(self, run: Run, recorded: _Recorded, status: str) -> None:
        """The record as a worker, which is us, would have it."""
        recorded.status = status
        running = status == "running"
        changes: dict[str, Any] = {
            "status": status,
            "host": platform.node(),
            "pid": os.getpid() if running else None,
            "process_started": process_started(os.getpid()) if running else None,
            "created": self._time_of(recorded, 0.0),
            "started": None if status == "queued" else self._time_of(recorded, 0.0),
            "ended": None,
        }
        if status in ("queued", "running"):
            changes |= {"results": {}, "reason": "", "exit_code": None}
        else:
            changes["ended"] = self._time_of(recorded, recorded.seconds)
        run.write(recorded.record.model_copy(update=changes))


def _recorded(files: dict[str, bytes]) -> Iterator[_Recorded]:
    """The runs in an archive's files, in the order of their numbers."""
    folders = sorted(name.split("/")[1] for name in files if name.endswith("/run.json"))
    for folder in folders:
        where = f"runs/{folder}/run.json"
        record = parse_record(RunRecord, json.loads(files[where]), where)
        lines = files.get(f"runs/{folder}/events.jsonl", b"").splitlines()
        documents = [json.loads(line) for line in lines]
        first = documents[0]["t"] if documents else 0.0
        yield _Recorded(folder, record, [(d["t"] - first, d) for d in documents])
