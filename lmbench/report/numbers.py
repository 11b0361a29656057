"""Numbers as tables, sentences and the workbench write them; "" or – where one is not known."""

from __future__ import annotations

import math
import re
import time

__all__ = [
    "clock",
    "count",
    "duration",
    "percent",
    "perplexity",
    "plural",
    "rate",
    "short",
    "size",
]


def as_float(value: object) -> float | None:
    """A number that a float can hold; None for whatever else a file may say in its place."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def perplexity(value: float | None) -> str:
    """Up to six cells: 124.1, 1,234, 123k, 2.1e7."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "inf" if value > 0 else "nan"
    if value < 999.95:
        return f"{value:.1f}"
    if value < 99_999.5:
        return f"{value:,.0f}"
    if value < 999_500:
        return f"{value / 1000:.0f}k"
    short = re.sub("e\\+0*", "e", f"{value:.1e}")
    return short if len(short) <= 6 else re.sub("e\\+0*", "e", f"{value:.0e}")


def percent(share: float | None) -> str:
    """A share in [0, 1] as 76.7%."""
    return "" if share is None else f"{100 * share:.1f}%"


def size(count: float | None, as_packed: bool = False) -> str:
    """Bytes as 7.4 MB, in powers of ten, as disks count them; ≈7.4 MB where no file has that size,
    but a model's would have when packed."""
    if count is None:
        return ""
    if as_packed:
        return f"≈{size(count)}"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            digits = 0 if unit == "B" or count >= 99.5 else 1
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def count(value: int | None) -> str:
    """13,295,600 as ``13.3 M``."""
    if value is None:
        return ""
    for unit, least in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        # What would be rounded up to 1,000 of the smaller unit is one of this.
        if value >= least * 0.99995:
            return f"{value / least:.1f} {unit}"
    return str(value)


def plural(number: int, noun: str) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def short(value: float | None) -> str:
    """A figure in three or four digits: 4,410, 0.0213, 1.2e+06."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude >= 1e6 or magnitude < 1e-3:
        return f"{value:.3g}"
    if magnitude >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """12:40, 1:02:03, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    whole = max(0, round(seconds))  # a clock may have been set back
    if whole >= 2 * 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def rate(tokens_per_s: float | None) -> str:
    """4,410 tok/s."""
    return "" if tokens_per_s is None else f"{tokens_per_s:,.0f} tok/s"


def clock(t: float) -> str:
    """The local time of day of a moment, as 14:05:09."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(t))
    except (OverflowError, OSError, ValueError):
        # Of a damaged event.
        return "?"
