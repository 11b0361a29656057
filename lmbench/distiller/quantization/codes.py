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

Codes can also be fitted to a layer's inputs, so that its outputs, not its weights, change least:
with the second moments M of the inputs, the error of a row is (w - q) M (w - q)^T, as in GPTQ
(Frantar et al. 2022, arXiv 2210.17323). Scales and codes alternate as above, the scales by least
squares in that measure, the codes by coordinate descent: each column in turn takes the sums that
are best beside all others as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "AT_ONCE",
    "Codes",
    "fit_codes",
    "fit_codes_to_inputs",
    "keeps_zeros",
    "levels_for_inputs",
    "nearest_levels",
    "unit_for",
]

_TOP = 127
# The paper takes two; here they are cheap, and end where no code changes any more.
_ROUNDS = 16
# Of codes that are fitted to inputs, where further rounds gain a fifth of a percent each.
_TURNS = 8
_DAMPING = 0.05
AT_ONCE = 1 << 16
"""Weights whose passes stay in a core's cache."""


class Codes(NamedTuple):
    """The scales of a weight (R, C)."""

    unit: Tensor
    """(R, 1) float32, powers of two."""
    steps: Tensor
    """(k, R, groups) uint8: alpha_1 … alpha_k in units, at most 127 together."""


def keeps_zeros(weight: Tensor, bits: int) -> bool:
    """Are half of a trained weight zeros, or so many that a mask takes no more than they do in
    codes of so many bits? It then passes for pruned."""
    zeros = weight.numel() - int(weight.count_nonzero())
    return zeros * max(bits, 2) >= weight.numel()


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


@torch.no_grad()
def fit_codes_to_inputs(
    weight: Tensor,
    moments: Tensor,
    bits: int,
    group_size: int | None = None,
    *,
    pruned: bool = False,
) -> Codes:
    """As `fit_codes`, for the least error of a layer's output; `levels_for_inputs` has the codes.

    Args:
        moments: (C, C) of its inputs, positive semi-definite.
    """
    group = min(group_size or weight.shape[1], weight.shape[1])
    codes, metric = fit_codes(weight, bits, group, pruned=pruned), _metric(weight, moments)
    for piece in _pieces(weight):
        rows, kept = weight[piece], _kept(weight[piece], pruned)
        values, unit, steps = rows, codes.unit[piece], codes.steps[:, piece]
        for _ in range(_TURNS):
            sums, signs = _sums(unit, steps)
            values, places = _settled(rows, values, sums, group, kept, metric, 1)
            alphas = _scales_for_inputs(rows, signs, places, group, kept, metric)
            unit.copy_(unit_for(alphas.sum(2).amax(1, keepdim=True), bits))
            steps.copy_((alphas / unit[..., None]).round().permute(2, 0, 1))
    return codes


@torch.no_grad()
def levels_for_inputs(
    weight: Tensor,
    moments: Tensor,
    unit: Tensor,
    steps: Tensor,
    group_size: int | None,
    *,
    pruned: bool = False,
) -> Tensor:
    """(R, C) as `nearest_levels`, for the least error of a layer's output."""
    group = min(group_size or weight.shape[1], weight.shape[1])
    metric, found = _metric(weight, moments), torch.empty_like(weight)
    for piece in _pieces(weight):
        rows, kept = weight[piece], _kept(weight[piece], pruned)
        sums, _ = _sums(unit[piece], steps[:, piece])
        found[piece], _ = _settled(rows, rows, sums, group, kept, metric, _TURNS)
    return found / unit


def _pieces(weight: Tensor) -> list[slice]:
    at_once = max(1, AT_ONCE // weight.shape[1])
    return [slice(first, first + at_once) for first in range(0, len(weight), at_once)]


def _kept(weight: Tensor, pruned: bool) -> Tensor:
    """1 for each weight that has a code, 0 for the others."""
    return (weight != 0).to(weight.dtype) if pruned else torch.ones_like(weight)


def _metric(weight: Tensor, moments: Tensor) -> Tensor:
    damping = _DAMPING * moments.diagonal().mean().clamp(min=1e-12)
    eye = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    return (moments + damping * eye).to(weight)


def _sums(unit: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of each group (r, groups, 2^k), smallest first, and the signs of each (…, k)."""
    signs = _signs(len(steps), unit)
    sums, order = (steps.to(unit.dtype).permute(1, 2, 0) @ signs.T).sort(2)
    return sums * unit[..., None], signs[order]


def _settled(
    weight: Tensor,
    start: Tensor,
    sums: Tensor,
    group: int,
    kept: Tensor,
    metric: Tensor,
    turns: int,
) -> tuple[Tensor, Tensor]:
    """(r, C) sums, from those nearest to `start` on, after each column has had so many turns, and
    their places among the group's sums."""
    between = (sums[..., 1:] + sums[..., :-1]) / 2
    places = torch.empty_like(weight, dtype=torch.long)
    values = torch.empty_like(weight)
    tables = [(sums[:, g].contiguous(), between[:, g].contiguous()) for g in range(sums.shape[1])]
    for g, (own, middles) in enumerate(tables):
        part = slice(g * group, (g + 1) * group)
        places[:, part] = torch.searchsorted(middles, start[:, part].contiguous())
        values[:, part] = own.gather(1, places[:, part]) * kept[:, part]
    pull = (weight - values) @ metric
    for _ in range(turns):
        for j in range(weight.shape[1]):
            own, middles = tables[j // group]
            best = values[:, j] + pull[:, j] / metric[j, j]
            place = torch.searchsorted(middles, best[:, None])
            value = own.gather(1, place)[:, 0] * kept[:, j]
            pull.addr_(value - values[:, j], metric[j], alpha=-1)
            places[:, j], values[:, j] = place[:, 0], value
    return values, places


def _scales_for_inputs(
    weight: Tensor, signs: Tensor, places: Tensor, group: int, kept: Tensor, metric: Tensor
) -> Tensor:
    """(r, groups, k) the scales of least error for the codes at these places."""
    rows, groups, _, bits = signs.shape
    codes = weight.new_zeros(*weight.shape, groups * bits)
    for g in range(groups):
        part = slice(g * group, (g + 1) * group)
        index = places[:, part, None].expand(-1, -1, bits)
        own = signs[:, g].gather(1, index) * kept[:, part, None]
        codes[:, part, g * bits : (g + 1) * bits] = own
    seen = metric @ codes
    gram = (codes.mT @ seen).double()
    # Two codes of a row may be the same, and a group may be empty.
    gram.diagonal(dim1=1, dim2=2).add_(1e-6 * metric.diagonal().mean())
    alone = (seen.mT @ weight[..., None]).double()
    # A scale below zero gives the same sums as one above.
    return torch.linalg.solve(gram, alone).abs().reshape(rows, groups, bits).to(weight.dtype)


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
