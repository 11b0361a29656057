"""The container of a packed model: a safetensors file with a checksum, read without trust.

A safetensors file is eight bytes (the header's length), a JSON header (each array's type, shape
and place, and string metadata) and the arrays' bytes. This reader takes no more of it than it
needs, checks every number before using it, and maps the file, so an array is paged in when it is
looked at. Any safetensors reader can open such a file too.

The metadata's ``sha256`` is the hash of the whole file with the 64 digits themselves read as
zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.errors import LmbenchError

__all__ = ["Container", "is_container", "open_container", "write_container"]

FORMAT = "lmpack"
# 1 has no int4 with scales in fp32, 2 has no codes, 3 has none beside zeros, 4 has no part
# interleaved, 5 has no coded mask and no bias in int8; they are still written where there are none.
VERSION = 6

_MAX_HEADER = 16 << 20
_NO_DIGEST = "0" * 64
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64


class Container:
    """An open file: its metadata, and its arrays on demand.

    Attributes:
        metadata: the document that was stored with the arrays; a JSON object.
        path: where it is.
        nbytes: the file's size.
    """

    def __init__(
        self,
        path: Path,
        data: memoryview,
        start: int,
        index: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int, int]],
        metadata: dict[str, Any],
        digest: tuple[str, int],
    ) -> None:
        self.path = path
        self.nbytes = len(data)
        self.metadata = metadata
        self._data = data
        self._start = start
        self._index = index
        self._digest = digest
        self._verified = False

    def names(self) -> list[str]:
        return list(self._index)

    def array(self, name: str) -> NDArray[Any]:
        """An array, read-only, mapped from the file. The checksum is verified the first time.

        Raises:
            LmbenchError: no such array, or the file's content is not what was written.
        """
        self.verify()
        if name not in self._index:
            raise LmbenchError(f"{self.path}: damaged: array '{name}' is missing")
        dtype, shape, first, last = self._index[name]
        flat = np.frombuffer(self._data[self._start + first : self._start + last], dtype)
        return flat.reshape(shape)

    def verify(self) -> None:
        """Raises LmbenchError unless the file's bytes have the checksum that it names."""
        if self._verified:
            return
        stored, place = self._digest
        if _hash(self._data, place) != stored:
            raise LmbenchError(
                f"{self.path}: damaged: its content does not have the checksum that was written "
                "with it; copy or pack it again"
            )
        self._verified = True


def _hash(data: memoryview, place: int) -> str:
    digest = hashlib.sha256(data[:place])
    digest.update(_NO_DIGEST.encode())
    digest.update(data[place + len(_NO_DIGEST) :])
    return digest.hexdigest()


def is_container(path: Path) -> bool:
    """Does the file begin as a packed model does, whatever it is called?"""
    beginning = f'{{"__metadata__":{{"format":"{FORMAT}"'.encode()
    try:
        with path.open("rb") as file:
            return file.read(8 + len(beginning))[8:] == beginning
    except OSError:
        return False


def write_container(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, Any],
    staging: Path | None = None,
) -> int:
    """Write the file, whole or not at all; gives its size in bytes.

    Args:
        arrays: fp32, fp16, int8 or uint8, stored in this order, each aligned to its own type
            by being ordered, largest type first, as the format asks.
        metadata: JSON-able.
        staging: as of `write_atomic`.

    Raises:
        LmbenchError: the file cannot be written.
    """
    # Imported late: a reader needs nothing of sessions.
    from lmbench.session.files import json_bytes, write_atomic

    ordered = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(_version_of(metadata)),
            "sha256": _NO_DIGEST,
            "document": json_bytes(metadata, indent=None).decode().rstrip(),
        }
    }
    offset = 0
    for name, array in ordered.items():
        end = offset + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    content = bytearray(len(text).to_bytes(8, "little") + text)
    place = content.index(f'"sha256":"{_NO_DIGEST}"'.encode()) + len('"sha256":"')
    for array in ordered.values():
        content += np.ascontiguousarray(array).tobytes()
    content[place : place + 64] = _hash(memoryview(content), place).encode()
    try:
        write_atomic(path, bytes(content), staging)
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be written ({error.strerror or error})") from None
    return len(content)


