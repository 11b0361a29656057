"""A model's tensors as the kernels take them, and the layouts that its matrices may have.

Only NumPy here: a packed file runs on the kernels without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.native.matrices import (
    Isa,
    Matrix,
    bitmask_matrix,
    block_matrix,
    codes_matrix,
    dense_matrix,
    gathered_matrix,
    int4_matrix,
)
from lmbench.deploy.packed_file.code_planes import code_sums, row_units
from lmbench.deploy.packed_file.reading import PackedFile
from lmbench.deploy.packed_file.stored_tensor import BLOCK_SHAPES, Spec, signs_of
from lmbench.deploy.packed_file.tensor_encoding import encode, zero_blocks

__all__ = ["LAYOUTS", "Layout", "TensorSource", "as_is_layout", "integer_layouts", "layout_refusal"]

Array = NDArray[Any]

# From this share of zeros on, a bitmask is read faster than the dense tiles.
_SPARSE_FROM = 0.35


class TensorSource:
    """The tensors of a model by name, integers as stored where it is a packed one.

    Args:
        names: those of its matrices, tied ones once.
        dense: a tensor in fp32 by its name.
        packed: the file, if it is a packed one.
    """

    def __init__(
        self,
        names: Sequence[str],
        dense: Callable[[str], Array],
        packed: PackedFile | None = None,
    ) -> None:
        self.names, self._dense, self._packed = names, dense, packed
        self._specs: Mapping[str, Spec] = packed.specs if packed else {}

    @classmethod
    def of_file(cls, packed: PackedFile) -> TensorSource:
        names = [name for name, spec in packed.specs.items() if len(spec.shape) == 2]
        return cls(names, packed.dense, packed)

    def vector(self, name: str) -> Array:
        return np.array(self._dense(name), np.float32)

    def in_4_bits(self, name: str) -> bool:
        return name in self._specs and self._specs[name].values == "int4"

    def layout(self, name: str) -> str | None:
        """How a tensor is stored; None where it is in no packed file."""
        return self._specs[name].layout if name in self._specs else None

    def in_codes(self, name: str) -> bool:
        """In codes alone? A pruned matrix has a mask, too, and is one of integers here."""
        spec = self._specs.get(name)
        return spec is not None and spec.code_bits > 0 and spec.layout == "dense"

    def int8(self, name: str) -> tuple[Array, Array, tuple[int, int] | None]:
        """Levels [R, C], scales [R], and the shape of the blocks that they are stored in.

        Raises:
            ValueError: it holds what no integer stands for.
        """
        stored = self._packed.tensor(name) if self._packed else None
        if self._packed and stored and stored.spec.values == "int8":
            return self._packed.levels(stored), stored.parts["scale"], stored.spec.block
        if stored and stored.spec.code_bits:
            bits, steps, unit, group = self.codes(name)
            levels, (_, keep) = code_sums(bits, steps, group, np.int8), signs_of(stored)
            return levels if keep is None else levels * keep, unit, None
        try:
            encoded = encode(self._dense(name), "int8", "never")
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        return encoded.parts["values"], encoded.parts["scale"], None

    def int4(self, name: str) -> tuple[Array, Array, int]:
        """Levels [R, C], scales [R, groups], and how many columns share one, as stored."""
        assert self._packed
        stored = self._packed.tensor(name)
        assert stored.spec.group is not None
        return self._packed.levels(stored), stored.parts["scale"], stored.spec.group

    def codes(self, name: str) -> tuple[Array, Array, Array, int]:
        """As `codes_matrix` takes them: as stored, scales rounded where they are on no grid."""
        assert self._packed
        stored = self._packed.tensor(name)
        assert stored.spec.group is not None
        unit, steps = row_units(stored.parts["scale"].astype(np.float32))
        return signs_of(stored)[0], steps, unit, stored.spec.group

    def sparsity(self) -> float:
        """The share of zeros of the matrix that has most."""
        if self._packed:
            stored = [self._packed.tensor(name) for name in self.names]
            return max(1 - one.nonzero / math.prod(one.spec.shape) for one in stored)
        matrices = map(self._dense, self.names)
        return max(1 - np.count_nonzero(matrix) / matrix.size for matrix in matrices)

    def block_sparsity(self) -> float:
        """The share of zero blocks, in the better of both shapes, of the matrix that has most."""
        return max(
            zero_blocks(matrix, shape) for matrix in self._matrices() for shape in BLOCK_SHAPES
        )

    def _matrices(self) -> Iterator[Array]:
        for name in self.names:
            packed = self._packed
            yield packed.levels(packed.tensor(name)) if packed else self._dense(name)


def _dense_int8(source: TensorSource, name: str, _isa: Isa) -> Matrix:
    levels, scale, _ = source.int8(name)
    return dense_matrix(levels, scale)


def _sparse_int8(source: TensorSource, name: str, isa: Isa) -> Matrix:
    """Where the matrix is sparse enough for it to be faster, a bitmask on AVX512, which puts its
    values in their places, or gathered values on AVX2; else dense."""
    levels, scale, _ = source.int8(name)
    zeros = 1 - np.count_nonzero(levels) / levels.size
    if isa in ("avx512", "amx") and zeros >= _SPARSE_FROM:
        return bitmask_matrix(levels, scale)
    # A gathered value takes two bytes or more.
    if isa == "avx2" and zeros > 0.5:
        return _smallest([gathered_matrix(levels, scale), dense_matrix(levels, scale)])
    return dense_matrix(levels, scale)


def _block_int8(source: TensorSource, name: str, isa: Isa) -> Matrix:
    """The blocks that are not zero, 16x4 or 8x8, or dense: whichever is smallest; what is stored
    with single zeros as for `_sparse_int8`."""
    if source.layout(name) == "bitmask":
        return _sparse_int8(source, name, isa)
    levels, scale, block = source.int8(name)
    shapes = [block] if block else BLOCK_SHAPES
    matrices = [block_matrix(levels, scale, shape) for shape in shapes]
    return _smallest([*matrices, dense_matrix(levels, scale)])


def _smallest(matrices: Sequence[Matrix]) -> Matrix:
    return min(matrices, key=lambda matrix: matrix.nbytes)


def _int4(source: TensorSource, name: str, isa: Isa) -> Matrix:
    """In 4 bits where it is packed so, else in int8 as it is stored."""
    if source.in_4_bits(name):
        return int4_matrix(*source.int4(name))
    as_stored = _block_int8 if source.layout(name) == "block" else _sparse_int8
    return as_stored(source, name, isa)


def _codes(source: TensorSource, name: str, isa: Isa) -> Matrix:
    """As codes where it is packed so, else as for 4 bits."""
    if source.in_codes(name):
        return codes_matrix(*source.codes(name))
    return _int4(source, name, isa)


Layout = Callable[[TensorSource, str, Isa], Matrix]

LAYOUTS: Mapping[str, Layout] = {
    "native-int8": _dense_int8,
    "sparse-int8": _sparse_int8,
    "block-int8": _block_int8,
    "native-int4": _int4,
    "native-codes": _codes,
}
"""How each runtime on the kernels lays out a matrix, by the runtime's name."""


