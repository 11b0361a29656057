"""Driving the workbench by keys, as the tests of every screen do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from textual.events import Key
from textual.pilot import Pilot
from textual.screen import Screen
from waiting import LIMIT_S

from lmbench.tui.app import Workbench

S = TypeVar("S")


def bench_of(pilot: Pilot[None]) -> Workbench:
    assert isinstance(pilot.app, Workbench)
    return pilot.app


def screen_of(pilot: Pilot[None], kind: type[S]) -> S:
    assert isinstance(pilot.app.screen, kind), pilot.app.screen
    return pilot.app.screen


async def settled(pilot: Pilot[None]) -> None:
    """Look at the folders and let every message come through."""
    await pilot.pause()
    await bench_of(pilot).refresh_snapshot()
    for _ in range(3):
        await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """One key after another, each with the messages that it sends."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
    await pilot.pause()


async def press_then_rest(pilot: Pilot[None], *keys: str) -> None:
    """One key right after another, and then all that they start."""
    for key in keys:
        await pilot.press(key)
    await at_rest(pilot)


async def press_in_turn(pilot: Pilot[None], *keys: str) -> None:
    """One key after another, each with all that it starts but timers; then as `at_rest`.

    Timers are waited for at the end alone: what waits for the last key sees one key after another.
    """
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        if at_work(pilot):
            await until(pilot, lambda: not at_work(pilot))
    await at_rest(pilot)


def at_work(pilot: Pilot[None]) -> list[object]:
    """Workers that run, what has keys or messages to come, and a screen that is to be laid out or
    painted; nothing in one that is leaving."""
    app = bench_of(pilot)
    if app._exit:
        return []
    nodes = [app, *app.screen.walk_children(with_self=True)]
    queues = [node for node in nodes if node.message_queue_size or node._next_callbacks]
    keys = [app._key_on_its_way] if app._key_on_its_way else []
    screens = [app.screen] if unpainted(app.screen) else []
    workers = [worker for worker in app.workers if worker.is_running]
    return [*queues, *keys, *screens, *workers]


def unpainted(screen: Screen[Any]) -> bool:
    """Textual paints by a timer, which comes late where there is no processor time."""
    return bool(
        screen._layout_required
        or screen._scroll_required
        or screen._repaint_required
        or screen._recompose_required
        or screen._dirty_widgets
        or screen._callbacks
    )


def under_way(pilot: Pilot[None]) -> list[object]:
    """What is `at_work`, and timers that run once and soon, as those that wait for the last key."""
    nodes = [pilot.app, *pilot.app.screen.walk_children(with_self=True)]
    timers = [
        timer
        for node in nodes
        for timer in node._timers
        if timer._repeat == 0 and timer._interval < 1
        if timer._task is not None and not timer._task.done()
    ]
    return [*timers, *at_work(pilot)]


async def at_rest(pilot: Pilot[None]) -> None:
    """Wait until nothing is under way, twice in turn: no key, no message, no worker, no timer.

    Pilot's own pause takes a process that gets no processor time for one that has nothing to do.
    """
    await pilot.pause()
    if under_way(pilot):
        await until(pilot, lambda: not under_way(pilot))
    await pilot.pause()
    if under_way(pilot):
        await at_rest(pilot)


async def select(pilot: Pilot[None], run: str, *marked: str) -> None:
    """Put the cursor on a run, and mark others."""
    bench = bench_of(pilot)
    await settled(pilot)
    bench.select(run)
    bench.mark(marked)
    await press(pilot)


@asynccontextmanager
async def opened(
    world: Any, *keys: str, size: tuple[int, int] = (80, 24), run: str = ""
) -> AsyncIterator[Pilot[None]]:
    """The workbench on the world's session, with this run selected, and then these keys."""
    app = world.bench()
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        if run:
            app.select(run)
            await settled(pilot)
        await press_in_turn(pilot, *keys)
        yield pilot


def burst(pilot: Pilot[None], *keys: str) -> None:
    """All at once: none waits until the one before it has done anything."""
    for key in keys:
        pilot.app.post_message(Key(key, key if len(key) == 1 else None))


async def until(
    pilot: Pilot[None], holds: Callable[[], object], *, limit_s: float = LIMIT_S
) -> None:
    """Wait for what a thread, a process or a timer brings about; fails if it never comes."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"it never came about; under way: {under_way(pilot)}"
        await pilot.pause(0.02)
    await pilot.pause()


def words(pilot: Pilot[None]) -> str:
    """All that the screen shows."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)
