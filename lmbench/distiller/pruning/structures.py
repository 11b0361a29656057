"""Rows, columns and blocks of a matrix: their norms, and masks that drop some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.distiller.errors import DistillerError

Norm = Literal["L1", "L2", "Max"]
GROUP_TYPES = ("Rows", "Cols", "Channels", "Blocks")
CRITERIA = ("Max", "Mean_Abs", "Mean_L1", "Mean_L2", "L1", "L2")
# Keeps the gradient of a group's norm finite where the group is zero.
EPSILON = 1e-8
CONVOLUTION_GROUPS = ("2D", "3D", "4D", "Filters")


@dataclass(frozen=True)
class Structures:
    """How a weight is divided into structures that are kept or pruned as a whole.

    A ``Channels`` structure is a column: the weights of one input channel. Blocks at the right and
    bottom edges are smaller when ``block_shape`` does not divide the matrix.
    """

    group_type: str
    block_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_group_type(self.group_type)
        if self.group_type == "Blocks" and self.block_shape is None:
            raise DistillerError("group_type Blocks needs kwargs: {block_shape: [rows, columns]}")

    def matrix(self, weight: Tensor, name: str = "weight") -> Tensor:
        """The weight as a matrix; a 1x1 convolution is one too."""
        if weight.dim() == 4 and weight.shape[2:] == (1, 1):
            return weight.detach().reshape(weight.shape[:2])
        if weight.dim() != 2:
            raise DistillerError(
                f"'{name}' has shape {tuple(weight.shape)}; {self.group_type} are structures of a "
                "matrix, so name a 2-D weight"
            )
        return weight.detach()

    def norms(self, weight: Tensor, norm: Norm, name: str = "weight") -> Tensor:
        """The norm of each structure by its size; shape (rows), (columns) or (blocks)."""
        magnitudes = self.matrix(weight, name).abs()
        if self.group_type == "Rows":
            return _reduce(magnitudes, norm, 1)
        if self.group_type != "Blocks":
            return _reduce(magnitudes, norm, 0)
        height, width = self._block()
        rows, columns = magnitudes.shape
        padded = F.pad(magnitudes, (0, -columns % width, 0, -rows % height))
        grid = (padded.shape[0] // height, height, padded.shape[1] // width, width)
        blocks = padded.reshape(grid).transpose(1, 2).reshape(grid[0] * grid[2], height * width)
        if norm == "Max":
            return blocks.amax(1)
        sizes = self._edges(rows, height)[:, None] * self._edges(columns, width)[None, :]
        size = sizes.reshape(-1).to(blocks)
        if norm == "L1":
            return blocks.sum(1) / size
        return (blocks.square().sum(1) / size).sqrt()

    def sizes(self, weight: Tensor, criteria: str, name: str = "weight") -> Tensor:
        """What a threshold is compared to, for each row or column; shape (structures).

        ``Max`` is the largest magnitude, ``L1`` the sum of magnitudes, ``L2`` the Euclidean norm.
        ``Mean_L1`` and ``Mean_L2`` are those by the number of structures, as in the original, and
        ``Mean_Abs`` is another name of ``Mean_L1``. For a square matrix that is the mean magnitude;
        for others thresholds tuned with the original keep their meaning.

        Raises:
            DistillerError: for another criterion, and for blocks.
        """
        if criteria not in CRITERIA:
            raise DistillerError(
                f"unknown threshold_criteria {criteria!r}; choose {', '.join(CRITERIA)}"
            )
        if self.group_type == "Blocks":
            raise DistillerError("group_type Blocks takes no threshold; choose Rows or Cols")
        magnitudes = self.matrix(weight, name).abs()
        dim = 1 if self.group_type == "Rows" else 0
        if criteria == "Max":
            return magnitudes.amax(dim)
        norm = magnitudes.norm(dim=dim) if criteria.endswith("L2") else magnitudes.sum(dim)
        return norm / norm.numel() if criteria.startswith("Mean_") else norm

    @staticmethod
    def _edges(length: int, block: int) -> Tensor:
        sizes = torch.full((math.ceil(length / block),), block)
        sizes[-1] = length - block * (len(sizes) - 1)
        return sizes

    def expand(self, keep: Tensor, weight: Tensor) -> Tensor:
        """The mask of the weight's shape for one boolean a structure."""
        rows, columns = self.matrix(weight).shape
        if self.group_type == "Rows":
            mask = keep[:, None].expand(rows, columns)
        elif self.group_type != "Blocks":
            mask = keep[None, :].expand(rows, columns)
        else:
            height, width = self._block()
            grid = keep.reshape(math.ceil(rows / height), math.ceil(columns / width))
            mask = grid.repeat_interleave(height, 0).repeat_interleave(width, 1)
            mask = mask[:rows, :columns]
        return mask.reshape(weight.shape).contiguous()

    def _block(self) -> tuple[int, int]:
        assert self.block_shape is not None
        return self.block_shape


def check_group_type(group_type: str, extra: Sequence[str] = ()) -> None:
    """Raise when the structure is unknown or one of convolutions only."""
    known = (*GROUP_TYPES, *extra)
    if group_type in CONVOLUTION_GROUPS:
        raise DistillerError(
            f"group_type {group_type} is of convolutions only; choose {', '.join(known)}"
        )
    if group_type not in known:
        raise DistillerError(f"unknown group_type {group_type!r}; choose {', '.join(known)}")


def block_of(kwargs: dict[str, object] | None) -> tuple[int, int] | None:
    """The two sides of ``block_shape``; of the original's four the last two must be 1."""
    shape = (kwargs or {}).get("block_shape")
    if shape is None:
        return None
    sides = list(shape) if isinstance(shape, (list, tuple)) else []
    if len(sides) == 4 and sides[2:] == [1, 1]:
        sides = sides[:2]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if len(sides) != 2 or not whole:
        raise DistillerError(f"block_shape {shape!r} must be two sizes, such as [8, 8]")
    return sides[0], sides[1]


def _reduce(magnitudes: Tensor, norm: Norm, dim: int) -> Tensor:
    if norm == "Max":
        return magnitudes.amax(dim)
    if norm == "L1":
        return magnitudes.mean(dim)
    return magnitudes.square().mean(dim).sqrt()
