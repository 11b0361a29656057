"""Reading a packed file, without trust in it: every claim is checked before it is acted on."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import zstandard
from numpy.typing import NDArray

from lmbench.deploy.packed_file.code_planes import interleaved_bytes, separate
from lmbench.deploy.packed_file.header import Container, is_container, open_container
from lmbench.deploy.packed_file.mask_coding import read_mask
from lmbench.deploy.packed_file.metadata import (
    VOCABULARY,
    checked_about,
    checked_shape,
    checked_spec,
    expansion_limit,
)
from lmbench.deploy.packed_file.stored_tensor import Array, Encoded, Spec, decode, levels_of
from lmbench.errors import LmbenchError
from lmbench.model_shapes import shapes_of

if TYPE_CHECKING:
    # Imported late: who runs the stored numbers themselves does without torch.
    from lmbench.model.rnn import RNNModel

__all__ = ["SUFFIX", "PackedFile", "is_packed", "open_packed"]

SUFFIX = ".lmpack"

# The largest fp32 size of a file's tensors: so many times the file, and a slack. A few bytes of a
# sparse layout can stand for a huge matrix, but not in a model that predicts anything.
_MAX_DENSE_RATIO, _DENSE_SLACK = 256, 256 << 20

# The share of the free memory that a file's claims may take before they are refused.
_MEMORY_SHARE = 0.9


class PackedFile:
    """An open packed file: its document at once, its words and tensors on demand."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.path = container.path
        self.bytes = container.nbytes
        document = container.metadata
        self.shape = checked_shape(self.path, document.get("shape"))
        self._layout: Any = document.get("tensors")
        self._words: Any = document.get("vocabulary")
        self._masks: dict[str, Array] = {}
        self._check_tensors()
        self.about = checked_about(self.path, document.get("about"))

    @cached_property
    def specs(self) -> dict[str, Spec]:
        """The layout of each tensor, known without reading any."""
        return {name: checked_spec(self.path, name, e) for name, e in self._layout.items()}

    @property
    def numel(self) -> int:
        """Numbers in all, tied weights once."""
        return sum(math.prod(spec.shape) for spec in self.specs.values())

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words in order of id."""
        if not isinstance(self._words, dict) or set(self._words) != {"words"}:
            raise self._damaged("its vocabulary is not described")
        raw = self._part(VOCABULARY, "words", self._words["words"], np.dtype("u1"), (None,))
        try:
            words = raw.tobytes().decode().split("\n")
        except UnicodeDecodeError:
            raise self._damaged("its vocabulary is no text") from None
        if len(words) != self.shape["ntoken"]:
            raise self._damaged(
                f"its vocabulary has {len(words):,} words, its tensors {self.shape['ntoken']:,}"
            )
        return words

    def tensor(self, name: str) -> Encoded:
        """One tensor as it is stored, unpacked from zstd and checked.

        Raises:
            LmbenchError: the file is damaged; names the tensor and what is wrong with it.
        """
        spec = self.specs[name]
        described = self._layout[name]["parts"]
        wanted = spec.parts()
        if not isinstance(described, dict) or set(described) != set(wanted):
            raise self._damaged(f"tensor '{name}' has not the parts that it needs")
        parts = {
            part: self._part(name, part, described[part], dtype, shape, spec)
            for part, (dtype, shape) in wanted.items()
        }
        encoded = Encoded(spec, parts)
        try:
            encoded.check()
        except ValueError as error:
            raise self._damaged(f"tensor '{name}': {error}") from None
        return encoded

    def levels(self, encoded: Encoded) -> Array:
        """The values of a tensor of this file in its own shape, scales not applied.

        Raises:
            LmbenchError: there is not enough memory for it.
        """
        needed = math.prod(encoded.spec.shape) * encoded.parts["values"].itemsize
        self._check_memory(needed)
        try:
            return levels_of(encoded)
        except MemoryError:
            raise self._too_large(needed) from None

    def dense(self, name: str) -> NDArray[np.float32]:
        """One tensor in fp32; see `tensor`."""
        return decode(self.tensor(name))

    def to_model(self) -> RNNModel:
        """The model in fp32, each weight as the packed file has it."""
        import torch

        from lmbench.model.rnn import model_of_tensors

        self._check_memory(4 * self.numel)
        weights = {name: torch.from_numpy(np.array(self.dense(name))) for name in self.specs}
        return model_of_tensors(self.shape, weights).eval().requires_grad_(False)

    def _check_tensors(self) -> None:
        """The tensors must be those that the shape calls for, before anything is allocated."""
        expected = shapes_of(self.shape)
        if not isinstance(self._layout, dict):
            raise self._damaged("its tensors are not described")
        for name, size in expected.items():
            if name not in self._layout:
                raise self._damaged(f"tensor '{name}' is missing")
            if self.specs[name].shape != size:
                raise self._damaged(
                    f"tensor '{name}' is {list(self.specs[name].shape)}, but the model's shape "
                    f"says {list(size)}"
                )
        if len(self._layout) != len(expected):
            raise self._damaged("it holds tensors that its model does not have")
        dense = 4 * self.numel
        if dense > _DENSE_SLACK + _MAX_DENSE_RATIO * self.bytes:
            raise self._damaged(
                f"its tensors claim {dense / 1e9:.1f} GB, too much for {self.bytes:,} bytes"
            )

    def _part(
        self,
        name: str,
        part: str,
        entry: Any,
        dtype: np.dtype[Any],
        wanted: tuple[int | None, ...],
        spec: Spec | None = None,
    ) -> NDArray[Any]:
        """A part as an array of `dtype`; None in `wanted` is a length the file may choose, up to
        `most_values` of its tensor's `spec`. A mask may be coded, planes and scales of codes
        interleaved."""
        what = f"part '{part}' of '{name}'"
        most = spec.most_values() if spec else None
        manner = "coded" if part == "mask" else "interleaved" if spec and spec.code_bits else None
        if (
            not isinstance(entry, dict)
            or set(entry) - {manner} != {"shape", "zstd"}
            or type(entry["zstd"]) is not bool
            or entry.get(manner, True) is not True
            or (manner in entry and entry["zstd"] != (manner == "interleaved"))
        ):
            raise self._damaged(f"{what} is not described in full")
        shape = entry["shape"]
        if (
            not isinstance(shape, list)
            or len(shape) != len(wanted)
            or not all(type(n) is int and 0 <= n < 2**40 for n in shape)
            or any(w is not None and n != w for n, w in zip(shape, wanted, strict=True))
            or (most is not None and None in wanted and shape[wanted.index(None)] > most)
        ):
            raise self._damaged(f"{what} has a wrong shape")
        array = self._container.array(f"{name}/{part}")
        try:
            if "interleaved" in entry:
                size = interleaved_bytes(dtype, shape)
                self._check_memory(2 * size)
                array = separate(self._unpacked(array, size, what), dtype, shape)
            elif entry["zstd"]:
                size = math.prod(shape) * dtype.itemsize
                array = np.frombuffer(self._unpacked(array, size, what), dtype).reshape(shape)
            elif spec and "coded" in entry:
                # Kept, since some runtimes read a tensor four times and this one takes a while.
                if name not in self._masks:
                    if array.dtype != dtype or array.ndim != 1:
                        raise ValueError("is no coded mask")
                    self._check_memory(5 * math.prod(spec.grid()))
                    self._masks[name] = read_mask(array.tobytes(), *spec.grid())
                array = self._masks[name]
        except ValueError as error:
            raise self._damaged(f"{what} {error}") from None
        if array.dtype != dtype or list(array.shape) != shape:
            raise self._damaged(f"{what} is {array.dtype} {list(array.shape)}")
        return array

    def _unpacked(self, squeezed: NDArray[Any], size: int, what: str) -> bytes:
        """Decompress exactly `size` bytes; every claim is checked before memory is taken."""
        if squeezed.dtype != np.uint8 or size > expansion_limit(squeezed.nbytes):
            raise self._damaged(f"{what} claims to unpack to {size:,} bytes")
        self._check_memory(size)
        data = squeezed.tobytes()
        try:
            claimed = zstandard.get_frame_parameters(data).content_size
            if claimed != size:
                raise self._damaged(f"{what} unpacks to another size than its shape needs")
            content = zstandard.ZstdDecompressor().decompress(
                data, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise self._damaged(f"{what} cannot be decompressed ({error})") from None
        if len(content) != size:
            raise self._damaged(f"{what} unpacks to another size than its shape needs")
        return content

    def _check_memory(self, needed: int) -> None:
        free = psutil.virtual_memory().available
        if needed > _MEMORY_SHARE * free:
            raise self._too_large(needed)

    def _too_large(self, needed: int) -> LmbenchError:
        free = psutil.virtual_memory().available
        return LmbenchError(
            f"{self.path}: unpacking needs {needed / 1e9:.1f} GB of memory more than this process "
            f"can have ({free / 1e9:.1f} GB are free)"
        )

    def _damaged(self, what: str) -> LmbenchError:
        return LmbenchError(f"{self.path}: damaged: {what}")


def is_packed(path: Path) -> bool:
    """Is this file meant as a packed model: by its name, or by how it begins?"""
    return path.suffix == SUFFIX or is_container(path)


def open_packed(path: Path) -> PackedFile:
    """Open a packed file; weights and words are read when they are asked for.

    Raises:
        LmbenchError: missing, damaged, hostile, or of a newer format; one line.
    """
    return PackedFile(open_container(path))
