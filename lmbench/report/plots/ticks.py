"""The ticks of a plot's axes: which values, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from lmbench.report.plots.braille import DOWN

__all__ = ["cell_of", "label", "ticks", "x_ticks", "y_ticks"]

# From here on a number is written as so many k.
_THOUSANDS = 2e3
# Of a tick's label.
_DIGITS = 4
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# On less than half a decade evenly spread ticks read better, though they stand unevenly.
_HALF_DECADE = 0.5
_LOG_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between `low` and `high`, evenly spread, at most `most` (at least one)."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    magnitude = 10.0 ** math.floor(math.log10(span / max(most, 1)))
    for scale in (magnitude, 10 * magnitude, 100 * magnitude):
        for step in _STEPS[:-1]:
            step *= scale
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if 1 <= last - first + 1 <= most:
                return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
    return [low]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between 10^`low` and 10^`high`."""
    if high - low < _HALF_DECADE:
        return [v for v in ticks(10.0**low, 10.0**high, most) if v > 0]
    decades = range(math.floor(low), math.ceil(high) + 1)
    chosen: list[float] = []
    for steps in _LOG_STEPS:
        found = [m * 10.0**d for d in decades for m in steps]
        found = [v for v in found if low <= math.log10(v) <= high]
        if len(found) <= most or not chosen:
            chosen = found
    return chosen[:: math.ceil(len(chosen) / most)] if chosen else [10.0 ** ((low + high) / 2)]


def y_ticks(y: tuple[float, float], rows: int, *, unit: str, log: bool) -> list[tuple[float, str]]:
    """Where they stand, and what they say, from the bottom up; of a log axis by their logarithms.

    As many as fit, each in a row of its own: a label would cover another one. None is of what no
    share can be, as the room that moments take above 100% is.
    """
    low, high = y
    if unit == "share":
        high = min(high, 0.0 if log else 1.0)
    if unit in ("share", "percent") and not log:
        low = max(low, 0.0)
    found: list[tuple[float, str]] = []
    for most in range(max(3, rows // 3), 0, -1):
        values = _log_ticks(low, high, most) if log else ticks(low, high, most)
        texts = _labels(values, unit)
        heights = [math.log10(v) if log else v for v in values]
        found = list(zip(heights, texts, strict=True))
        if len({cell_of(height, y, rows, DOWN) for height in heights}) == len(found):
            break
    return found


def cell_of(value: float, limits: tuple[float, float], cells: int, dots: int = 1) -> int:
    """Which of so many cells between the limits a value lies in, where a cell has so many dots."""
    low, high = limits
    dot = math.floor(round(0.5 + (cells * dots - 1) * (value - low) / (high - low), 8))
    return dot // dots


def x_ticks(window: tuple[float, float], axis: str, most: int) -> list[tuple[float, str]]:
    """Where at most `most` of them stand, and what they say, from left to right."""
    if axis == "time":
        # Minutes; from four hours on hours are rounder.
        scale, unit = (60, "h") if window[1] - window[0] > 240 else (1, "m")
        values = ticks(window[0] / scale, window[1] / scale, most)
        texts = _aligned([f"{value:g}{unit}" for value in values])
        return [(scale * value, text) for value, text in zip(values, texts, strict=True)]
    values = ticks(*window, most)
    if axis == "step":
        values = [value for value in values if value.is_integer()] or values
    unit = "bytes" if axis.startswith("bytes") else "number"
    return list(zip(values, _labels(values, unit), strict=True))


def _labels(values: Sequence[float], unit: str) -> list[str]:
    """Labels of one axis: all with the same number of digits, so that they stand in line.

    As many as tell the values apart, which on a narrow range is more than `label` gives one alone.
    """
    texts: list[str] = []
    # One axis has no 1500 beside 2k.
    thousand = 1e3 if any(abs(value) >= _THOUSANDS for value in values) else _THOUSANDS
    for digits in range(_DIGITS, 3 * _DIGITS):
        texts = [label(v, unit, digits, thousand) for v in values]
        if len(set(texts)) == len(set(values)):
            break
    return _aligned(texts)


_NUMBER = re.compile(r"(-?\d+)(?:\.(\d+))?( ?[A-Za-z]*%?)")


def _aligned(texts: list[str]) -> list[str]:
    """Numbers of one unit with as many decimals as the one that has most."""
    parts = [_NUMBER.fullmatch(text) for text in texts]
    most: dict[str, int] = {}
    for part in filter(None, parts):
        most[part[3]] = max(most.get(part[3], 0), len(part[2] or ""))
    return [
        f"{part[1]}.{(part[2] or '').ljust(most[part[3]], '0')}{part[3]}"
        if part and most[part[3]]
        else text
        for text, part in zip(texts, parts, strict=True)
    ]


def label(
    value: float, unit: str = "number", digits: int = _DIGITS, thousand: float = _THOUSANDS
) -> str:
    """A value in few characters: 350, 2k, 1.5M, 0.25, 1e-05, 60%, 1.2 GB."""
    if not math.isfinite(value):
        return str(value)
    if unit in ("percent", "share"):
        return f"{value * (100 if unit == 'share' else 1):.{digits - 1}g}%"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3 if unit == "bytes" else thousand, "k")):
        if abs(value) >= limit * (1 - 1e-9):
            short = f"{value / (1e3 if suffix == 'k' else limit):.{digits}g}"
            return f"{short} {suffix}B" if unit == "bytes" else f"{short}{suffix}"
    return f"{value:.{digits}g}"