def _version_of(metadata: Mapping[str, Any]) -> int:
    """The oldest version that can say this, so that older programs read what they can."""
    tensors = metadata.get("tensors")
    entries = tensors.values() if isinstance(tensors, dict) else ()
    entries = [entry for entry in entries if isinstance(entry, dict)]
    parts = str([entry.get("parts") for entry in entries])
    shapes = [entry.get("shape") for entry in entries if entry.get("values") == "int8"]
    vectors = any(isinstance(one, list) and len(one) == 1 for one in shapes)
    if "'coded'" in parts or vectors or "projection.weight" in (tensors or ()):
        return 6
    if "'interleaved'" in parts:
        return 5
    codes = [entry for entry in entries if str(entry.get("values")).startswith("code")]
    if codes:
        return 4 if any(entry.get("layout") == "bitmask" for entry in codes) else 3
    return 2 if any("scale" in entry for entry in entries) else 1


def open_container(path: Path) -> Container:
    """Open a packed file: reads and checks the header only.

    Raises:
        LmbenchError: missing, no packed model, damaged, or of a newer format; one line that
            names the file and what is wrong with it.
    """
    data = _map(path)
    try:
        start, header = _header(data)
        about = header.pop("__metadata__", None)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise _DamagedError("it is no packed model of lmbench")
        _check_version(about.get("version"))
        index = {name: _entry(name, entry) for name, entry in header.items()}
        _check_cover(index, len(data) - start)
        document = _json(about.get("document"), "its metadata")
        digest = _digest(data, start, about.get("sha256"))
    except _DamagedError as error:
        raise LmbenchError(f"{path}: {error}") from None
    return Container(path, data, start, index, document, digest)


class _DamagedError(Exception):
    """What is wrong, without the file's name."""


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise LmbenchError(f"{path}: cannot be read ({error})") from None


def _header(data: memoryview) -> tuple[int, dict[str, Any]]:
    """Where the arrays begin, and the parsed header."""
    if len(data) < 8:
        raise _DamagedError("it is no packed model of lmbench (too short)")
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise _DamagedError(
            f"damaged or no packed model: a header of {length:,} bytes in a file of {len(data):,}"
        )
    return 8 + length, _json(bytes(data[8 : 8 + length]), "its header")


def _json(text: Any, what: str) -> dict[str, Any]:
    if not isinstance(text, str | bytes):
        raise _DamagedError(f"damaged: {what} is missing")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _DamagedError(f"damaged or no packed model: {what} is no JSON") from None
    if not isinstance(document, dict):
        raise _DamagedError(f"damaged: {what} is no JSON object")
    return document


def _check_version(version: Any) -> None:
    if not isinstance(version, str) or not version.isascii() or not version.isdecimal():
        raise _DamagedError("damaged: its format's version is missing")
    if len(version) > 4 or int(version) > VERSION:
        raise _DamagedError(
            f"written by a newer lmbench (format {version[:8]}, this one reads up to {VERSION}); "
            "upgrade lmbench to open it"
        )


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    fields = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or set(entry) != set(fields):
        raise _DamagedError(f"damaged: array {name[:80]!r} is not described in full")
    kind, shape, offsets = (entry[field] for field in fields)
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _DamagedError(f"damaged: array {name[:80]!r} is of an unknown type")
    whole = isinstance(shape, list) and isinstance(offsets, list)
    if not whole or not all(type(n) is int and 0 <= n < 2**48 for n in [*shape, *offsets]):
        raise _DamagedError(f"damaged: array {name[:80]!r} has an impossible shape or place")
    if len(shape) > 4 or len(offsets) != 2:
        raise _DamagedError(f"damaged: array {name[:80]!r} has an impossible shape or place")
    first, last = offsets
    if math.prod(shape) * _DTYPES[kind].itemsize != last - first:
        raise _DamagedError(f"damaged: array {name[:80]!r} has not the size that its shape needs")
    return _DTYPES[kind], tuple(shape), first, last


def _check_cover(index: Mapping[str, tuple[Any, Any, int, int]], length: int) -> None:
    """The arrays must follow one another without gap or overlap, to the file's end."""
    end = 0
    for _, _, first, last in sorted(index.values(), key=lambda entry: entry[2:]):
        if first != end:
            raise _DamagedError("damaged: its arrays overlap or leave gaps")
        end = last
    if end != length:
        raise _DamagedError(f"damaged: {length:,} bytes of arrays where its header says {end:,}")


def _digest(data: memoryview, start: int, stored: Any) -> tuple[str, int]:
    """The checksum and its place in the file."""
    if not isinstance(stored, str) or len(stored) != 64 or not stored.isascii():
        raise _DamagedError("damaged: its checksum is missing")
    place = bytes(data[:start]).find(f'"sha256":"{stored}"'.encode())
    if place < 0:
        raise _DamagedError("damaged: its checksum is missing")
    return stored, place + len('"sha256":"')
