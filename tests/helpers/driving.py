"""Driving the workbench by keys, as the tests of every screen do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from textual.events import Key
from textual.pilot import Pilot

from lmbench.tui.app import Workbench

S = TypeVar("S")


def bench_of(pilot: Pilot[None]) -> Workbench:
    assert isinstance(pilot.app, Workbench)
    return pilot.app


def screen_of(pilot: Pilot[None], kind: type[S]) -> S:
    assert isinstance(pilot.app.screen, kind)
    return pilot.app.screen


async def settled(pilot: Pilot[None]) -> None:
    """Look at the folders and let every message come through."""
    await pilot.pause()
    await bench_of(pilot).look()
    for _ in range(3):
        await pilot.pause()


async def press(pilot: Pilot[None], *keys: str, workers: str | None = None) -> None:
    """One key after another, each with what it starts; `workers` is a group to wait for too."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        if workers is not None:
            busy = [worker for worker in pilot.app.workers if worker.group == workers]
            await pilot.app.workers.wait_for_complete(busy)
            await pilot.pause()
    await pilot.pause()


async def select(pilot: Pilot[None], run: str, *marked: str) -> None:
    """Put the cursor on a run, and mark others."""
    bench = bench_of(pilot)
    await settled(pilot)
    bench.select(run)
    bench.mark(marked)
    await press(pilot)


@asynccontextmanager
async def opened(
    world: Any, *keys: str, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Pilot[None]]:
    """The workbench on the world's session, its first run selected, and then these keys."""
    app = world.bench()
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await press(pilot, "home", *keys, workers="compare")
        yield pilot


def burst(pilot: Pilot[None], *keys: str) -> None:
    """All at once: none waits until the one before it has done anything."""
    for key in keys:
        pilot.app.post_message(Key(key, key if len(key) == 1 else None))


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Wait for what is done in a thread; the test's time limit is the limit."""
    while not holds():
        await pilot.pause(0.02)


def words(pilot: Pilot[None]) -> str:
    """All that the screen shows."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)
