"""How sparse a tensor is: single weights, rows, columns, kernels, filters and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn


def size_to_str(torch_size: Size) -> str:
    """``(97, 24)``."""
    return f"({', '.join(str(side) for side in torch_size)})"


def volume(tensor: Tensor) -> int:
    """How many elements."""
    return math.prod(tensor.shape)


def count_nonzero(tensor: Tensor) -> int:
    """How many elements are not zero."""
    return int(torch.count_nonzero(tensor.detach()))


def density(tensor: Tensor) -> float:
    """The share of elements that are not zero; 1.0 of an empty tensor."""
    return count_nonzero(tensor) / tensor.numel() if tensor.numel() else 1.0


def sparsity(tensor: Tensor) -> float:
    """The share of elements that are zero."""
    return 1.0 - density(tensor)


def sparsity_matrix(tensor: Tensor, dim: int) -> float:
    """The share of a matrix's rows (``dim`` 0) or columns (``dim`` 1) that are all zero.

    0 for a tensor that is not a matrix.
    """
    if tensor.dim() != 2 or not tensor.shape[dim]:
        return 0
    alive = int((tensor.detach() != 0).any(dim=1 - dim).sum())
    return 1 - alive / tensor.shape[dim]


def sparsity_rows(tensor: Tensor, transposed: bool = True) -> float:
    """Row sparsity of the matrix that multiplies the input.

    PyTorch stores that matrix transposed, so by default a row of it is a column of ``tensor``.
    With ``transposed=False`` rows are rows of ``tensor``, as in our tables.
    """
    return sparsity_matrix(tensor, 1 if transposed else 0)


def sparsity_cols(tensor: Tensor, transposed: bool = True) -> float:
    """Column sparsity of the matrix that multiplies the input; see `sparsity_rows`."""
    return sparsity_matrix(tensor, 0 if transposed else 1)


def density_rows(tensor: Tensor, transposed: bool = True) -> float:
    """1 minus `sparsity_rows`."""
    return 1 - sparsity_rows(tensor, transposed)


def density_cols(tensor: Tensor, transposed: bool = True) -> float:
    """1 minus `sparsity_cols`."""
    return 1 - sparsity_cols(tensor, transposed)


def sparsity_2D(tensor: Tensor) -> float:  # noqa: N802 - the name of the original
    """The share of 2-D structures that are zero: a matrix's rows, a convolution's kernels."""
    if tensor.dim() == 4:
        return sparsity_matrix(tensor.reshape(-1, tensor.shape[2] * tensor.shape[3]), 0)
    return sparsity_matrix(tensor, 0)


def density_2D(tensor: Tensor) -> float:  # noqa: N802
    """1 minus `sparsity_2D`."""
    return 1 - sparsity_2D(tensor)


def sparsity_3D(tensor: Tensor) -> float:  # noqa: N802
    """The share of a convolution's filters that are zero; 0 for other tensors."""
    return sparsity_matrix(tensor.reshape(tensor.shape[0], -1), 0) if tensor.dim() == 4 else 0


def density_3D(tensor: Tensor) -> float:  # noqa: N802
    """1 minus `sparsity_3D`."""
    return 1 - sparsity_3D(tensor)


def sparsity_ch(tensor: Tensor) -> float:
    """The share of a convolution's input channels that are zero; 0 for other tensors."""
    if tensor.dim() != 4:
        return 0
    return sparsity_matrix(tensor.transpose(0, 1).reshape(tensor.shape[1], -1), 0)


def density_ch(tensor: Tensor) -> float:
    """1 minus `sparsity_ch`."""
    return 1 - sparsity_ch(tensor)


def sparsity_blocks(tensor: Tensor, block_shape: tuple[int, int]) -> float:
    """The share of blocks of a matrix that are zero; smaller ones at the edges count too."""
    from lmbench.distiller.pruning.structures import Structures

    sizes = Structures("Blocks", block_shape).norms(tensor, "Max")
    return 1 - count_nonzero(sizes) / sizes.numel()


def model_find_param_name(model: nn.Module, param_to_find: Tensor) -> str | None:
    """The first name of a parameter, None when it is not in the model."""
    return next((n for n, p in model.named_parameters() if p is param_to_find), None)


def model_find_param(model: nn.Module, param_to_find_name: str) -> nn.Parameter | None:
    """The parameter of that name, also of a tie; None when there is none."""
    return dict(model.named_parameters(remove_duplicate=False)).get(param_to_find_name)


def model_find_module_name(model: nn.Module, module_to_find: nn.Module) -> str | None:
    """The first name of a module, None when it is not in the model."""
    return next((n for n, m in model.named_modules() if m is module_to_find), None)


def model_find_module(model: nn.Module, module_to_find: str) -> nn.Module | None:
    """The module of that name, None when there is none."""
    return dict(model.named_modules()).get(module_to_find)


def model_numel(
    model: nn.Module,
    param_dims: Sequence[int] = (2, 4),
    param_types: Sequence[str] = ("weight", "bias"),
) -> int:
    """`model_params_size`."""
    return model_params_size(model, param_dims, param_types)


def non_zero_channels(tensor: Tensor) -> Tensor:
    """The indices of a convolution's input channels, or a matrix's columns, that are not all zero.

    Raises:
        ValueError: for a tensor of other dimensions.
    """
    if tensor.dim() not in (2, 4):
        raise ValueError("non_zero_channels: takes the weight of a convolution or linear layer")
    return tensor.detach().transpose(0, 1).flatten(1).ne(0).any(dim=1).nonzero().reshape(-1)


def model_params_stats(
    model: nn.Module,
    param_dims: Sequence[int] = (2, 4),
    param_types: Sequence[str] = ("weight", "bias"),
) -> tuple[float, int, int]:
    """Of the parameters of these dimensions whose name holds one of these types, ties once.

    Returns:
        The share of zeros in percent, how many elements, and how many are not zero.
    """
    found = [
        param
        for name, param in model.named_parameters()
        if param.dim() in param_dims and any(kind in name for kind in param_types)
    ]
    total = sum(param.numel() for param in found)
    nonzero = sum(count_nonzero(param) for param in found)
    return (100 * (1 - nonzero / total) if total else 0.0), total, nonzero


def model_sparsity(
    model: nn.Module,
    param_dims: Sequence[int] = (2, 4),
    param_types: Sequence[str] = ("weight", "bias"),
) -> float:
    """The first of `model_params_stats`."""
    return model_params_stats(model, param_dims, param_types)[0]


def model_params_size(
    model: nn.Module,
    param_dims: Sequence[int] = (2, 4),
    param_types: Sequence[str] = ("weight", "bias"),
) -> int:
    """The second of `model_params_stats`."""
    return model_params_stats(model, param_dims, param_types)[1]
