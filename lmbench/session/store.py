"""Sessions and runs as folders: the one record of all work.

A `Session` is a folder under ``sessions/``; a `Run` is a folder under ``SESSION/runs/``. Objects
here are views of what is on disk: they hold a path, read on demand, and write atomically. The
worker owns ``run.json`` from the moment it has started; before that the launcher does.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmbench.config import Config, Kind, changed_settings, parse_config
from lmbench.errors import LmbenchError
from lmbench.session.attempts import shows_life
from lmbench.session.files import locked, read_json, settled, write_atomic, write_json
from lmbench.session.leftovers import remove_leftovers, unnamed_folder
from lmbench.session.process import current_folder, process_started, same_start
from lmbench.session.records import (
    FORMAT_VERSION,
    LIVE,
    Corpus,
    RunRecord,
    SessionRecord,
    Status,
    parse_record,
)
from lmbench.session.rename import finish_rename
from lmbench.user_folder import expanded

__all__ = [
    "DEFAULT_SESSION",
    "FORMAT_VERSION",
    "LIVE",
    "TRAINED_FILE",
    "Corpus",
    "Home",
    "Run",
    "RunRecord",
    "Session",
    "SessionRecord",
    "Status",
    "check_session_name",
    "is_path",
]

DEFAULT_SESSION = "default"

TRAINED_FILE = "trained.safetensors"
"""In a checkpoint, beside the model that is told of it: the module as it trained."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_MODEL_KINDS = ("train", "prune", "quantize", "pack")
_RUN_FOLDER = re.compile(r"(\d{3,})-([a-z]+)")
# A run's folder, or one that was set aside and may come back.
_NUMBERED = re.compile(r"(?:\.deleted-[0-9a-f]{8}-)?(\d{3,})-([a-z]+)(?:@.*)?")
_FINGERPRINT = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Run:
    """One run's folder. `staging` is the folder of the attempt whose worker writes through it
    (`lmbench.session.attempts`); None for all others."""

    path: Path
    staging: Path | None = field(default=None, compare=False)

    @property
    def session(self) -> Session:
        return Session(self.path.parent.parent)

    @property
    def id(self) -> int:
        match = _RUN_FOLDER.fullmatch(self.path.name)
        return int(match[1]) if match else 0

    @property
    def has_model(self) -> bool:
        """Is there a model in it: a checkpoint, or a packed file?"""
        match = _RUN_FOLDER.fullmatch(self.path.name)
        if match is None or match[2] not in _MODEL_KINDS:
            return False
        checkpoints = (self.checkpoint("best"), self.checkpoint("last"))
        return any(checkpoints) or any(self.path.glob("*.lmpack"))

    @property
    def in_session(self) -> bool:
        """Is it a run of a session, rather than some folder with a record?"""
        named = _RUN_FOLDER.fullmatch(self.path.name) and self.path.parent.name == "runs"
        return bool(named) and self.session.exists()

    @property
    def ref(self) -> str:
        """How the command line names it: ``SESSION/NNN-kind``."""
        return f"{self.session.name}/{self.path.name}"

    @property
    def home(self) -> Home:
        return self.session.home

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def control_path(self) -> Path:
        return self.path / "control"

    def checkpoint(self, which: str) -> Path | None:
        """The folder of the checkpoint ``last`` or ``best``, or None where there is none yet."""
        return settled(self.path / which)

    def vocabulary(self, record: RunRecord | None = None) -> list[str]:
        """The words of the run's corpus in order of their ids, as the session keeps them."""
        corpus = (record or self.read()).corpus
        if corpus is None:
            raise LmbenchError(f"run {self.ref} has no corpus yet: its worker has not begun")
        return self.session.read_vocabulary(corpus.fingerprint)

    def read(self) -> RunRecord:
        """The record as it stands on disk.

        Raises:
            LmbenchError: missing, damaged, or of a newer version; names the file and the field.
        """
        path = self.path / "run.json"
        return parse_record(RunRecord, read_json(path, version=FORMAT_VERSION), path)

    def read_if_readable(self) -> RunRecord | None:
        """None where the record is damaged or gone."""
        try:
            return self.read()
        except LmbenchError:
            return None

    def write(self, record: RunRecord) -> None:
        write_json(self.path / "run.json", record.model_dump(mode="json"), self.staging)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the record meanwhile.

        Raises:
            LmbenchError: the run was deleted.
        """
        if not self.path.is_dir():
            raise LmbenchError(f"run {self.ref} was deleted: there is no folder {self.path}")
        with locked(self.path / ".lock"):
            yield

    def update(self, **changes: Any) -> RunRecord:
        """Change some fields; only for the record's owner (see the module's docstring)."""
        with self.locked():
            record = self.read().model_copy(update=changes)
            self.write(record)
        return record

    def transition(
        self, status: Status, *, only_if: Callable[[RunRecord], bool] | None = None, **changes: Any
    ) -> RunRecord | None:
        """Change the status, and what goes with it: an ended run and a queued one have no process,
        an ended one the time of its end, a queued one no reason and exit code yet and, where it was
        stopped early, no further early stopping.

        Args:
            only_if: looks at the record under the lock; where it is false, nothing is changed.
            changes: further fields.

        Returns:
            The new record, or None where nothing was changed.
        """
        with self.locked():
            record = self.read()
            if only_if is not None and not only_if(record):
                return None
            fields: dict[str, Any] = {"status": status}
            if status not in LIVE:
                fields |= {"pid": None, "process_started": None}
                fields["ended"] = None if status == "queued" else time.time()
            if status == "queued":
                fields |= {"reason": "", "exit_code": None}
                # Who resumes a run that its sweep has stopped early wants it to go on.
                fields["early_stopping"] = "off" if record.early_stopping else ""
            record = record.model_copy(update=fields | changes)
            self.write(record)
        return record

    def config(self) -> Config:
        """Its settings.

        Raises:
            LmbenchError: its record, or a setting in it, is damaged.
        """
        record = self.read()
        try:
            return parse_config(record.kind, record.config)
        except LmbenchError as error:
            raise LmbenchError(f"field 'config': {error} ({self.path / 'run.json'})") from None

    def status(self, record: RunRecord | None = None) -> Status:
        """The status as it really is: a live run whose process is gone (of another machine: has
        given no sign of life lately) is ``lost``."""
        record = record or self.read()
        if record.status not in LIVE:
            return record.status
        there = (
            self.alive(record) if record.host == platform.node() else shows_life(self.path, record)
        )
        return record.status if there else "lost"

    def status_if_readable(self) -> Status | None:
        """None where the record is damaged or gone: nobody works on such a run."""
        record = self.read_if_readable()
        return record and self.status(record)

    def alive(self, record: RunRecord | None = None) -> bool:
        """Is the process that works on this run there? Known by pid *and* start time."""
        record = record or self.read()
        if record.pid is None or record.process_started is None:
            return False
        started = process_started(record.pid)
        return started is not None and same_start(started, record.process_started)

    def model_bytes(self) -> int | None:
        """Bytes of the weights' file, of the best checkpoint if there is one."""
        folder = self.checkpoint("best") or self.checkpoint("last")
        path = folder and folder / "model.safetensors"
        return path.stat().st_size if path and path.is_file() else None


