"""A session as one file to share: ``NAME.lmbench``, a zip.

Packing is deterministic: the same session gives the same bytes. Unpacking trusts nothing. The
whole table of contents is judged before a byte is written, every name has to be one that a
session can hold, sizes are limited by declaration *and* while extracting, and the session appears
under its name only when all of it is there and its records can be read.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from lmbench.errors import LmbenchError, os_error_line
from lmbench.session.files import (
    files_in,
    fsync_folder,
    json_bytes,
    parse_json,
    take_name,
    temporary_file,
)
from lmbench.session.leftovers import unnamed_folder
from lmbench.session.manage import (
    at_rest,
    attempts_at_rest,
    put_in_place,
    refuse_begun,
    refuse_busy,
)
from lmbench.session.records import FORMAT_VERSION, LIVE, RunRecord, SessionRecord, parse_record
from lmbench.session.rename import rename_refs
from lmbench.session.store import Home, Session, check_session_name

__all__ = ["SUFFIX", "Packed", "SessionExistsError", "pack", "unpack"]

SUFFIX = ".lmbench"


class SessionExistsError(LmbenchError):
    """An archive's session has the `name` of one that is here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a session '{name}' already; unpack with --name NEW")
        self.name = name


# What a run's folder and its checkpoints may hold besides the files that are named below. None of
# these formats can carry code that a reader would run.
_KINDS_OF_FILE = "json|jsonl|txt|yaml|safetensors|lmpack|onnx|csv|md|html|svg"
_FILE = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}\.(?:{_KINDS_OF_FILE})"
_RUN = r"runs/\d{3,9}-[a-z]{1,20}"
_KNOWN = re.compile(
    r"session\.json|sweep\.yaml|proposals\.json|samples\.jsonl"
    rf"|vocabulary/[0-9a-f]{{1,64}}\.txt|{_RUN}/{_FILE}"
    rf"|(?:schedules|quantization|recipes)/[A-Za-z0-9_][A-Za-z0-9 ._-]{{0,99}}\.ya?ml"
    rf"|{_RUN}/(?:last|best)/{_FILE}"
)

_MAX_FILES = 200_000
_MAX_RECORD_BYTES = 32 * 2**20
# How much an archive may grow: all of it, and what is beyond question.
_MAX_GROWTH = 100
_HARMLESS_BYTES = 64 * 2**20
_CHUNK = 2**20
# The earliest date that a zip can name. An archive says nothing about when it was made.
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_ENCRYPTED = 0x1
# What a zip that was tampered with makes its reader raise.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)


@dataclass(frozen=True)
class Packed:
    """What packing made: the file, and what it left out because no session holds such a file."""

    path: Path
    bytes: int
    left_out: tuple[str, ...]


def pack(session: Session, target: Path, *, replace: bool = False) -> Packed:
    """Write the session into one file, in the place of another one only with `replace`.

    Locks, process numbers and requests to workers stay out; a run that is lost or queued is written
    as lost or stopped, since no process will be there.

    Raises:
        LmbenchError: a run is being worked on, or the file cannot be written.
    """
    before = attempts_at_rest(session, "packed")
    contents = list(_contents(session))
    known = [(n, source) for n, source in contents if source is not None and _KNOWN.fullmatch(n)]
    _refuse_alike([name for name, _ in known])
    try:
        with temporary_file(target) as (partial, file):
            _write(file, known, zipfile.ZIP_DEFLATED)
            with zipfile.ZipFile(file) as archive:
                grows = _grows_too_much(archive.infolist(), file.seek(0, 2))
            if grows:
                # Nothing but zeros, say. What we pack we must also be willing to unpack.
                file.seek(0)
                file.truncate()
                _write(file, known, zipfile.ZIP_STORED)
            refuse_begun(session, before, "packed")
            file.flush()
            os.fsync(file.fileno())
            if replace:
                partial.replace(target)
            else:
                take_name(partial, target)
        fsync_folder(target.parent)
    except OSError as error:
        if Path(str(error.filename)).is_relative_to(session.path):
            raise LmbenchError(os_error_line(error, "cannot be read")) from None
        raise LmbenchError(f"cannot be written: {error.strerror or error} ({target})") from None
    packed = {name for name, _ in known}
    left_out = tuple(name for name, _ in contents if name not in packed)
    return Packed(target, target.stat().st_size, left_out)


