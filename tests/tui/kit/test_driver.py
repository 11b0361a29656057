"""The terminal's driver reads keys no faster than the workbench takes them."""

from __future__ import annotations

import asyncio

import pytest
from driving import settled, until
from textual.events import Key

from lmbench.tui.kit import driver as kit_driver
from lmbench.tui.kit.driver import KeyParser, ResilientDriver

pytestmark = pytest.mark.usefixtures("started")
MOST = 8


@pytest.mark.parametrize(
    "sent, keys",
    [
        ("\x1b2]", ["escape", "2", "right_square_bracket"]),
        ("\x1b0", ["escape", "0"]),
        ("\x1b=", ["escape", "equals_sign"]),
        ("\x1b/a", ["escape", "slash", "a"]),
        ("\x1b ", ["escape", "space"]),
        ("\x1b,", ["escape", "comma"]),
        ("\x1b[", ["escape", "left_square_bracket"]),
        ("\x1b\x14\x14u\x1bOP", ["escape", "ctrl+t", "ctrl+t", "u", "f1"]),
        ("\x1bu\x1bOP", ["alt+u", "f1"]),
        ("\x1bN", ["alt+shift+n"]),
        ("\x1b\x1b", ["escape", "escape"]),
        ("\x1b\x1b[B", ["escape", "down"]),
        ("\x1b[B\x1b[1;5C\x1bOA", ["down", "ctrl+right", "up"]),
        ("\x1bf", ["ctrl+right"]),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_an_escape_that_the_next_key_follows_at_once_is_a_key(sent, keys, split):
    parser = KeyParser()
    parts = sent if split else [sent]
    found = [event for part in (*parts, "") for event in parser.feed(part)]
    assert [event.key for event in found if isinstance(event, Key)] == keys


async def test_whoever_types_faster_than_keys_are_done_waits_and_none_is_lost(
    full, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kit_driver, "MOST_WAITING", MOST)
    app = full.bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        driver = ResilientDriver(app)
        sent, release = 0, app._let_go

        async def held(after: Key | None = None) -> None: ...

        def type_ahead() -> None:
            nonlocal sent
            for _ in range(3 * MOST):
                driver.process_message(Key("f9", None))
                sent += 1

        monkeypatch.setattr(app, "_let_go", held)
        typing = asyncio.create_task(asyncio.to_thread(type_ahead))
        try:
            await until(pilot, lambda: len(app._waiting_keys) >= MOST)
            assert (sent, len(app._waiting_keys)) == (MOST - 1, MOST)
            monkeypatch.setattr(app, "_let_go", release)
            await app._let_go()
            await until(pilot, lambda: sent == 3 * MOST and not app._waiting_keys)
        finally:
            # Where nothing is awaited any more, the end lets the thread go.
            driver.exit_event.set()
            await typing
            app._waiting_keys.clear()
