"""Norms of the rows and columns of a matrix, by the original's names and arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lmbench.distiller.errors import DistillerError

NormFunction = Callable[..., Tensor]


class NamedFunction:
    """A function that shows as its name."""

    def __init__(self, f: Callable[..., Tensor], name: str) -> None:
        self.f = f
        self.name = name

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        return self.f(*args, **kwargs)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


def _lp(p: float) -> NormFunction:
    def norm(param: Tensor, dim: int | None = None) -> Tensor:
        return param.norm(p) if dim is None else param.norm(p, dim=dim)

    return norm


l1_norm = NamedFunction(_lp(1), "L1")
l2_norm = NamedFunction(_lp(2), "L2")
max_norm = NamedFunction(_lp(math.inf), "Max")


def generic_norm(
    param: Tensor, norm_fn: NormFunction, group_size: int, length_normalized: bool, dim: int
) -> Tensor:
    """The norm along ``dim``, divided by ``group_size`` when ``length_normalized``."""
    norm = norm_fn(param, dim=dim)
    return norm / group_size if length_normalized else norm


def sub_matrix_norm(
    param: Tensor, norm_fn: NormFunction, group_len: int, length_normalized: bool, dim: int
) -> Tensor:
    """The norm of each group of ``group_len`` rows (``dim`` 0) or columns (``dim`` 1).

    A group of several gets the norm of all its weights together; its size is their number.
    """
    matrix = param if dim == 0 else param.t()
    count, left = divmod(matrix.shape[0], group_len)
    if left:
        raise DistillerError(f"group_len {group_len} does not divide {matrix.shape[0]}; change it")
    groups = matrix.reshape(count, -1)
    return generic_norm(groups, norm_fn, groups.shape[1], length_normalized, 1)


def rows_norm(
    param: Tensor, norm_fn: NormFunction, group_len: int = 1, length_normalized: bool = False
) -> Tensor:
    """The norm of each row, or group of rows."""
    return sub_matrix_norm(param, norm_fn, group_len, length_normalized, 0)


def cols_norm(
    param: Tensor, norm_fn: NormFunction, group_len: int = 1, length_normalized: bool = False
) -> Tensor:
    """The norm of each column, or group of columns."""
    return sub_matrix_norm(param, norm_fn, group_len, length_normalized, 1)


def rows_lp_norm(
    param: Tensor, p: float = 1, group_len: int = 1, length_normalized: bool = False
) -> Tensor:
    """`rows_norm` of the p-norm."""
    return rows_norm(param, _lp(p), group_len, length_normalized)


def cols_lp_norm(
    param: Tensor, p: float = 1, group_len: int = 1, length_normalized: bool = False
) -> Tensor:
    """`cols_norm` of the p-norm."""
    return cols_norm(param, _lp(p), group_len, length_normalized)


def num_structs_to_prune(
    n_elems: int, group_len: int, fraction_to_prune: float, rounding_fn: Callable[[float], int]
) -> int:
    """How many of ``n_elems`` structures a fraction prunes, in whole groups of ``group_len``."""
    whole = rounding_fn(fraction_to_prune * n_elems)
    return int(rounding_fn(whole / group_len) * group_len)


def e_greedy_normal_noise(mags: Tensor, e: float) -> Tensor:
    """With probability ``e`` the magnitudes times normal noise, else as they are."""
    return mags * torch.randn_like(mags) if float(torch.rand(())) <= e else mags


def k_smallest_elems(mags: Tensor, k: int, noise: float) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest magnitudes, in rising order, and the magnitudes that were compared."""
    compared = e_greedy_normal_noise(mags, noise)
    smallest, _ = torch.topk(compared, k, largest=False, sorted=True)
    return smallest, compared
