"""A histogram that grows with what it sees, and the ranges that fit it best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Histogram", "best_kl_range", "best_mse_range", "percentile_range"]

BINS = 2048
_TAIL = 1e-4
_CANDIDATES = 64


@dataclass(frozen=True)
class Histogram:
    """Counts and sums of values in equal bins.

    Attributes:
        low: left edge of the first bin.
        width: of a bin, above 0.
        counts: (bins,) float64, how many values fell in each.
        sums: (bins,) float64, their sum, which keeps means exact whatever the bins' width.
    """

    low: float
    width: float
    counts: Tensor
    sums: Tensor

    @classmethod
    def of(cls, values: Tensor, bins: int = BINS) -> Histogram:
        """The histogram of a tensor's values."""
        flat = values.detach().reshape(-1)
        low, high = (float(edge) for edge in flat.aminmax())
        width = _width(low, high, bins)
        return cls(low, width, *_count(flat, low, width, bins))

    def add(self, values: Tensor) -> Histogram:
        """With more values. A range that no longer fits is doubled by merging pairs of bins."""
        flat = values.detach().reshape(-1)
        low, high = (float(edge) for edge in flat.aminmax())
        grown = self
        while high > grown.high:
            grown = grown._double(downwards=False)
        while low < grown.low:
            grown = grown._double(downwards=True)
        counts, sums = _count(flat, grown.low, grown.width, len(self.counts))
        return Histogram(grown.low, grown.width, grown.counts + counts, grown.sums + sums)

    @property
    def high(self) -> float:
        """Right edge of the last bin."""
        return self.low + self.width * len(self.counts)

    @property
    def total(self) -> float:
        """How many values were counted."""
        return float(self.counts.sum())

    @property
    def centers(self) -> Tensor:
        """(bins,) the middle of each bin."""
        steps = torch.arange(len(self.counts), dtype=torch.float64)
        return self.low + self.width * (steps + 0.5)

    def _double(self, downwards: bool) -> Histogram:
        bins = len(self.counts)
        empty = torch.zeros(bins // 2, dtype=torch.float64)

        def merge(values: Tensor) -> Tensor:
            halved = values.view(-1, 2).sum(1)
            return torch.cat([empty, halved] if downwards else [halved, empty])

        low = self.low - bins * self.width if downwards else self.low
        return Histogram(low, 2 * self.width, merge(self.counts), merge(self.sums))

    def mean_deviation(self, mean: float) -> float:
        """The mean of |x - mean|: exact but for the values in the bin that holds the mean."""
        if self.total == 0:
            return 0.0
        edge = min(max(math.floor((mean - self.low) / self.width), 0), len(self.counts))
        below = float(mean * self.counts[:edge].sum() - self.sums[:edge].sum())
        above = float(self.sums[edge + 1 :].sum() - mean * self.counts[edge + 1 :].sum())
        inside = 0.0
        if edge < len(self.counts):
            inside = float(self.counts[edge]) * self.width / 4  # its mean distance, if uniform
        return (below + above + inside) / self.total

    def clamped(self, low: float, high: float) -> Histogram:
        """With the values outside [low, high] moved to its ends."""
        if low <= self.low and high >= self.high:
            return self
        centers = self.centers
        keep = (centers >= low) & (centers <= high)
        if not bool(keep.any()):
            return Histogram(low, _width(low, high, 1), self.counts.sum()[None], self.sums[:1])
        first = int(keep.nonzero()[0])
        last = int(keep.nonzero()[-1])
        counts = self.counts[first : last + 1].clone()
        counts[0] += self.counts[:first].sum()
        counts[-1] += self.counts[last + 1 :].sum()
        return Histogram(
            self.low + first * self.width, self.width, counts, self.sums[first : last + 1]
        )

    def rectified(self) -> Histogram:
        """Of the values after a ReLU."""
        return self.clamped(0.0, max(self.high, self.width))

    def to_dict(self) -> dict[str, Any]:
        """For a YAML file: low, width and counts, which are one line of text to read fast."""
        counts = " ".join(str(int(count)) for count in self.counts)
        return {"low": self.low, "width": self.width, "counts": counts}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Histogram:
        """The inverse of `to_dict`; sums are taken at the bins' centers."""
        counts = torch.tensor([int(n) for n in entry["counts"].split()], dtype=torch.float64)
        bare = cls(float(entry["low"]), float(entry["width"]), counts, counts)
        return cls(bare.low, bare.width, counts, counts * bare.centers)


def _width(low: float, high: float, bins: int) -> float:
    # a hair wider than needed, so that the maximum falls inside the last bin
    width = (high - low) / bins * (1 + 1e-6)
    floor = max(abs(low), abs(high), 1e-30) * 1e-7
    return max(width, floor)


def _count(flat: Tensor, low: float, width: float, bins: int) -> tuple[Tensor, Tensor]:
    index = ((flat - low) / width).long().clamp_(0, bins - 1)
    counts = torch.bincount(index, minlength=bins).double().cpu()
    return counts, torch.bincount(index, weights=flat.double(), minlength=bins).cpu()


def percentile_range(histogram: Histogram, tail: float = _TAIL) -> tuple[float, float]:
    """All but a share `tail` of the values on each side."""
    share = histogram.counts.cumsum(0) / max(histogram.total, 1.0)
    first = int(torch.searchsorted(share, tail, right=True))
    last = int(torch.searchsorted(share, 1 - tail))
    last = min(max(last, first), len(histogram.counts) - 1)
    first = min(first, last)
    return histogram.low + first * histogram.width, histogram.low + (last + 1) * histogram.width


def _extremes(histogram: Histogram) -> tuple[float, float]:
    used = histogram.counts.nonzero().flatten()
    if len(used) == 0:
        return 0.0, 0.0
    first, last = int(used[0]), int(used[-1])
    return histogram.low + first * histogram.width, histogram.low + (last + 1) * histogram.width


def _squared_error(
    histogram: Histogram, low: float, high: float, num_bits: int, symmetric: bool
) -> float:
    """Expected squared error of quantizing the histogram's values over [low, high]."""
    steps = 2**num_bits - 1
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / steps
    if step == 0:
        return float((histogram.counts * histogram.centers**2).sum())
    x = histogram.centers
    if symmetric:
        lowest, highest = -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    else:
        lowest = round(low / step)
        highest = lowest + steps
    near = (x / step).round().clamp(lowest, highest) * step
    return float((histogram.counts * (near - x) ** 2).sum())


def best_mse_range(histogram: Histogram, num_bits: int, symmetric: bool) -> tuple[float, float]:
    """The range, among shrunken ones, whose quantization has the least squared error.

    Symmetric ranges are searched along one line; others shrink each end in turn, which finds the
    optimum of a function that has one valley along each.
    """
    low, high = _extremes(histogram)
    shares = [1 - i / _CANDIDATES for i in range(_CANDIDATES - 1)]
    if symmetric:
        limit = max(-low, high)

        def score(share: float) -> float:
            return _squared_error(histogram, -limit * share, limit * share, num_bits, True)

        best = min(shares, key=score)
        return -limit * best, limit * best
    low, high = min(low, 0.0), max(high, 0.0)
    low_share = high_share = 1.0
    for _ in range(2):
        high_share = min(
            shares,
            key=lambda s: _squared_error(histogram, low * low_share, high * s, num_bits, False),
        )
        low_share = min(
            shares,
            key=lambda s: _squared_error(histogram, low * s, high * high_share, num_bits, False),
        )
    return low * low_share, high * high_share


def best_kl_range(histogram: Histogram, num_bits: int, symmetric: bool) -> tuple[float, float]:
    """The range whose quantized histogram diverges least from the clipped one (Migacz 2017)."""
    low, high = _extremes(histogram)
    if symmetric:
        limit = max(-low, high)
        low, high = -limit, limit
    shares = [1 - i / _CANDIDATES for i in range(_CANDIDATES - 1)]
    best = min(shares, key=lambda s: _divergence(histogram, low * s, high * s, num_bits))
    return low * best, high * best


def _divergence(histogram: Histogram, low: float, high: float, num_bits: int) -> float:
    """KL divergence of the values in [low, high], tails added to its ends, from their levels."""
    clipped = histogram.clamped(low, high).counts
    centers = histogram.centers
    inside = histogram.counts[(centers >= low) & (centers <= high)]
    if len(inside) != len(clipped) or float(inside.sum()) == 0:
        return math.inf
    levels = 2**num_bits
    if len(inside) < levels and low > histogram.low:
        return math.inf  # finer than the histogram: nothing to compare
    group = torch.arange(len(inside)) * levels // len(inside)
    used = (inside > 0).double()
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, inside)
    share = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, used)
    spread = mass[group] / share[group].clamp(min=1) * used
    reference, candidate = clipped / clipped.sum(), spread / spread.sum()
    floor = 1e-9  # a bin that only the tails fill has no level: it must cost, not divide by zero
    seen = reference > 0
    ratio = reference[seen] / candidate[seen].clamp(min=floor)
    return float((reference[seen] * ratio.log()).sum())
