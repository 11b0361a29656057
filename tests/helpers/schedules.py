"""Policies and whole schedules as mappings, for the tests that train under them."""

from __future__ import annotations

from typing import Any


def policy(kind: str, name: str, start: int, end: int, **arguments: Any) -> dict[str, Any]:
    """What is called `name` acts in each epoch from `start` to before `end`."""
    instance = {"instance_name": name} | ({"args": arguments} if arguments else {})
    return {kind: instance, "starting_epoch": start, "ending_epoch": end, "frequency": 1}


def quantizing(
    end: int, of: str = "QuantAwareTrainRangeLinearQuantizer", **arguments: Any
) -> dict[str, Any]:
    """A schedule of one quantizer, in each epoch before `end`."""
    return {
        "version": 1,
        "quantizers": {"q": {"class": of, **arguments}},
        "policies": [policy("quantizer", "q", 0, end)],
    }
