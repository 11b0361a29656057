"""Matrices and vectors as the kernels read them: tiles of 16 rows x 4 columns.

The structures mirror those of ``types.h``. A structure's pointers live as long as the
Python object around it, which keeps the arrays.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.packed_file.code_planes import code_sums

__all__ = [
    "Matrix",
    "VectorBuffer",
    "bitmask_matrix",
    "block_matrix",
    "codes_matrix",
    "dense_matrix",
    "gathered_matrix",
    "int4_matrix",
]

Array = NDArray[Any]

ROWS, QUAD, TILE = 16, 4, 64
_LINE = 64  # bytes of a cache line
# AMX reads tiles sixteen at a time, and vectors too.
AT_ONCE = 16
# A gathered tile is of 8 rows, 4 values each, whose activations lie within 32.
_GATHERED_ROWS, _WINDOW = 8, 32
# Groups of codes lie together in fours.
TOGETHER = 4
_DENSE, _BITMASK, _BLOCK_16X4, _BLOCK_8X8, _INT4, _CODES, _GATHERED = range(7)
_BLOCK_KINDS = {(16, 4): _BLOCK_16X4, (8, 8): _BLOCK_8X8}

Isa = Literal["scalar", "avx2", "avx512", "amx"]
ISAS: tuple[Isa, ...] = ("scalar", "avx2", "avx512", "amx")


class MatrixStruct(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("groups", ctypes.c_int32),
        ("quads", ctypes.c_int32),
        ("scale_quads", ctypes.c_int32),
        ("planes", ctypes.c_int32),
        ("values", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    )


class VectorsStruct(ctypes.Structure):
    _fields_ = (
        ("n", ctypes.c_int32),
        ("stride", ctypes.c_int32),
        ("biased", ctypes.c_void_p),
        ("bytes", ctypes.c_void_p),
        ("words", ctypes.c_void_p),
        ("quad_sums", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


class Matrix:
    """One matrix [rows, cols] in kernel form; made by the functions below."""

    def __init__(
        self,
        kind: int,
        shape: tuple[int, int],
        arrays: dict[str, Array],
        *,
        groups: int,
        quads: int,
        scale_quads: int = 0,
        planes: int = 0,
    ) -> None:
        self.rows, self.cols = shape
        self.groups = groups
        self._arrays = arrays = {name: _at_a_line(array) for name, array in arrays.items()}
        self.struct = MatrixStruct(kind, self.rows, self.cols, groups, quads, scale_quads, planes)
        for name, array in arrays.items():
            setattr(self.struct, name, array.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Memory that the kernels read."""
        return sum(array.nbytes for array in self._arrays.values())


def _at_a_line(array: Array) -> Array:
    """The array where a cache line begins: a tile that lies across two costs twice the loads."""
    if array.ctypes.data % _LINE == 0:
        return array
    room = np.empty(array.nbytes + _LINE, np.uint8)
    begin = -room.ctypes.data % _LINE
    moved = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def _tiles(levels: Array, *, even: bool = False) -> Array:
    """[R, C] to contiguous [groups, quads, 16, 4], zeros at the edges."""
    rows, columns = levels.shape
    groups, quads = -(-rows // ROWS), -(-columns // QUAD)
    quads += quads % 2 if even else 0
    padded = np.zeros((groups * ROWS, quads * QUAD), levels.dtype)
    padded[:rows, :columns] = levels
    tiles = padded.reshape(groups, ROWS, quads, QUAD).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles)


