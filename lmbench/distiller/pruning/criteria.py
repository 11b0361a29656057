"""Masks from magnitudes: by an exact count, by a threshold, by a multiple of the deviation.

Masks say 1 for a weight to keep. The public functions answer in the dtype of the tensor, as the
original did; inside, masks are boolean, a quarter of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmbench.distiller.errors import DistillerError


def keep_largest(magnitudes: Tensor, prune: int, pruned_before: Tensor | None = None) -> Tensor:
    """A boolean mask that prunes exactly ``prune`` of the smallest magnitudes.

    Args:
        magnitudes: any shape, not negative.
        prune: how many to prune; all of them when larger than the tensor.
        pruned_before: same shape, True where pruned already. Among equal magnitudes those go
            first, so that a growing count never brings a weight back; then the order of storage.

    Returns:
        A boolean tensor of the same shape, True where the weight stays.
    """
    flat = magnitudes.reshape(-1)
    if prune <= 0:
        return torch.ones_like(magnitudes, dtype=torch.bool)
    if prune >= flat.numel():
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    threshold = torch.kthvalue(flat, prune).values
    keep = ~(flat < threshold)
    missing = prune - (flat.numel() - int(keep.sum()))
    if missing > 0:
        tied = torch.nonzero(flat == threshold).reshape(-1)
        if pruned_before is not None and tied.numel() > missing:
            gone = pruned_before.reshape(-1)[tied]
            tied = torch.cat([tied[gone], tied[~gone]])
        keep[tied[:missing]] = False
    return keep.reshape(magnitudes.shape)


def level_count(numel: int, desired_sparsity: float) -> int:
    """How many of ``numel`` weights a sparsity level prunes: its whole part, never below 0."""
    return max(0, min(numel, int(desired_sparsity * numel)))


def level_mask(tensor: Tensor, desired_sparsity: float, mask: Tensor | None = None) -> Tensor:
    """A boolean mask with exactly ``int(desired_sparsity * numel)`` weights pruned."""
    prune = level_count(tensor.numel(), desired_sparsity)
    return keep_largest(tensor.detach().abs(), prune, None if mask is None else ~mask)


def threshold_keep(tensor: Tensor, threshold: float) -> Tensor:
    """A boolean mask that keeps the magnitudes above ``threshold``."""
    return tensor.detach().abs() > threshold


def create_mask_level_criterion(tensor: Tensor, desired_sparsity: float) -> Tensor:
    """Prune the smallest ``int(desired_sparsity * numel)`` magnitudes of ``tensor``.

    The count is exact also when magnitudes are equal, and level 0 keeps everything.

    Returns:
        A mask in the tensor's shape and dtype, 1 to keep.
    """
    return level_mask(tensor, desired_sparsity).to(tensor.dtype)


def create_mask_threshold_criterion(tensor: Tensor, threshold: float) -> Tensor:
    """Keep the magnitudes above ``threshold``; a mask in the tensor's dtype, 1 to keep."""
    return threshold_keep(tensor, threshold).to(tensor.dtype)


def create_mask_sensitivity_criterion(tensor: Tensor, sensitivity: float) -> Tensor:
    """Keep the magnitudes above ``sensitivity`` standard deviations of ``tensor``.

    Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", 2015 (arXiv:1506.02626).
    """
    deviation = float(torch.std(tensor.detach()))
    return threshold_keep(tensor, deviation * sensitivity).to(tensor.dtype)


def mask_tensor(tensor: Tensor, mask: Tensor, inplace: bool = True) -> Tensor:
    """``tensor`` with its pruned entries at zero.

    Raises:
        DistillerError: when the shapes differ.
    """
    if tensor.shape != mask.shape:
        raise DistillerError(
            f"a mask of shape {tuple(mask.shape)} does not fit a tensor of {tuple(tensor.shape)}"
        )
    with torch.no_grad():
        return tensor.mul_(mask) if inplace else tensor * mask