@dataclass(frozen=True)
class Session:
    """One session's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def home(self) -> Home:
        return Home(self.path.parent.parent)

    @property
    def runs_path(self) -> Path:
        return self.path / "runs"

    @property
    def samples_path(self) -> Path:
        return self.path / "samples.jsonl"

    def exists(self) -> bool:
        return (self.path / "session.json").is_file()

    def read(self) -> SessionRecord:
        """Raises LmbenchError where it is missing, damaged, or of a newer version."""
        path = self.path / "session.json"
        return parse_record(SessionRecord, read_json(path, version=FORMAT_VERSION), path)

    def write(self, record: SessionRecord) -> None:
        write_json(self.path / "session.json", record.model_dump(mode="json"))

    def update(self, **changes: Any) -> SessionRecord:
        """Change some fields; two processes that do so at once both succeed."""
        with locked(self.path / ".lock"):
            record = self.read().model_copy(update=changes)
            self.write(record)
        return record

    def write_vocabulary(self, fingerprint: str, words: list[str]) -> None:
        """Keep a corpus's words here, so that models speak where the corpus is not at hand."""
        path = self._vocabulary_path(fingerprint)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, "\n".join(words).encode())

    def read_vocabulary(self, fingerprint: str) -> list[str]:
        path = self._vocabulary_path(fingerprint)
        try:
            return path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise LmbenchError(f"the vocabulary cannot be read: {error} ({path})") from None

    def _vocabulary_path(self, fingerprint: str) -> Path:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise LmbenchError(
                "the record of a run is damaged: its corpus has the fingerprint "
                f"{fingerprint[:80]!r} ({self.path})"
            )
        return self.path / "vocabulary" / f"{fingerprint[:32]}.txt"

    def runs(self) -> list[Run]:
        """All runs, oldest first. Folders that are no runs are passed over."""
        if not self.runs_path.is_dir():
            return []
        found = [Run(p) for p in self.runs_path.iterdir() if _RUN_FOLDER.fullmatch(p.name)]
        # Not by Path.is_file: it fails at a folder that another user lets nobody look into.
        there = (run for run in found if os.path.isfile(run.path / "run.json"))  # noqa: PTH113
        return sorted(there, key=lambda run: run.id)

    def records(self) -> Iterator[tuple[Run, RunRecord]]:
        """The runs with their records, oldest first. Damaged ones are passed over: lists show what
        is wrong with them."""
        for run in self.runs():
            if record := run.read_if_readable():
                yield run, record

    def run(self, number: int) -> Run:
        """The run of that number.

        Raises:
            LmbenchError: there is none, or, copied by hand, several.
        """
        found = [run for run in self.runs() if run.id == number]
        if not found:
            raise LmbenchError(f"session '{self.name}' has no run {number} ({self._has()})")
        if len(found) > 1:
            folders = ", ".join(run.path.name for run in found)
            raise LmbenchError(
                f"session '{self.name}' has several runs {number} ({folders}): name one by its "
                "folder, and give the others numbers of their own"
            )
        return found[0]

    def _has(self) -> str:
        ids = [str(run.id) for run in self.runs()]
        return f"it has {', '.join(ids)}" if ids else "it has none yet"

    def check_takes_runs(self) -> None:
        """Raises LmbenchError where the session lies in no working folder."""
        if self.path.parent.name != "sessions" or not self.exists():
            raise LmbenchError(
                f"{self.path} is no session of a working folder (sessions/NAME), so no run can be "
                "made in it: copy the run that you name to sessions/NAME/runs/NNN-kind"
            )

    def new_run(
        self,
        config: Config,
        kind: Kind,
        *,
        name: str | None = None,
        parent: Run | str | None = None,
        command: str = "",
        point: str = "",
        place: str = "local",
        fill: Callable[[Run], None] = lambda run: None,
    ) -> Run:
        """A new folder with a ``queued`` record, or as `fill` leaves it; the number is the
        session's next.

        Raises:
            LmbenchError: the session lies in no working folder, where its runs could not be found.
        """
        self.check_takes_runs()
        self.runs_path.mkdir(exist_ok=True)
        for folder in (self.path.parent, self.path):
            remove_leftovers(folder)
        with locked(self.path / ".lock"):
            taken = [
                int(match[1])
                for entry in self.runs_path.iterdir()
                if (match := _NUMBERED.fullmatch(entry.name))
            ]
            number = max(taken, default=0) + 1
            record = RunRecord(
                id=number,
                name=name or kind,
                kind=kind,
                config=changed_settings(config),
                parent=parent.ref if isinstance(parent, Run) else parent,
                command=command,
                cwd=current_folder(),
                point=point,
                place=place,
            )
            path = self.runs_path / f"{number:03d}-{kind}"
            # The record is there before the folder has its name, so no one sees a run without one.
            with unnamed_folder(self.runs_path) as staged:
                Run(staged).write(record)
                fill(Run(staged))
                staged.rename(path)
        return Run(path)


