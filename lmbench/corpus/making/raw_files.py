"""The files that a corpus is made of: finding them, and reading them, compressed or not.

No torch here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lmbench.errors import LmbenchError, os_error_line

__all__ = ["Format", "HashedFile", "RawFile", "find_files", "opened"]

Format = Literal["text", "json lines", "parquet"]

_FORMATS: dict[str, Format] = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst", ".tokens"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json lines"),
    ".parquet": "parquet",
}
_PACKED = (".gz", ".zst")
_BUFFER = 1 << 16
# What is unpacked at once: at most 32,768 times as much, by Zstandard's format.
_FEED = 1 << 11


@dataclass(frozen=True)
class RawFile:
    """A file to read."""

    path: Path
    format: Format
    size: int
    """Bytes on disk."""


def find_files(given: Sequence[Path]) -> list[RawFile]:
    """The files that are given, and in the folders those whose name says that they hold text.

    In the order given; those of a folder, and of its folders, in order of name. Hidden ones and
    those met before are left out.

    Raises:
        LmbenchError: there is no such file, it is no regular one or empty, or a folder has none.
    """
    found: dict[Path, RawFile] = {}
    for path in given:
        if not path.exists():
            raise LmbenchError(f"{path}: no such file or folder")
        inside = list(_walk(path)) if path.is_dir() else [path]
        if not inside:
            names = ", ".join([*_FORMATS, *(f"….txt{end}" for end in _PACKED)])
            raise LmbenchError(f"{path}: the folder holds no text ({names}): name the files")
        for one in inside:
            if not one.is_file():
                raise LmbenchError(f"{one}: no regular file: save the text in one")
            size = one.stat().st_size
            if not size:
                raise LmbenchError(f"{one} is empty: leave it out, or put text in")
            found.setdefault(one.resolve(), RawFile(one, _format(one) or "text", size))
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _format(Path(name)):
                yield Path(root, name)


def _refuse(error: OSError) -> None:
    raise error


def _format(path: Path) -> Format | None:
    name = path.with_suffix("") if path.suffix in _PACKED else path
    return _FORMATS.get(name.suffix.lower())


class HashedFile(io.RawIOBase):
    """A file that is read once from its beginning, hashed and counted on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._digest = hashlib.sha256()
        self.done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        self.done += count
        return count

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal; reads what was not read."""
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


class _Zstandard(io.RawIOBase):
    """The content of Zstandard frames, one after the other.

    zstandard's own reader takes a frame that is cut off for one that ends.
    """

    def __init__(self, file: HashedFile) -> None:
        super().__init__()
        self._file = file
        self._frame: Any = None
        self._packed = self._content = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        import zstandard

        while not self._content:
            packed = self._packed or self._file.read(_FEED)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends in the midst of a frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._content, self._packed = self._frame.decompress(packed), b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count


@contextmanager
def opened(raw: RawFile, file: HashedFile) -> Iterator[BinaryIO]:
    """The content of a file, decompressed as its name says.

    Raises:
        LmbenchError: what is compressed is damaged, or the system refuses to read.
    """
    import zstandard

    suffix = raw.path.suffix
    try:
        if suffix == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as content:
                yield io.BufferedReader(content, _BUFFER)
        elif suffix == ".zst":
            yield io.BufferedReader(_Zstandard(file), _BUFFER)
        else:
            content = io.BufferedReader(file, _BUFFER)
            yield content
            # The file is closed by whoever opened it, who asks it for more.
            content.detach()
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise LmbenchError(
            f"{raw.path}: cannot be decompressed ({error}): fetch or compress it anew"
        ) from None
    except OSError as error:
        raise LmbenchError(os_error_line(error, "reading", file=raw.path)) from None
