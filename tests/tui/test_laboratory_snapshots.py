"""The laboratory, comparing, sensitivity and chains as they look at three sizes."""

from __future__ import annotations

from typing import Any

import pytest
from driving import press, settled
from laboratory_double import benchmarked, measure
from textual.pilot import Pilot

pytestmark = pytest.mark.usefixtures("started")

SIZES = [(80, 24), (120, 30), (200, 50)]
sized = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)


def looks(snap_compare: Any, world: Any, size: tuple[int, int], *keys: str) -> bool:
    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await press(pilot, "home", *keys, workers="compare")
        await pilot.pause(0.4)

    return snap_compare(world.bench(), terminal_size=size, run_before=before)


@sized
def test_the_laboratory_with_tries(snap_compare: Any, lab: Any, size: tuple[int, int]):
    draft = ("l", "enter", "u", "down", "b", "c", "enter")
    slider = ("tab", "tab", *["right"] * 6)
    assert looks(snap_compare, lab, size, *draft, *slider)


@sized
def test_runs_compared(snap_compare: Any, lab: Any, size: tuple[int, int]):
    assert looks(snap_compare, lab, size, "c", "down")


@sized
def test_runtimes_compared(snap_compare: Any, lab: Any, size: tuple[int, int]):
    benchmarked(lab)
    assert looks(snap_compare, lab, size, "c", "r", "down", "down")


@sized
def test_the_sensitivity_and_what_it_suggests(snap_compare: Any, lab: Any, size: tuple[int, int]):
    measure(lab)
    assert looks(snap_compare, lab, size, "v", "down")


@sized
def test_the_chains(snap_compare: Any, lab: Any, size: tuple[int, int]):
    assert looks(snap_compare, lab, size, "N", "down", "down")
