"""The values of an axis, and what is no axis."""

from __future__ import annotations

from typing import Any

import pytest

from lmbench.jobs.sweeps.axes import MOST_VALUES, AxisError, axis_values


@pytest.mark.parametrize(
    "given, values",
    [
        ([3, 1, 2], [3, 1, 2]),
        ({"from": 1, "to": 7, "step": 3}, [1, 4, 7]),
        ({"from": 0.1, "to": 0.9, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ({"from": 0, "to": 1, "count": 5}, [0, 0.25, 0.5, 0.75, 1]),
        ({"from": 1, "to": 100, "count": 3, "log": True}, [1, 10, 100]),
        ({"from": 5, "to": 9, "count": 1}, [5]),
        ({"from": "1e-6", "to": "1e-4", "count": 3, "log": True}, [1e-6, 1e-5, 1e-4]),
        ({"from": 1e-299, "to": 1e299, "count": 3, "log": True}, [1e-299, 1, 1e299]),
    ],
)
def test_ranges_hold_both_ends_and_no_noise(given: Any, values: list[float]) -> None:
    assert axis_values(given, whole=False) == values


def test_a_whole_setting_gets_whole_numbers() -> None:
    values = axis_values({"from": 64, "to": 512, "count": 4, "log": True}, whole=True)
    assert values == [64, 128, 256, 512]
    assert all(type(value) is int for value in values)


@pytest.mark.parametrize(
    "given, words",
    [
        (3, "is no axis"),
        ([], "is empty"),
        ([1, 2, 1], "has 1 twice"),
        ({"from": 1, "to": 2}, "either step: or count:"),
        ({"from": 1, "to": 2, "step": 1, "count": 2}, "either step: or count:"),
        ({"to": 2, "step": 1}, "has no from"),
        ({"from": 2, "to": 1, "step": 1}, "exchange the two"),
        ({"from": 0, "to": 1, "count": 3, "log": True}, "greater than 0"),
        ({"from": 1, "to": 2, "step": 0.5, "log": True}, "goes with count"),
        ({"from": 1, "to": 2, "step": 0}, "greater than 0"),
        ({"from": 1, "to": 2, "step": True}, "must be a number"),
        ({"from": "low", "to": 2, "step": 1}, "must be a number"),
        ({"from": 1, "to": 2, "count": 0}, "at least 1"),
        ({"from": 1, "to": 2, "stop": 1, "count": 3}, "no key of a range"),
        ({"from": 1, "to": 1, "count": 2}, "twice once they are rounded"),
        (list(range(MOST_VALUES + 1)), "10,001 values"),
        ({"from": 1, "to": 10**9, "step": 1}, "1,000,000,000 values"),
        ({"from": 0, "to": 1, "step": 1e-300}, "values"),
        ({"from": 0, "to": 1, "count": 2**63}, "values"),
    ],
)
def test_what_is_no_axis_is_refused_in_words(given: Any, words: str) -> None:
    with pytest.raises(AxisError, match=words):
        axis_values(given, whole=False)