@dataclass(frozen=True)
class Home:
    """The working folder: holds ``data/`` and ``sessions/``."""

    path: Path

    @classmethod
    def find(cls) -> Home:
        """``$LMBENCH_HOME``, else the current folder."""
        return cls(expanded(os.environ.get("LMBENCH_HOME") or Path.cwd()).resolve())

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def sessions_path(self) -> Path:
        return self.path / "sessions"

    def sessions(self) -> list[Session]:
        """All sessions, by name."""
        finish_rename(self.sessions_path)
        if not self.sessions_path.is_dir():
            return []
        folders = (p for p in self.sessions_path.iterdir() if not p.name.startswith("."))
        # One that may not be looked at, another user's, is passed over.
        found = (Session(p) for p in folders if os.path.isfile(p / "session.json"))  # noqa: PTH113
        return sorted(found, key=lambda s: s.name)

    def session(self, name: str) -> Session:
        """The session of that name, which must exist."""
        finish_rename(self.sessions_path)
        session = Session(self.sessions_path / check_session_name(name))
        if not session.exists():
            names = ", ".join(s.name for s in self.sessions()) or "none yet"
            raise LmbenchError(f"no session '{name}' in {self.sessions_path} (there are: {names})")
        return session

    def open_session(self, name: str = DEFAULT_SESSION) -> Session:
        """The session of that name, made if it is not there."""
        finish_rename(self.sessions_path)
        session = Session(self.sessions_path / check_session_name(name))
        if not session.exists():
            session.runs_path.mkdir(parents=True, exist_ok=True)
            with locked(session.path / ".lock"):
                if not session.exists():
                    session.write(SessionRecord(name=name))
        return session

    def all_runs(self) -> Iterator[Run]:
        """Of all sessions, but for those that are deleted meanwhile or may not be looked at."""
        for session in self.sessions():
            with suppress(OSError):
                yield from session.runs()

    def run_of(self, ref: str) -> Run | None:
        """The run that a record names as its parent, ``SESSION/NNN-kind``; None where there is
        none."""
        where, _, folder = ref.rpartition("/")
        if not _NAME.fullmatch(where) or not _RUN_FOLDER.fullmatch(folder):
            return None
        run = Run(Session(self.sessions_path / where).runs_path / folder)
        return run if (run.path / "run.json").is_file() else None

    def find_run(
        self, ref: str, session: str = DEFAULT_SESSION, *, with_model: bool = False
    ) -> Run:
        """The run that a user means: ``SESSION/3``, ``SESSION/003-train``, ``3``, ``@`` (the
        newest of the session), a run's name, or a path to its folder.

        Args:
            ref: what the user wrote.
            session: the session that is meant where `ref` names none.
            with_model: ``@`` passes over runs that have no model (yet).

        Raises:
            LmbenchError: no such run, or a name that fits several.
        """
        path = expanded(ref)
        if (path / "run.json").is_file() and not self._names_run(ref, session):
            path = path.absolute()
            # Where sessions/ is a link, the working folder is the one that has the link.
            as_named = (
                path.parts[-4::2] == ("sessions", "runs")
                and _RUN_FOLDER.fullmatch(path.name) is not None
                and ".." not in path.parts
            )
            if not as_named:
                return Run(path.resolve())
            home = path.parents[3]
            return Run(home.resolve() / path.relative_to(home))
        if is_path(ref):
            what = "this is no run's folder" if path.exists() else "there is no such run or file"
            raise LmbenchError(f"{ref}: {what}; name a run (SESSION/3, 3, @) or the folder of one")
        where, _, what = ref.rpartition("/")
        home = self.session(where or session)
        if what == "@":
            runs = [run for run in home.runs() if not with_model or run.has_model]
            if not runs:
                what = "no run with a model yet" if with_model else "no run yet"
                raise LmbenchError(f"session '{home.name}' has {what}")
            return runs[-1]
        if what.isdecimal():
            return home.run(int(what))
        named = [r for r in home.runs() if _is_called(r, what)]
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(str(r.id) for r in named)
            raise LmbenchError(f"'{what}' names several runs of session '{home.name}': {ids}")
        if path.is_file():
            raise LmbenchError(
                f"{ref}: a file, and no run has that name; name a run (SESSION/3, 3, @)"
            )
        raise LmbenchError(f"session '{home.name}' has no run '{what}' ({home._has()})")

    def file_of(self, ref: str, session: str) -> Path | None:
        """The file or folder of a model that a user means by `ref`, None for a run: of that name or
        number it is the run, whatever is called so."""
        path = expanded(ref)
        weights = path / "model.safetensors"
        is_one = path.is_file() or (weights.is_file() and not (path / "run.json").is_file())
        return path if is_one and (is_path(ref) or not self._names_run(ref, session)) else None

    def _names_run(self, ref: str, session: str) -> bool:
        """Is it the number or the name of a run in that session, whatever folder is called so?"""
        runs = Session(self.sessions_path / session).runs() if _NAME.fullmatch(session) else []
        return any(ref == str(run.id) or _is_called(run, ref) for run in runs)


_MODEL_FILES = frozenset({".lmpack", ".safetensors"})


def is_path(ref: str) -> bool:
    """Does it mean a folder or a file wherever a run may be named, there or not?"""
    path = Path(ref)
    return path.is_absolute() or ref.startswith((".", "~")) or path.suffix in _MODEL_FILES


def _is_called(run: Run, name: str) -> bool:
    record = run.read_if_readable()
    return name in (run.path.name, record and record.name)


def check_session_name(name: str) -> str:
    """A session's name is a folder's name: letters, digits, space, dot, dash, underscore."""
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise LmbenchError(
            f"session name {name!r}: use up to 64 letters, digits, spaces, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    return name