def _refuse_alike(names: list[str]) -> None:
    """Raises LmbenchError for names that differ in case alone: `unpack` takes them for one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise LmbenchError(
                f"{other} and {name} differ in case alone, which is one file on some systems: "
                "rename one of them"
            )


def _files_and_links(folder: Path) -> Iterator[Path]:
    """Every file below a folder, and each folder in it that is a link, into which none looks."""
    yield from files_in(folder)
    for root, folders, _ in os.walk(folder):
        yield from (path for name in folders if (path := Path(root, name)).is_symlink())


def _contents(session: Session) -> Iterator[tuple[str, Path | bytes | None]]:
    """Each file that stays, under its name in the archive, in the order of the names; None for
    links, and for what lies in folders of runs that have no record. The folder of the runs, that of
    a run and those of its checkpoints may be links themselves, to a larger disk."""
    found: dict[str, Path | bytes | None] = {}
    runs = session.runs()
    names = {run.path.name for run in runs}
    folders = [run.path / name for run in runs for name in ("", "last", "best")]
    linked = [path for path in (session.runs_path, *folders) if path.is_symlink()]
    seen: set[int] = set()
    for path in itertools.chain.from_iterable(map(_files_and_links, (session.path, *linked))):
        name = path.relative_to(session.path)
        passing = any(part.startswith(".") for part in name.parts) or name.name == "control"
        if passing or path in linked or not (path.is_file() or path.is_symlink()):
            continue
        lost = name.parts[0] == "runs" and len(name.parts) > 2 and name.parts[1] not in names
        found[name.as_posix()] = None if lost or path.is_symlink() else path
    for run in runs:
        # What we pack we must also be willing to unpack: a number, or a kind, by hand.
        if run.id in seen:
            session.run(run.id)
        seen.add(run.id)
        where = f"runs/{run.path.name}"
        resting = at_rest(run)
        if resting.status in LIVE:
            refuse_busy(session, "packed", queued=False)
            # It has ended between the two looks.
            resting = at_rest(run)
        # Not from the file when it is written: the run may be resumed until then.
        document = resting.model_dump(mode="json")
        # A folder may have been copied under another number.
        document |= {"id": run.id, "kind": run.path.name.partition("-")[2]}
        parse_record(RunRecord, document, run.path)
        found[f"{where}/run.json"] = json_bytes(document)
        for which in ("last", "best"):
            folder = run.checkpoint(which)
            if folder is not None and folder.name != which:
                # A death between two renames: the whole one stands under its neighbour's name.
                for path in folder.iterdir():
                    found[f"{where}/{which}/{path.name}"] = path
    swapped = re.compile(rf"{_RUN}/(?:last|best)\.(?:new|old)/.*")
    yield from sorted((n, p) for n, p in found.items() if not swapped.fullmatch(n))


def _write(target: BinaryIO, contents: list[tuple[str, Path | bytes]], method: int) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, source in contents:
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = _UNIX
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = method
            if isinstance(source, bytes):
                archive.writestr(info, source)
                continue
            info.file_size = source.stat().st_size
            with archive.open(info, "w") as out, source.open("rb") as file:
                shutil.copyfileobj(file, out, _CHUNK)


def unpack(path: Path, home: Home, name: str | None = None) -> Session:
    """Make the session that the archive holds, under its own name or the one given.

    Raises:
        SessionExistsError: there is a session of that name.
        LmbenchError: the file is no such archive, is damaged, or holds anything that a session
            does not. Nothing has been written then.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _judged(path, archive)
            record = _check_records(path, archive, infos)
            target = _target(home, name or record.name)
            _check_room(path, home, infos)
            for info in infos:
                for _ in _chunks(archive, info):
                    pass
            return _extract(archive, infos, home, target, record)
    except FileNotFoundError:
        raise LmbenchError(f"no such file ({path})") from None
    except IsADirectoryError:
        raise LmbenchError(
            f"a folder; unpack takes the file that lmbench sessions pack wrote ({path})"
        ) from None
    except _DAMAGES as error:
        raise LmbenchError(f"no lmbench archive, or a damaged one: {error} ({path})") from None


