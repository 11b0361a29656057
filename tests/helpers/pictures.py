"""How a screen looks after some keys, at three sizes.

``pytest --snapshot-update`` takes new pictures; look at each before it is committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from driving import at_rest, bench_of, press_in_turn, settled
from textual.pilot import Pilot

SIZES = [(80, 24), (120, 30), (200, 50)]
at_each_size = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)

Snap = Callable[..., bool]


def pressing(*keys: str, theme: str = "") -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def before(pilot: Pilot[Any]) -> None:
        app = bench_of(pilot)
        await settled(pilot)
        if theme:
            app.set_theme(theme)
        await press_in_turn(pilot, *keys)
        app.show_message("")
        await at_rest(pilot)

    return before


def looks(snap_compare: Snap, world: Any, size: tuple[int, int], *keys: str) -> bool:
    """Whether the world's first run looks as it did, after these keys."""

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await press_in_turn(pilot, "home", *keys)

    return snap_compare(world.bench(), terminal_size=size, run_before=before)
