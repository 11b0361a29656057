"""The two containers that ``torch.save`` writes, and the tensors in them.

The zip has the pickle as ``NAME/data.pkl`` and each storage as ``NAME/data/KEY``. The older one is
five pickles in a row (magic number, protocol, system, object, keys of the storages), and behind
them the storages, each after its number of elements.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmbench.deploy.pytorch_checkpoint.pickle_values import Made, Name, Stored, read_pickle
from lmbench.errors import LmbenchError
from lmbench.printable import one_line

__all__ = ["Checkpoint", "open_checkpoint", "storage_of"]

_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_PICKLE = 256 * 2**20
_MOST_DIMENSIONS = 8

_DAMAGED = (
    *(ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OverflowError),
    *(struct.error, OSError, MemoryError),
)
"""What `zipfile` and `pickletools` raise for bytes that make no sense."""

_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TENSORS = (Name("torch._utils", "_rebuild_tensor"), Name("torch._utils", "_rebuild_tensor_v2"))
_PARAMETERS = (
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch.nn.parameter", "Parameter"),
)


def storage_of(value: Any) -> tuple[str, Any] | None:
    """The storage of a tensor and where in it the tensor begins, which two that are tied share;
    None for what is no tensor."""
    tensor = _tensor_of(value)
    if tensor is None:
        return None
    stored, offset = tensor.arguments[:2]
    key = stored.id[2] if isinstance(stored, Stored) and _is_storage(stored.id) else None
    # To compare what is nested deeply may never end.
    return (key, offset) if isinstance(key, str) and type(offset) is int else None


def _tensor_of(value: Any) -> Made | None:
    """The call that would make a tensor, a parameter's too."""
    if isinstance(value, Made) and value.of in _PARAMETERS and isinstance(value.arguments, tuple):
        value = value.arguments[0] if value.arguments else None
    if not isinstance(value, Made) or value.of not in _TENSORS:
        return None
    arguments = value.arguments
    return value if isinstance(arguments, tuple) and len(arguments) >= 4 else None


def _is_storage(id: Any) -> bool:
    return isinstance(id, tuple) and len(id) >= 5 and id[0] == "storage"


@dataclass(frozen=True)
class Checkpoint:
    """A file that ``torch.save`` wrote, its pickle read and its tensors not yet."""

    path: Path
    value: Any
    """What was saved, as `read_pickle` gives it."""
    names: list[Name]
    """What the pickle would have imported."""
    _storages: Mapping[str, bytes | memoryview]

    def tensors(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """These tensors of the file; no more numbers than twice those that are stored, since many
        may be of one storage, and two of them are where a model is tied.

        Raises:
            LmbenchError: see `tensor`; also where they claim more.
        """
        left = 2 * sum(len(data) for data in self._storages.values())
        read: dict[str, Tensor] = {}
        for name, value in values.items():
            read[name] = self.tensor(value, name)
            left -= read[name].nbytes
            if left < 0:
                raise self._error(
                    "its tensors claim more than twice the bytes that are stored, up to "
                    f"'{one_line(name)[:80]}'"
                )
        return read

    def tensor(self, value: Any, what: str) -> Tensor:
        """A tensor of the file, in memory of its own.

        Args:
            what: what to call it in an error.

        Raises:
            LmbenchError: it is none, or says of itself what its storage does not hold.
        """
        made = _tensor_of(value)
        if made is None or storage_of(value) is None:
            raise self._error(f"'{one_line(what)}' is no tensor of a kind that is read")
        stored, offset, size, stride = made.arguments[:4]
        dtype, key = self._type(stored.id[1]), stored.id[2]
        if key not in self._storages:
            raise self._error(f"the numbers of '{one_line(what)}' are missing")
        data = self._storages[key]
        numbers = [offset, *size, *stride] if _both_tuples(size, stride) else [-1]
        if (
            len(numbers) > 2 * _MOST_DIMENSIONS + 1
            or not all(type(number) is int and 0 <= number < 2**48 for number in numbers)
            or 0 in size
        ):
            raise self._error(f"'{one_line(what)}' has no sizes that a tensor can have")
        held = len(data) // dtype.itemsize
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if math.prod(size) > held or last >= held:
            raise self._error(f"'{one_line(what)}' claims more numbers than are stored ({held:,})")
        own = bytearray(data[offset * dtype.itemsize : (last + 1) * dtype.itemsize])
        return torch.frombuffer(own, dtype=dtype).as_strided(size, stride).contiguous()

    def _type(self, name: Any) -> torch.dtype:
        # What is no name may be nested too deeply to be shown.
        known = isinstance(name, Name)
        found = _TYPES.get(name.name) if known else None
        if found is None:
            which = f": {one_line(name)[:80]}" if known else ""
            raise self._error(f"has numbers of a type that is not read{which}")
        return found

    def _error(self, reason: str) -> LmbenchError:
        return LmbenchError(f"{self.path}: {reason}")


def _both_tuples(size: Any, stride: Any) -> bool:
    return isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read what ``torch.save`` wrote, in either container.

    Raises:
        LmbenchError: no such file, damaged, or none of them.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise LmbenchError(f"{path}: is empty") from None
    try:
        read = _read_zip if content[:4] == b"PK\x03\x04" else _read_pickles
        return read(path, content)
    except _DAMAGED as error:
        raise LmbenchError(
            f"{path}: cannot be read as a file of torch.save ({one_line(error)[:200]})"
        ) from None


def _read_zip(path: Path, content: mmap.mmap) -> Checkpoint:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("there is no data.pkl in it, or more than one")
        folder = pickles[0].removesuffix("data.pkl")
        left = len(content)

        def data(name: str) -> bytes:
            nonlocal left
            entry = entries[name]
            left -= entry.file_size
            # Torch compresses nothing; what is stored twice or grows is no file of its making.
            if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                raise ValueError("it holds more than its size")
            return archive.read(entry)

        order = f"{folder}byteorder"
        if order in entries and data(order) != b"little":
            raise ValueError("its numbers are big-endian")
        if entries[pickles[0]].file_size > _MOST_PICKLE:
            raise ValueError("its data.pkl is too large")
        value, names, stored = read_pickle(io.BytesIO(data(pickles[0])))
        keys = dict.fromkeys(_key(one) for one in stored if _is_storage(one.id))
        found = {key: f"{folder}data/{key}" for key in keys}
        storages = {key: data(name) for key, name in found.items() if name in entries}
    return Checkpoint(path, value, names, storages)


def _key(stored: Stored) -> str:
    key = stored.id[2]
    if not isinstance(key, str):
        raise ValueError("a storage has no name")
    return key


def _read_pickles(path: Path, content: mmap.mmap) -> Checkpoint:
    if read_pickle(content)[0] != _MAGIC:
        raise ValueError("it does not begin as one")
    read_pickle(content)
    system, _, _ = read_pickle(content)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    value, names, stored = read_pickle(content)
    types = {_key(one): one.id for one in stored if _is_storage(one.id)}
    keys, _, _ = read_pickle(content)
    storages: dict[str, memoryview | bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        whole = isinstance(key, str) and key in types
        if not whole or any(part is not None for part in types[key][5:6]):
            raise ValueError("a storage is no whole one")
        dtype = _TYPES.get(getattr(types[key][1], "name", ""))
        count = int.from_bytes(content.read(8), "little", signed=True)
        if dtype is None or not 0 <= count <= (len(content) - content.tell()) // dtype.itemsize:
            raise ValueError("a storage is cut off, or of a type that is not read")
        storages[key] = content.read(count * dtype.itemsize)
    return Checkpoint(path, value, names, storages)
