"""The values that a sweep tries of one setting: a list, a range, or a range of equal ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmbench.config.setting import as_number
from lmbench.distiller.errors import did_you_mean
from lmbench.distiller.yaml_values import one_line

__all__ = ["MOST_VALUES", "AxisError", "axis_values"]

MOST_VALUES = 10_000
"""Of one axis, and runs of one sweep."""

_KEYS = ("from", "to", "step", "count", "log")
# What a step may miss the end of its range by, in steps: 0.1 added nine times is not 0.9.
_ROUNDING = 1e-9


class AxisError(ValueError):
    """What is wrong with an axis, in words, and in which of its entries."""

    def __init__(self, what: str, *entry: object) -> None:
        super().__init__(what)
        self.entry = entry


def axis_values(given: Any, *, whole: bool) -> list[Any]:
    """The values of an axis as a sweep file has it, in their order.

    Args:
        given: a list, or ``{from:, to:, step:}``, or ``{from:, to:, count:, log:}``; both ends of
            a range belong to it.
        whole: the setting is a whole number, to which those of a range are rounded.

    Raises:
        AxisError: it is none of these, is empty, or has too many values. Nothing is expanded then.
    """
    if isinstance(given, Mapping):
        return _range(given, whole=whole)
    if not isinstance(given, list):
        raise AxisError("is no axis; write a list, or {from:, to:, step:}, or {from:, to:, count:}")
    if not given:
        raise AxisError("is empty; list at least one value, or take the axis away")
    _limit(len(given))
    seen: set[str] = set()
    for place, value in enumerate(given):
        if repr(value) in seen:
            raise AxisError(f"has {one_line(value, 60)} twice; take one away", place)
        seen.add(repr(value))
    return given


def _limit(count: int) -> None:
    if count > MOST_VALUES:
        raise AxisError(
            f"has {count:,} values, and {MOST_VALUES:,} are the most; take larger steps"
        )


def _range(given: Mapping[Any, Any], *, whole: bool) -> list[Any]:
    for key in given:
        if key not in _KEYS:
            raise AxisError(
                f"'{one_line(key)}' is no key of a range {did_you_mean(key, _KEYS)}", key
            )
    for key in ("from", "to"):
        if key not in given:
            raise AxisError(f"has no {key}: give both ends of the range")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise AxisError("must be true or false", "log")
    if ("step" in given) == ("count" in given):
        raise AxisError("needs either step: or count:")
    first, last = _number(given, "from"), _number(given, "to")
    if first > last:
        raise AxisError(f"{last:g} is less than from; exchange the two", "to")
    if log and first <= 0:
        raise AxisError(f"{first:g} must be greater than 0 where log is true", "from")
    values = _stepped(given, first, last) if "step" in given else _counted(given, first, last, log)
    rounded = [_shortest(value, whole=whole) for value in values]
    if len(set(rounded)) < len(rounded):
        raise AxisError("has a value twice once they are rounded; take fewer or larger steps")
    return rounded


def _stepped(given: Mapping[Any, Any], first: float, last: float) -> list[float]:
    step = _number(given, "step")
    if given.get("log"):
        raise AxisError("goes with count:, not with step:", "log")
    if step <= 0:
        raise AxisError(f"{step:g} must be greater than 0", "step")
    steps = (last - first) / step + _ROUNDING
    count = math.floor(steps) + 1 if math.isfinite(steps) else MOST_VALUES + 1
    _limit(count)
    return [first + number * step for number in range(count)]


def _counted(given: Mapping[Any, Any], first: float, last: float, log: bool) -> list[float]:
    count = given["count"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise AxisError(f"{one_line(repr(count), 60)} must be a whole number, at least 1", "count")
    _limit(count)
    shares = [number / (count - 1) for number in range(count)] if count > 1 else [0.0]
    if log:
        low, high = math.log(first), math.log(last)
        return [math.exp(low + share * (high - low)) for share in shares]
    return [first + share * (last - first) for share in shares]


def _number(given: Mapping[Any, Any], key: str) -> float:
    value = as_number(given[key])
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    if not finite:
        raise AxisError(f"{one_line(repr(value), 60)} must be a number", key)
    return value


def _shortest(value: float, *, whole: bool) -> float:
    """Without what adding and multiplying left in the last digits."""
    return round(value) if whole else float(f"{value:.12g}")
