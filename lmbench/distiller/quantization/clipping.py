"""From values, or statistics of values, to the range that is worth representing.

Beside the original's five ways (none, average, standard deviations, and ACIQ for Gaussian and
Laplace distributions: Banner et al. 2018, arXiv 1810.05723), ranges can be fitted to the values
themselves: least squared error, a percentile, or least Kullback-Leibler divergence (Migacz 2017,
"8-bit inference with TensorRT"). These three read the values of a tensor, or the histogram that
calibration keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.histogram import (
    Histogram,
    best_kl_range,
    best_mse_range,
    percentile_range,
)
from lmbench.distiller.quantization.modes import ClipMode, LinearQuantMode, parse_clip
from lmbench.distiller.quantization.scale_and_zero_point import (
    approx_scale_as_mult_and_shift,
    asymmetric_linear_quantization_params,
    symmetric_linear_quantization_params,
)

__all__ = [
    "ClipMode",
    "get_quant_params_from_stats_dict",
    "get_quant_params_from_tensor",
    "get_tensor_avg_max_abs",
    "get_tensor_avg_min_max",
    "get_tensor_max_abs",
    "get_tensor_mean_n_stds_max_abs",
    "get_tensor_mean_n_stds_min_max",
    "get_tensor_min_max",
    "parse_clip",
    "range_params",
]

# Banner et al., table of the clipping value in units of b (Laplace) and sigma (Gauss) for 0 or 1
# to 8 bits. A one-sided distribution has the table of one bit more.
_ALPHA_LAPLACE = (1.05, 1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89)
_ALPHA_LAPLACE_POSITIVE = (1.86, 2.83, 3.89, 5.02, 6.2, 7.41, 8.64, 9.89, 11.16)
_ALPHA_GAUSS = (math.nan, 1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92)
_ALPHA_GAUSS_POSITIVE = (math.nan, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92, 4.2)

Range = tuple[Tensor, Tensor]


def get_tensor_min_max(t: Tensor, per_dim: int | None = None) -> Range:
    """The extremes of a tensor, or of each slice along `per_dim` (0: of each row).

    Raises:
        QuantizationError: the tensor has no such dimension.
    """
    if per_dim is None:
        return t.min(), t.max()
    if per_dim >= t.dim():
        raise QuantizationError(f"per_dim: {per_dim} is no dimension of a tensor of {t.dim()}")
    flat = t.reshape(*t.shape[: per_dim + 1], -1)
    return flat.amin(-1), flat.amax(-1)


def get_tensor_max_abs(t: Tensor, per_dim: int | None = None) -> Tensor:
    """The largest magnitude of a tensor, or of each slice along `per_dim`."""
    low, high = get_tensor_min_max(t, per_dim)
    return torch.maximum(low.abs(), high.abs())


def get_tensor_avg_min_max(t: Tensor, across_dim: int | None = None) -> Range:
    """The mean of the extremes of the slices along `across_dim`."""
    low, high = get_tensor_min_max(t, across_dim)
    return low.mean(), high.mean()


def get_tensor_avg_max_abs(t: Tensor, across_dim: int | None = None) -> Tensor:
    """The larger magnitude of `get_tensor_avg_min_max`."""
    low, high = get_tensor_avg_min_max(t, across_dim)
    return torch.maximum(low.abs(), high.abs())


def get_tensor_mean_n_stds_min_max(t: Tensor, dim: int | None = None, n_stds: float = 1.0) -> Range:
    """The mean ± n_stds standard deviations, no wider than the extremes.

    Args:
        dim: None, or 0 for each row.

    Raises:
        QuantizationError: `n_stds` is not above 0, or another dimension.
    """
    if n_stds <= 0:
        raise QuantizationError(f"clip_n_stds must be above 0, got {n_stds}")
    if dim not in (None, 0):
        raise QuantizationError(f"dim: {dim} is neither None nor 0")
    low, high = get_tensor_min_max(t, dim)
    flat = t.reshape(1, -1) if dim is None else t.reshape(t.shape[0], -1)
    mean, std = flat.mean(1).view_as(low), flat.std(1).view_as(low)
    return torch.maximum(low, mean - n_stds * std), torch.minimum(high, mean + n_stds * std)


def get_tensor_mean_n_stds_max_abs(
    t: Tensor, dim: int | None = None, n_stds: float = 1.0
) -> Tensor:
    """The larger magnitude of `get_tensor_mean_n_stds_min_max`."""
    low, high = get_tensor_mean_n_stds_min_max(t, dim, n_stds)
    return torch.maximum(low.abs(), high.abs())


def _aciq_alpha(clip: ClipMode, num_bits: int, half_range: bool) -> float:
    if clip is ClipMode.GAUSS:
        table = _ALPHA_GAUSS_POSITIVE if half_range else _ALPHA_GAUSS
    else:
        table = _ALPHA_LAPLACE_POSITIVE if half_range else _ALPHA_LAPLACE
    clip.check_width(num_bits)
    return table[num_bits]


def _aciq_range(
    clip: ClipMode,
    num_bits: int,
    symmetric: bool,
    half_range: bool,
    mean: Tensor,
    spread: Tensor,
    low: Tensor,
) -> Range:
    """The original's reading of ACIQ.

    Symmetric: ±(alpha + |mean|). Otherwise upwards from mean - alpha, but not from below the
    (average) minimum, by twice alpha, or by alpha when only one side is used.
    """
    alpha = spread * _aciq_alpha(clip, num_bits, half_range and not symmetric)
    if symmetric:
        limit = alpha + mean.abs()
        return -limit, limit
    low = torch.maximum(low, mean - alpha)
    return low, low + (alpha if half_range else 2 * alpha)


def _fitted_range(
    clip: ClipMode, histogram: Histogram, num_bits: int, mode: LinearQuantMode, half_range: bool
) -> tuple[float, float]:
    if half_range:
        histogram = histogram.rectified()
    if clip is ClipMode.MSE:
        return best_mse_range(histogram, num_bits, mode.symmetric)
    if clip is ClipMode.KL:
        return best_kl_range(histogram, num_bits, mode.symmetric)
    return percentile_range(histogram)


def range_params(mode: LinearQuantMode, num_bits: int, low: Tensor, high: Tensor) -> Range:
    """Scale and zero point of ranges, all of the shape of `low` and `high`."""
    if mode.symmetric:
        limit = torch.maximum(low.abs(), high.abs())
        restrict = mode is LinearQuantMode.SYMMETRIC_RESTRICTED
        return symmetric_linear_quantization_params(num_bits, limit, restrict)
    # a range that clipping left inverted (all of it on one side of 0) is empty up to 0
    high = torch.maximum(high, low.clamp(max=0))
    return asymmetric_linear_quantization_params(
        num_bits, torch.minimum(low, high), high, signed=mode.signed
    )


def get_quant_params_from_tensor(
    tensor: Tensor,
    num_bits: int,
    mode: LinearQuantMode,
    clip: ClipMode = ClipMode.NONE,
    per_channel: bool = False,
    num_stds: float | None = None,
    half_range: bool = False,
    scale_approx_mult_bits: int | None = None,
) -> Range:
    """Scale and zero point for a tensor.

    Args:
        tensor: the values. Per channel needs 2 dimensions (out, in) or 4.
        num_bits: 2 to 16.
        mode: see `LinearQuantMode`.
        clip: see `ClipMode`. AVG and ACIQ give one range for all channels, as in the original;
            MSE and PERCENTILE fit each channel, KL takes none.
        per_channel: a range for each slice along dimension 0.
        num_stds: for N_STD.
        half_range: the values pass a ReLU next.
        scale_approx_mult_bits: round the scale to multiplier / 2^shift.

    Returns:
        Scale and zero point, 0-dim, or (channels, 1, …) when per channel.

    Raises:
        QuantizationError: per channel on another shape or with N_STD; N_STD without num_stds.
    """
    if per_channel and tensor.dim() not in (2, 4):
        raise QuantizationError(
            "per-channel quantization needs a weight of 2 or 4 dimensions, "
            f"this tensor has {tensor.dim()}"
        )
    if clip is ClipMode.N_STD:
        if per_channel:
            raise QuantizationError("clip mode N_STD is not supported per channel: use MSE")
        if num_stds is None:
            raise QuantizationError("clip mode N_STD needs clip_n_stds")
    low, high = _tensor_range(tensor, num_bits, mode, clip, per_channel, num_stds, half_range)
    if half_range and not clip.fitted and clip not in (ClipMode.GAUSS, ClipMode.LAPLACE):
        low, high = low.clamp(min=0), high.clamp(min=0)
    scale, zero_point = range_params(mode, num_bits, low, high)
    if per_channel:
        shape = (-1,) + (1,) * (tensor.dim() - 1)
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    if scale_approx_mult_bits is not None:
        scale = approx_scale_as_mult_and_shift(scale, scale_approx_mult_bits)
    return scale, zero_point


def _tensor_range(
    t: Tensor,
    num_bits: int,
    mode: LinearQuantMode,
    clip: ClipMode,
    per_channel: bool,
    num_stds: float | None,
    half_range: bool,
) -> Range:
    if clip is ClipMode.AVG:
        return get_tensor_avg_min_max(t, 0)
    if clip is ClipMode.N_STD:
        return get_tensor_mean_n_stds_min_max(t, n_stds=num_stds or 0.0)
    if clip in (ClipMode.GAUSS, ClipMode.LAPLACE):
        mean = t.mean()
        spread = t.std() if clip is ClipMode.GAUSS else (t - mean).abs().mean()
        low = get_tensor_avg_min_max(t, 0)[0] if per_channel else t.min()
        return _aciq_range(clip, num_bits, mode.symmetric, half_range, mean, spread, low)
    if clip.fitted and per_channel:
        return _row_ranges(t.flatten(1), num_bits, mode, clip)
    if clip.fitted:
        low, high = _fitted_range(clip, Histogram.of(t), num_bits, mode, half_range)
        return t.new_tensor(low), t.new_tensor(high)
    return get_tensor_min_max(t, 0 if per_channel else None)


_ROW_SHARES = tuple(1 - i / 40 for i in range(31))
_ROW_TAIL = 1e-2


def _row_ranges(rows: Tensor, num_bits: int, mode: LinearQuantMode, clip: ClipMode) -> Range:
    """The fitted range of each row of (rows, columns), all rows at once."""
    if clip is ClipMode.KL:
        raise QuantizationError(
            "clip mode KL is not supported per channel, rows are too short: use MSE"
        )
    low, high = rows.amin(1), rows.amax(1)
    if clip is ClipMode.PERCENTILE:
        ordered = rows.sort(1).values
        cut = int(_ROW_TAIL / 2 * rows.shape[1])
        return ordered[:, cut], ordered[:, rows.shape[1] - 1 - cut]
    if mode.symmetric:
        limit = torch.maximum(low.abs(), high.abs())
        limit = _least_error(rows, num_bits, mode, lambda s: (-limit * s, limit * s))[1]
        return -limit, limit
    low, high = low.clamp(max=0), high.clamp(min=0)
    high = _least_error(rows, num_bits, mode, lambda s: (low, high * s))[1]
    low = _least_error(rows, num_bits, mode, lambda s: (low * s, high))[0]
    return low, high


def _least_error(
    rows: Tensor, num_bits: int, mode: LinearQuantMode, shrunk: Callable[[float], Range]
) -> Range:
    """For each row the candidate range with the least squared error."""
    best_low, best_high = shrunk(1.0)
    best = torch.full_like(best_low, torch.inf)
    q_low, q_high = mode.quantized_range(num_bits)
    for share in _ROW_SHARES:
        low, high = shrunk(share)
        scale, zero = (part[:, None] for part in range_params(mode, num_bits, low, high))
        near = (rows * scale).round_()
        near = torch.minimum(torch.maximum(near, q_low + zero), q_high + zero).div_(scale)
        error = near.sub_(rows).square_().sum(1)
        better = error < best
        best = torch.where(better, error, best)
        best_low = torch.where(better, low, best_low)
        best_high = torch.where(better, high, best_high)
    return best_low, best_high


def get_quant_params_from_stats_dict(
    stats: Mapping[str, Any],
    num_bits: int,
    mode: LinearQuantMode,
    clip: ClipMode = ClipMode.NONE,
    num_stds: float | None = None,
    half_range: bool = False,
    scale_approx_mult_bits: int | None = None,
) -> Range:
    """Scale and zero point (0-dim) from the statistics of one tensor.

    Args:
        stats: min, max, avg_min, avg_max, mean, std, b and, for MSE, PERCENTILE and KL,
            histogram.
        num_bits: 2 to 16.
        mode: see `LinearQuantMode`.
        clip: see `ClipMode`.
        num_stds: for N_STD.
        half_range: the values pass a ReLU next.
        scale_approx_mult_bits: round the scale to multiplier / 2^shift.

    Raises:
        QuantizationError: a statistic is missing; N_STD without num_stds.
    """
    low, high = _stats_range(stats, num_bits, mode, clip, num_stds, half_range)
    if half_range and clip not in (ClipMode.GAUSS, ClipMode.LAPLACE):
        low, high = low.clamp(min=0), high.clamp(min=0)
    scale, zero_point = range_params(mode, num_bits, low, high)
    if scale_approx_mult_bits is not None:
        scale = approx_scale_as_mult_and_shift(scale, scale_approx_mult_bits)
    return scale, zero_point


def _stats_range(
    stats: Mapping[str, Any],
    num_bits: int,
    mode: LinearQuantMode,
    clip: ClipMode,
    num_stds: float | None,
    half_range: bool,
) -> Range:
    def read(key: str) -> Tensor:
        if stats.get(key) is None:
            raise QuantizationError(
                f"clip mode {clip.name} needs the statistic {key!r}, which these statistics "
                "lack: calibrate again"
            )
        return torch.tensor(float(stats[key]))

    if clip is ClipMode.AVG:
        return read("avg_min"), read("avg_max")
    if clip is ClipMode.N_STD:
        if num_stds is None:
            raise QuantizationError("clip mode N_STD needs clip_n_stds")
        if num_stds <= 0:
            raise QuantizationError(f"clip_n_stds must be above 0, got {num_stds}")
        mean, std = read("mean"), read("std")
        low = torch.maximum(read("min"), mean - num_stds * std)
        return low, torch.minimum(read("max"), mean + num_stds * std)
    if clip in (ClipMode.GAUSS, ClipMode.LAPLACE):
        spread = read("std" if clip is ClipMode.GAUSS else "b")
        return _aciq_range(
            clip, num_bits, mode.symmetric, half_range, read("mean"), spread, read("avg_min")
        )
    if clip.fitted:
        if stats.get("histogram") is None:
            raise QuantizationError(
                f"clip mode {clip.name} needs a histogram, which these statistics lack: "
                "calibrate again"
            )
        entry = stats["histogram"]
        key = (float(entry["low"]), float(entry["width"]), str(entry["counts"]))
        # net-aware clipping narrows min and max: never represent more than they say
        bounds = float(read("min")), float(read("max"))
        low, high = _range_of_entry(key, bounds, clip, num_bits, mode, half_range)
        return torch.tensor(low), torch.tensor(high)
    return read("min"), read("max")


@lru_cache(maxsize=4096)
def _range_of_entry(
    entry: tuple[float, float, str],
    bounds: tuple[float, float],
    clip: ClipMode,
    num_bits: int,
    mode: LinearQuantMode,
    half_range: bool,
) -> tuple[float, float]:
    """The fitted range of a stored histogram; a search asks for the same one again and again."""
    low, width, counts = entry
    histogram = Histogram.from_dict({"low": low, "width": width, "counts": counts})
    return _fitted_range(clip, histogram.clamped(*bounds), num_bits, mode, half_range)