def layout_refusal(name: str, source: TensorSource) -> str | None:
    """Why a layout is nothing for these tensors, or None where it is."""
    if name == "sparse-int8" and source.sparsity() < _SPARSE_FROM:
        return f"no weight matrix has {_SPARSE_FROM:.0%} or more zeros; prune it first"
    if name == "block-int8" and source.block_sparsity() < _SPARSE_FROM:
        return "no weight matrix has its zeros in blocks of 16x4 or 8x8; prune it in blocks first"
    # Rounding to 4 bits costs, so it is done once, by packing.
    if name == "native-int4" and not any(map(source.in_4_bits, source.names)):
        return "its weights are not in 4 bits; pack it with --weights int4 first"
    if name == "native-codes" and not any(map(source.in_codes, source.names)):
        return "no weight matrix is in codes alone; quantize it with --rounding codes and pack that"
    return None


def integer_layouts(packed: PackedFile) -> Iterator[str]:
    """The layouts for the integers of a file's matrices, the most particular first; none for a file
    of which a matrix is in floats, since the kernels would round that."""
    specs = [spec for spec in packed.specs.values() if len(spec.shape) == 2]
    if any(spec.values in ("fp32", "fp16") for spec in specs):
        return
    coded = {spec.layout for spec in specs if spec.code_bits}
    if "dense" in coded:
        yield "native-codes"
    if any(spec.values == "int4" for spec in specs):
        yield "native-int4"
    integers = {spec.layout for spec in specs if spec.values == "int8"} | (coded - {"dense"})
    if "block" in integers:
        yield "block-int8"
    # A bitmask saves bytes from fewer zeros on than time; then the dense kernel is next.
    if "bitmask" in integers:
        yield "sparse-int8"
    if integers:
        yield "native-int8"


def as_is_layout(packed: PackedFile) -> str | None:
    """The layout that multiplies a file's integers as they are stored; None for floats."""
    source = TensorSource.of_file(packed)
    fits = (name for name in integer_layouts(packed) if layout_refusal(name, source) is None)
    return next(fits, None)