def _judged(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The table of contents, every line of it found harmless."""
    infos = archive.infolist()
    if len(infos) > _MAX_FILES:
        raise LmbenchError(f"refused: holds {len(infos):,} files ({path})")
    seen: set[str] = set()
    for info in infos:
        problem = _problem(info)
        if problem is None and info.filename.lower() in seen:
            problem = "is there twice"
        if problem:
            raise LmbenchError(f"refused: entry {info.orig_filename[:200]!r} {problem} ({path})")
        seen.add(info.filename.lower())
    size = path.stat().st_size
    if sum(info.compress_size for info in infos) > size:
        raise LmbenchError(f"refused: its entries overlap ({path})")
    if _grows_too_much(infos, size):
        total = sum(info.file_size for info in infos)
        raise LmbenchError(
            f"refused: {size:,} bytes that would grow to {total:,} are no honest session ({path})"
        )
    return infos


def _problem(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry's name or nature."""
    name = info.orig_filename
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of the session"
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode == stat.S_IFLNK:
        return "is a link"
    if mode not in (0, stat.S_IFREG) and not info.is_dir():
        return "is no plain file"
    if name != info.filename or not _KNOWN.fullmatch(name):
        return "is nothing that a session holds"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that lmbench does not use"
    return None


def _grows_too_much(infos: list[zipfile.ZipInfo], size: int) -> bool:
    return sum(info.file_size for info in infos) > max(_HARMLESS_BYTES, _MAX_GROWTH * size)


def _check_records(
    path: Path, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]
) -> SessionRecord:
    """Read the session's record and each run's; all must be complete, ended, and understood."""
    names = {info.filename: info for info in infos}
    if "session.json" not in names:
        raise LmbenchError(f"refused: holds no session.json ({path})")
    session = _record(SessionRecord, path, archive, names["session.json"])
    numbers: set[int] = set()
    for folder in sorted({name.split("/")[1] for name in names if name.startswith("runs/")}):
        record_name = f"runs/{folder}/run.json"
        if record_name not in names:
            raise LmbenchError(f"refused: runs/{folder} has no run.json ({path})")
        record = _record(RunRecord, path, archive, names[record_name])
        if folder != f"{record.id:03d}-{record.kind}":
            raise LmbenchError(f"refused: {record_name} is the record of another run ({path})")
        if record.id in numbers:
            raise LmbenchError(f"refused: run {record.id} is there twice ({path})")
        if record.status == "queued" or record.status in LIVE:
            raise LmbenchError(
                f"refused: {record_name} is {record.status}; an archive holds ended runs ({path})"
            )
        numbers.add(record.id)
    return session


R = TypeVar("R", RunRecord, SessionRecord)


def _record(model: type[R], path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> R:
    where = f"{info.filename} in {path}"
    if info.file_size > _MAX_RECORD_BYTES:
        raise LmbenchError(f"refused: too large for a record ({where})")
    data = b"".join(_chunks(archive, info))
    return parse_record(model, parse_json(data, where, version=FORMAT_VERSION), where)


def _target(home: Home, name: str) -> Session:
    session = Session(home.sessions_path / check_session_name(name))
    if session.path.exists():
        raise SessionExistsError(name)
    return session


def _check_room(path: Path, home: Home, infos: list[zipfile.ZipInfo]) -> None:
    total = sum(info.file_size for info in infos)
    place = next(p for p in (home.sessions_path, *home.sessions_path.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if total > free:
        raise LmbenchError(f"it needs {total:,} bytes, but {home.path} has {free:,} free ({path})")


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """What the entry really holds, checked against its declared size and its checksum."""
    size = 0
    with archive.open(info) as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > info.file_size:
                break
            yield chunk
    if size != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is not as long as declared")


def _extract(
    archive: zipfile.ZipFile,
    infos: list[zipfile.ZipInfo],
    home: Home,
    target: Session,
    record: SessionRecord,
) -> Session:
    home.sessions_path.mkdir(parents=True, exist_ok=True)
    with unnamed_folder(home.sessions_path) as staged:
        (staged / "runs").mkdir()
        for info in infos:
            out = staged / info.filename
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("xb") as file:
                file.writelines(_chunks(archive, info))
        if target.name != record.name:
            Session(staged).write(record.model_copy(update={"name": target.name}))
            rename_refs(staged, record.name, target.name)
        put_in_place(staged, target)
    return target