def _row_arrays(levels: Array, scale: Array, height: int) -> dict[str, Array]:
    """What the kernels need for each row: its scale, and what the activations' offset adds."""
    rows = len(levels)
    padded = -(-rows // height) * height
    scales = np.zeros(padded, np.float32)
    scales[:rows] = scale
    offsets = np.zeros(padded, np.int32)
    offsets[:rows] = 128 * levels.sum(axis=1, dtype=np.int32)
    return {"scale": scales, "offsets": offsets}


def dense_matrix(levels: Array, scale: Array) -> Matrix:
    """int8 [R, C] with one scale a row, fp32 [R]."""
    tiles = _tiles(levels)
    beyond = np.zeros(AT_ONCE * TILE, np.int8)
    values = np.concatenate([tiles.ravel(), beyond])
    arrays = {"values": values, **_row_arrays(levels, scale, ROWS)}
    return Matrix(_DENSE, _shape(levels), arrays, groups=tiles.shape[0], quads=tiles.shape[1])


def bitmask_matrix(levels: Array, scale: Array) -> Matrix:
    """The same, only the values that are not zero being kept, with a bit for each place."""
    tiles = _tiles(levels)
    groups, quads = tiles.shape[:2]
    keep = tiles.reshape(groups, quads, TILE) != 0
    masks = np.packbits(keep, axis=2, bitorder="little").view(np.uint64)
    # The kernels load 64 bytes wherever a tile's values begin.
    values = np.concatenate([tiles.reshape(groups, quads, TILE)[keep], np.zeros(TILE, np.int8)])
    arrays = {
        "values": values,
        "masks": np.ascontiguousarray(masks.reshape(groups, quads)),
        "starts": _starts(keep.reshape(groups, -1).sum(axis=1)),
        **_row_arrays(levels, scale, ROWS),
    }
    return Matrix(_BITMASK, _shape(levels), arrays, groups=groups, quads=quads)


def gathered_matrix(levels: Array, scale: Array) -> Matrix:
    """The same, the values of each row in fours, each with its place among 32 activations."""
    rows, columns = levels.shape
    groups = -(-rows // _GATHERED_ROWS)
    padded = np.zeros((groups * _GATHERED_ROWS, columns + 1), np.int8)
    padded[:rows, :columns] = levels
    # So many rows stay in the cache while they are gone over.
    pieces = [_gathered(padded[first : first + 2048]) for first in range(0, len(padded), 2048)]
    counts, places, values = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    scales = _row_arrays(levels, scale, _GATHERED_ROWS)["scale"]
    arrays = {"values": values, "starts": _starts(counts), "places": places, "scale": scales}
    quads = -(-columns // QUAD)
    return Matrix(_GATHERED, _shape(levels), arrays, groups=groups, quads=quads)


def _gathered(levels: Array) -> tuple[Array, Array, Array]:
    """How many tiles each group of rows [R, C + 1] has, where their windows begin, and the tiles.

    Tile by tile a group goes on from the first column that is left, each row with its next values
    that the tile's window reaches. The last column is of zeros.
    """
    height, columns = _GATHERED_ROWS, levels.shape[1] - 1
    groups = len(levels) // height
    counts = np.count_nonzero(levels, axis=1)
    at_row, at_column = np.nonzero(levels)
    nth = np.arange(len(at_row)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The columns of each row's values in order, and behind them the last one.
    order = np.full((len(levels), int(counts.max(initial=0)) + QUAD), columns, np.int32)
    order[at_row, nth] = at_column
    # Windows end where the vectors do, which are as wide as whole tiles.
    most = -(-columns // TILE) * TILE - _WINDOW
    done = np.zeros((groups, height, 1), np.int64)
    left = np.arange(groups)
    none = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 2, height, QUAD), np.int8)
    tiles: list[tuple[Array, Array, Array]] = [none]
    while True:
        of_rows = (left[:, None] * height + np.arange(height))[:, :, None]
        next_four = order[of_rows, done[left] + np.arange(QUAD)]
        first = next_four[:, :, 0].min(axis=1)
        goes_on = first < columns
        if not goes_on.any():
            break
        left, of_rows, next_four = left[goes_on], of_rows[goes_on], next_four[goes_on]
        first = np.minimum(first[goes_on], most)
        place = next_four - first[:, None, None]
        reached = (place < _WINDOW) & (next_four < columns)
        codes = np.where(reached, (place & 15) | np.where(place >= _WINDOW // 2, 128, 0), 0)
        tile = [levels[of_rows, next_four] * reached, codes.astype(np.uint8).view(np.int8)]
        tiles.append((left, first, np.stack(tile, 1)))
        done[left] += reached.sum(axis=2, keepdims=True)
    of, places, values = (np.concatenate(parts) for parts in zip(*tiles, strict=True))
    by_group = np.argsort(of, kind="stable")
    return np.bincount(of, minlength=groups), places[by_group].astype(np.int32), values[by_group]


def block_matrix(levels: Array, scale: Array, block: tuple[int, int]) -> Matrix:
    """The same, its blocks (height, width) that are not zero: of (16, 4) or (8, 8)."""
    (rows, columns), (height, width) = levels.shape, block
    down, across = -(-rows // height), -(-columns // width)
    padded = np.zeros((down * height, across * width), np.int8)
    padded[:rows, :columns] = levels
    cells = padded.reshape(down, height, across, width).transpose(0, 2, 1, 3)
    keep = cells.any(axis=(2, 3))
    arrays = {
        "values": np.ascontiguousarray(cells[keep]),
        "starts": _starts(keep.sum(axis=1)),
        "places": np.nonzero(keep)[1].astype(np.int32),
        **_row_arrays(levels, scale, height),
    }
    quads = -(-columns // QUAD)
    return Matrix(_BLOCK_KINDS[block], _shape(levels), arrays, groups=down, quads=quads)


def int4_matrix(levels: Array, scale: Array, group: int) -> Matrix:
    """int8 [R, C] in [-8, 7] with a scale for each `group` columns, [R, ceil(C / group)]."""
    tiles = _tiles(levels, even=True)
    groups, quads = tiles.shape[:2]
    biased = (tiles + 8).astype(np.uint8).reshape(groups, quads, TILE)
    packed = biased[:, 0::2] | (biased[:, 1::2] << 4)
    scale_groups = scale.shape[1]
    scales = np.zeros((groups * ROWS, scale_groups), np.float32)
    scales[: len(scale)] = scale
    arrays = {
        "values": np.ascontiguousarray(packed),
        "scale": np.ascontiguousarray(
            scales.reshape(groups, ROWS, scale_groups).transpose(0, 2, 1)
        ),
    }
    return Matrix(
        _INT4,
        _shape(levels),
        arrays,
        groups=groups,
        quads=quads,
        scale_quads=group // QUAD,
    )


def codes_matrix(bits: Array, steps: Array, unit: Array, group: int) -> Matrix:
    """Sums of scaled signs.

    Args:
        bits: uint8 [k, R, C], a one for a plus.
        steps: uint8 [k, R, groups], the scales; of each row and group at most 127 together.
        unit: fp32 [R], what they are multiples of.
        group: columns that share them, a multiple of 4.
    """
    planes, rows, columns = bits.shape
    tiles = np.stack([_tiles(plane) for plane in bits], 2)  # [groups, quads, k, 16, 4]
    groups, quads = tiles.shape[:2]
    masks = np.packbits(tiles.reshape(groups, quads, planes, TILE), axis=3, bitorder="little")
    whole = np.zeros((-(-groups // TOGETHER) * TOGETHER, quads, planes), np.uint64)
    whole[:groups] = masks.view(np.uint64)[..., 0]
    together = whole.reshape(-1, TOGETHER, quads, planes).transpose(0, 2, 3, 1)
    wide = steps.astype(np.int16)
    # [1 + k, R, groups]: the least sum, and what each plus adds to it.
    table = np.concatenate([-wide.sum(0, keepdims=True), 2 * wide]).astype(np.uint8).view(np.int8)
    padded = np.zeros((1 + planes, groups * ROWS, table.shape[2]), np.int8)
    padded[:, :rows] = table
    values = padded.reshape(1 + planes, groups, ROWS, -1).transpose(1, 3, 0, 2)
    arrays = {
        "values": np.ascontiguousarray(values),
        "masks": np.ascontiguousarray(together),
        **_row_arrays(code_sums(bits, steps, group, np.int8), unit, ROWS),
    }
    return Matrix(
        _CODES,
        (rows, columns),
        arrays,
        groups=groups,
        quads=quads,
        scale_quads=group // QUAD,
        planes=planes,
    )


def _shape(levels: Array) -> tuple[int, int]:
    return levels.shape[0], levels.shape[1]


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class VectorBuffer:
    """Room for `capacity` quantized vectors of up to `width` numbers."""

    def __init__(self, capacity: int, width: int) -> None:
        stride = -(-width // TILE) * TILE
        self.capacity = capacity
        self._arrays: dict[str, Array] = {
            "biased": np.zeros((-(-capacity // AT_ONCE) * AT_ONCE, stride), np.uint8),
            "bytes": np.zeros((capacity, stride), np.int8),
            "words": np.zeros((capacity, stride), np.int16),
            "quad_sums": np.zeros((capacity, stride // QUAD), np.int32),
            "scale": np.zeros(capacity, np.float32),
        }
        self.struct = VectorsStruct(0, stride)
        for name, array in self._arrays.items():
            setattr(self.struct, name, array.ctypes.data)
