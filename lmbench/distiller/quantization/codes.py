"""Weights of 1 to 4 bits as sums of scaled signs: alternating multi-bit quantization.

After Xu et al. 2018 (Alternating Multi-bit Quantization for Recurrent Neural Networks, ICLR, arXiv
1802.00150): the n weights of a row, or of a group of one, become w ≈ alpha_1 b_1 + … + alpha_k b_k
with each b_i in {-1, +1}^n. The start is greedy, each code being the signs of what those before it
left over; then the best scales for the codes (least squares) and the best codes for the scales (a
binary search among the 2^k sums) alternate, and neither step can raise the squared error.

The end is of ours: the scales of a row are rounded to multiples of one power of two, its unit, so
that no sum has more than 127. The sums are then int8 levels with one scale a row, which integer
kernels multiply without a further error, and a weight has the same value wherever it is computed.

No sum need be zero. Zeros of a pruned weight stay zeros, and the codes are those of the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AT_ONCE", "Codes", "fit_codes", "keeps_zeros", "nearest_levels", "unit_for"]

_TOP = 127
# The paper takes two; here they are cheap, and end where no code changes any more.
_ROUNDS = 16
AT_ONCE = 1 << 16
"""Weights whose passes stay in a core's cache."""


class Codes(NamedTuple):
    """The scales of a weight (R, C)."""

    unit: Tensor
    """(R, 1) float32, powers of two."""
    steps: Tensor
    """(k, R, groups) uint8: alpha_1 … alpha_k in units, at most 127 together."""


def keeps_zeros(weight: Tensor) -> bool:
    """Are half of a trained weight or more zeros, so that it passes for pruned?"""
    return 2 * int(weight.count_nonzero()) <= weight.numel()


