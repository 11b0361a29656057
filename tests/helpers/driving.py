"""Driving the workbench by keys, as the tests of every screen do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import textual.app
import textual.pilot
from textual.cache import LRUCache
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.events import Key
from textual.message_pump import MessagePump
from textual.pilot import Pilot, WaitForScreenTimeout
from textual.screen import Screen
from waiting import LIMIT_S

from lmbench.tui.app import Workbench

S = TypeVar("S")

in_hand: list[MessagePump] = []
"""Who handles a message or a callback at the moment: it is in no queue any more."""


def _noted(handle: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def handle_noted(pump: MessagePump, *arguments: Any) -> None:
        in_hand.append(pump)
        try:
            await handle(pump, *arguments)
        finally:
            in_hand.remove(pump)

    return handle_noted


for _name in ("_dispatch_message", "_flush_next_callbacks"):
    setattr(MessagePump, _name, _noted(getattr(MessagePump, _name)))


async def _give_way(*_: float) -> None:
    await asyncio.sleep(0)


async def _wait_for_messages(pilot: Pilot[None], timeout: float = LIMIT_S) -> bool:
    """Until no widget of the screen has messages to handle; False where the app has failed, or is
    leaving: widgets handle none then, whatever was sent to them."""
    app, end = pilot.app, time.monotonic() + timeout
    while not (app._exception or app._exit) and app._screen_stack:
        if not _with_messages([app, *_parts(app.screen)]) and app._resize_event is None:
            return True
        if time.monotonic() > end:
            raise WaitForScreenTimeout
        await asyncio.sleep(0.001)
    return False


# Pilot waits 20 ms at least, and until the process computes next to nothing: 80 ms a key, and no
# sign that anything is done where it gets no processor time.
for _owner, _name, _ours in (
    (textual.app, "wait_for_idle", _give_way),
    (textual.pilot, "wait_for_idle", _give_way),
    (Pilot, "_wait_for_screen", _wait_for_messages),
):
    setattr(_owner, _name, _ours)


_parsed: dict[frozenset[tuple[str, str]], LRUCache[tuple[Any, ...], list[RuleSet]]] = {}
_set_variables = Stylesheet.set_variables


def _set_variables_once(sheet: Stylesheet, variables: dict[str, str]) -> None:
    """Each test has a workbench of its own, with the style sheets of all others: what they say with
    the same variables is read once."""
    # Textual empties the one that it finds.
    sheet._parse_cache = LRUCache(1)
    _set_variables(sheet, variables)
    sheet._parse_cache = _parsed.setdefault(frozenset(variables.items()), LRUCache(1000))


setattr(Stylesheet, "set_variables", _set_variables_once)  # noqa: B010


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
    await until(pilot, lambda: not to_handle(pilot), every_s=0.002)


async def press(pilot: Pilot[None], *keys: str) -> None:
    """One key after another, each with the messages that it sends."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        if to_handle(pilot):
            await until(pilot, lambda: not to_handle(pilot))
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
    """What is `to_handle`, workers that run, and what glides."""
    app = bench_of(pilot)
    workers = [worker for worker in app.workers if worker.is_running and not app._exit]
    return [*to_handle(pilot), *workers, *app.animator._animations, *app.animator._scheduled]


def to_handle(pilot: Pilot[None]) -> list[object]:
    """What has keys or messages to come, and a screen that is to be laid out or painted; nothing
    in one that is leaving."""
    app = bench_of(pilot)
    if app._exit:
        return []
    keys = [app._key_on_its_way] if app._key_on_its_way else []
    screens = [screen for screen in screens_in_sight(app) if unpainted(screen)]
    return [*_with_messages(in_sight(app)), *keys, *screens]


def _with_messages(nodes: Iterable[MessagePump]) -> list[MessagePump]:
    """Those that have messages or callbacks to come, or one in hand."""
    return [
        node for node in nodes if node.message_queue_size or node._next_callbacks or node in in_hand
    ]


def _parts(screen: Screen[Any]) -> Iterator[MessagePump]:
    yield from screen.walk_children(with_self=True)


def screens_in_sight(app: Workbench) -> list[Screen[Any]]:
    """The one on top, and those that it lets be seen, as a dialog does."""
    behind = app._background_screens if app.screen.styles.background.a < 1 else []
    for screen in behind:
        if screen._layout_required:
            # Textual pauses this timer when another screen comes, until the next message.
            screen._update_timer.resume()
    return [app.screen, *behind]


def in_sight(app: Workbench) -> list[MessagePump]:
    """The app, and all widgets of the screens that are seen."""
    screens = screens_in_sight(app)
    return [app, *(node for screen in screens for node in _parts(screen))]


def unpainted(screen: Screen[Any]) -> bool:
    """Textual paints by a timer, which comes late where there is no processor time."""
    if screen._layout_required or screen._scroll_required:
        return True
    # On a screen behind another, Textual leaves these as they are.
    return screen.is_active and bool(
        screen._repaint_required
        or screen._recompose_required
        or screen._dirty_widgets
        or screen._callbacks
    )


def under_way(pilot: Pilot[None]) -> list[object]:
    """What is `at_work`, and timers that run once and soon, as those that wait for the last key."""
    timers = [
        timer
        for node in in_sight(bench_of(pilot))
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
    pilot: Pilot[None],
    holds: Callable[[], object],
    *,
    limit_s: float = LIMIT_S,
    every_s: float = 0.02,
) -> None:
    """Wait for what a thread, a process or a timer brings about; fails if it never comes."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"it never came about; under way: {under_way(pilot)}"
        await asyncio.sleep(every_s)
    await pilot.pause()


def offered(pilot: Pilot[None]) -> set[str | None]:
    """The names of the bindings that do something now."""
    active = pilot.app.screen.active_bindings.values()
    return {entry.binding.id for entry in active if entry.enabled}


def words(pilot: Pilot[None]) -> str:
    """All that the screen shows."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def line_of(pilot: Pilot[None], label: str) -> str:
    """The line on the screen that begins with this label."""
    strips = pilot.app.screen._compositor.render_strips()
    lines = ["".join(segment.text for segment in strip) for strip in strips]
    return next(line for line in lines if line.strip("┃│ ").startswith(label))
