"""Fetching a corpus: checked, from a second source if need be, whole or not at all. No torch."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, cast

from lmbench.corpus.files import Progress, is_writable, publish, scratch_folder, sync
from lmbench.corpus.ids import SPLITS
from lmbench.corpus.sources import (
    LAYOUTS,
    Archive,
    PlainFiles,
    Remote,
    RemoteFile,
    Source,
    has_corpus,
    has_part_of_corpus,
    split_files,
)
from lmbench.errors import LmbenchError

__all__ = ["fetch"]

# The host of the archives turns away urllib's own user agent.
_HEADERS = {"User-Agent": "lmbench"}
_TIMEOUT = (10, 30)
_CHUNK = 1 << 16


def fetch(remote: Remote, folder: Path, progress: Progress | None = None) -> None:
    """Fetch ``remote`` into ``folder`` as train.txt, valid.txt and test.txt.

    Everything is downloaded and checked beside ``folder`` and moved there when it is whole, so
    an interrupted or failed fetch leaves nothing, and what is in ``folder`` already as it was.

    Raises LmbenchError when no source gives the right bytes, with each one's reason and where to
    put the files by hand, and when the folder cannot be written or holds a part of a corpus.
    """
    if has_part_of_corpus(folder):
        split_files(folder)  # says which file is missing: nothing of the user's is written over
    unwritable = (
        f"{remote.name} cannot be put into {folder}: {{}}; "
        "set LMBENCH_HOME to a folder that can be written"
    )
    if not is_writable(folder.parent):
        raise LmbenchError(unwritable.format(f"{folder.parent} is read-only"))
    try:
        with scratch_folder(folder.parent) as scratch:
            _try_sources(remote, folder, scratch, progress)
    except OSError as error:
        raise LmbenchError(unwritable.format(error.strerror or error)) from error


def _try_sources(remote: Remote, folder: Path, scratch: Path, progress: Progress | None) -> None:
    import requests

    reasons: list[str] = []
    for number, source in enumerate(remote.sources):
        built = scratch / f"source-{number}"
        built.mkdir()
        try:
            _download(source, built, remote.name, progress)
        except (requests.RequestException, ValueError, zipfile.BadZipFile) as error:
            reasons.append(f"{source.host}: {_reason(error)}")
            continue
        _install(built, folder)
        return
    names = ", ".join(LAYOUTS[0].format(split) for split in SPLITS)
    raise LmbenchError(
        f"{remote.name} could not be fetched ({'; '.join(reasons)}): "
        f"put {names} into {folder}, or train on pydoc, which needs no network"
    )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.RequestException):
        return "no connection" if isinstance(error, requests.ConnectionError) else "broken off"
    if isinstance(error, zipfile.BadZipFile):
        return "not a sound zip"
    return "the checksum does not match" if "hash" in str(error) else str(error)


def _download(source: Source, built: Path, name: str, progress: Progress | None) -> None:
    targets = {split: built / LAYOUTS[0].format(split) for split in SPLITS}
    match source:
        case PlainFiles(files=files):
            for split, target in targets.items():
                _retrieve(files[split], target, name, progress)
        case Archive(file=file, members=members):
            archive = built.parent / f"{built.name}.zip"
            _retrieve(file, archive, name, progress)
            for split, target in targets.items():
                _extract(archive, members[split], target)
    for target in targets.values():
        # Nobody checks these files again, so they must be whole even after a power cut.
        sync(target)


def _retrieve(file: RemoteFile, target: Path, name: str, progress: Progress | None) -> None:
    import pooch

    # pooch announces each download on stderr, where a progress bar may stand.
    pooch.get_logger().setLevel(logging.WARNING)
    what = f"fetching {name} {PurePosixPath(file.url).name}"
    # pooch's own protocol does not fit its own downloader, hence Any.
    downloader: Any = pooch.HTTPDownloader(
        progressbar=cast(Any, _Bar(what, file.size, progress) if progress else False),
        chunk_size=_CHUNK,
        headers=_HEADERS,
        timeout=_TIMEOUT,
    )
    pooch.retrieve(
        file.url,
        known_hash=file.checksum,
        fname=target.name,
        path=target.parent,
        downloader=downloader,
    )


class _Bar:
    """What pooch calls a progress bar: it sets ``total``, counts chunks, fills up at the end."""

    def __init__(self, what: str, size: int | None, progress: Progress) -> None:
        self.total = 0
        self._what = what
        self._size = size
        self._progress = progress
        self._done = 0

    def reset(self) -> None:
        self._done = 0

    def update(self, size: int) -> None:
        total = self._size or self.total or None
        # Each chunk is counted as a full one, so the last would overshoot.
        self._done = min(self._done + size, total) if total else self._done + size
        self._progress(self._what, self._done, total)

    def close(self) -> None:
        """Nothing to tidy: whoever gave the callback owns the display."""


def _extract(archive: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        found = [name for name in opened.namelist() if PurePosixPath(name).name == member]
        if not found:
            raise ValueError(f"no {member} in the zip")
        with opened.open(found[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)


def _install(built: Path, folder: Path) -> None:
    if not folder.exists():
        publish(built, folder, has_corpus)
        return
    for file in built.iterdir():
        file.replace(folder / file.name)