@torch.no_grad()
def fit_codes(
    weight: Tensor, bits: int, group_size: int | None = None, *, pruned: bool = False
) -> Codes:
    """The scales for the codes of a finite weight (R, C); see `nearest_levels` for those.

    Args:
        bits: signs a weight, k.
        group_size: columns that share their scales; None for whole rows.
        pruned: weights that are 0 have no code, and no say in the scales.
    """
    rows, columns = weight.shape
    group = min(group_size or columns, columns)
    alphas = weight.new_empty(rows, -(-columns // group), bits)
    # Sorting is long enough a pass to be worth fewer of them.
    at_once = max(1, 8 * AT_ONCE // columns)
    for first in range(0, rows, at_once):
        for g, cells in enumerate(weight[first : first + at_once].split(group, dim=1)):
            alphas[first : first + at_once, g] = _fit(cells, bits, pruned=pruned)
    unit = unit_for(alphas.sum(2).amax(1, keepdim=True), bits)
    steps = (alphas / unit[..., None]).round().permute(2, 0, 1)
    return Codes(unit, steps.to(torch.uint8).contiguous())


def unit_for(top: Tensor, bits: int) -> Tensor:
    """The unit of rows whose scales add up to `top` at most, (R, 1)."""
    # Rounding a scale adds up to half a unit to the largest sum.
    largest = top / (_TOP - bits / 2)
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent, 0).clamp(-120, 120)
    return torch.ldexp(torch.ones_like(largest), exponent)


@torch.no_grad()
def nearest_levels(
    weight: Tensor, unit: Tensor, steps: Tensor, group_size: int | None, *, pruned: bool = False
) -> Tensor:
    """(R, C) float32 integers in [-127, 127]: for each weight the nearest sum, in units.

    Args:
        weight: (R, C).
        unit, steps: as in `Codes`.
        group_size, pruned: as they were given to `fit_codes`.
    """
    group = min(group_size or weight.shape[1], weight.shape[1])
    found = torch.empty_like(weight)
    signs = _signs(len(steps), weight)
    at_once = max(1, AT_ONCE // weight.shape[1])
    for first in range(0, len(weight), at_once):
        piece = slice(first, first + at_once)
        cells = weight[piece] / unit[piece]
        sums = (steps[:, piece].to(weight.dtype).permute(1, 2, 0) @ signs.T).sort(2).values
        # (r, groups, 2^k / 2), the smallest first; each has a negative of its own.
        own = sums[..., len(signs) // 2 :]
        above, between = own.diff(dim=2), (own[..., 1:] + own[..., :-1]) / 2
        for g, part in enumerate(cells.split(group, dim=1)):
            size, levels = part.abs(), found[piece, g * group : (g + 1) * group]
            levels.copy_(own[:, g, :1].expand_as(part))
            larger = torch.empty_like(size)
            for i in range(above.shape[2]):
                torch.gt(size, between[:, g, i : i + 1], out=larger)
                levels.addcmul_(larger, above[:, g, i : i + 1])
            levels.mul_(part.sign()) if pruned else levels.copysign_(part)
    return found


def _signs(bits: int, like: Tensor) -> Tensor:
    """(2^k, k): the signs of each code, whose bit i says that of alpha_i."""
    codes = torch.arange(2**bits, device=like.device)[:, None]
    return ((codes >> torch.arange(bits, device=like.device)) & 1).to(like.dtype) * 2 - 1


def _fit(cells: Tensor, bits: int, *, pruned: bool) -> Tensor:
    """(N, n) weights to the scales of each row (N, k).

    Once its weights are sorted, those of one code lie side by side, and how many they are and what
    they add up to are differences of two places: a round looks at no weight again.
    """
    zeros = (cells == 0).sum(1) if pruned else 0
    alphas = _greedy(cells, bits, cells.shape[1] - zeros)
    ordered = cells.sort(1).values.double()
    totals = F.pad(ordered.cumsum(1), (1, 0))
    signs = _signs(bits, ordered)
    middle = len(signs) // 2
    before = None
    for _ in range(_ROUNDS):
        sums, order = (alphas @ signs.T).sort(1)
        between = (sums[:, 1:] + sums[:, :-1]) / 2
        between[:, middle - 1] = 0
        places = torch.searchsorted(ordered, between)
        places = F.pad(F.pad(places, (1, 0)), (0, 1), value=cells.shape[1])  # (N, 2^k + 1)
        if before is not None and not places.is_meta and torch.equal(places, before):
            break
        before = places
        counts, added = places.diff(), totals.gather(1, places).diff()
        counts[:, middle] -= zeros
        alphas = _better_scales(counts, added, signs[order], alphas)
    return alphas.to(cells.dtype)


def _greedy(cells: Tensor, bits: int, count: Tensor | int) -> Tensor:
    """The scales (N, k) of the start, float64.

    Args:
        count: (N,) of the weights that have a code.
    """
    left, alphas = cells, []
    count = torch.as_tensor(count, device=cells.device).clamp(min=1).reshape(-1, 1)
    for _ in range(bits):
        alphas.append(left.abs().sum(1, keepdim=True) / count)
        left = left - left.sign() * alphas[-1]
    return torch.cat(alphas, 1).double()


def _better_scales(counts: Tensor, sums: Tensor, signs: Tensor, alphas: Tensor) -> Tensor:
    """Scales (N, k) that leave less of the weights for the same codes.

    Each in turn is made the one of least squares, twice: near the joint solution, and always one.

    Args:
        counts, sums: (N, 2^k), how many weights have each code, and what they add up to.
        signs: (N, 2^k, k), those of each code.
    """
    gram = signs.mT @ (signs * counts[..., None])
    alone, alphas = (signs.mT @ sums[..., None])[..., 0], alphas.clone()
    for i in list(range(alphas.shape[1])) * 2:
        others = (gram[:, i] * alphas).sum(1) - gram[:, i, i] * alphas[:, i]
        alphas[:, i] = (alone[:, i] - others) / gram[:, i, i].clamp(min=1)
    # A scale below zero gives the same sums as one above.
    return alphas.abs()
