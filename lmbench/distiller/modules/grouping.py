"""Joining, splitting and multiplying tensors as modules, under the original's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["BatchMatmul", "Chunk", "Concat", "Matmul", "Split", "Stack"]


class _Along(nn.Module):
    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Concat(_Along):
    """Joins tensors along a dimension."""

    def forward(self, *seq: Tensor) -> Tensor:
        """Tensors that differ in `dim` alone → one."""
        return torch.cat(seq, dim=self.dim)


class Stack(_Along):
    """Joins tensors along a new dimension."""

    def forward(self, seq: Sequence[Tensor]) -> Tensor:
        """Tensors of one shape → one."""
        return torch.stack(tuple(seq), dim=self.dim)


class Chunk(_Along):
    """Splits a tensor into so many parts."""

    def __init__(self, chunks: int, dim: int = 0) -> None:
        super().__init__(dim)
        self.chunks = chunks

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """A tensor → its parts along `dim`."""
        return tensor.chunk(self.chunks, dim=self.dim)


class Split(_Along):
    """Splits a tensor into parts of these sizes."""

    def __init__(self, split_size_or_sections: int | Sequence[int], dim: int = 0) -> None:
        super().__init__(dim)
        self.split_size_or_sections = split_size_or_sections

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """A tensor → its parts along `dim`."""
        return torch.split(tensor, self.split_size_or_sections, dim=self.dim)  # type: ignore[arg-type]


class Matmul(nn.Module):
    """The matrix product of two tensors."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """As `torch.matmul`."""
        return torch.matmul(a, b)


class BatchMatmul(nn.Module):
    """The matrix product of two batches."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(batch, n, m) and (batch, m, p) → (batch, n, p)."""
        return torch.bmm(a, b)
