"""Delays at random in what Textual and asyncio do, as on a machine that has no processor time left.

``pytest --delays SEED tests/tui`` shows which tests take for granted that all is done at once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

from textual.message_pump import MessagePump
from textual.timer import Timer


def _delayed(
    function: Callable[..., Any], chance: random.Random, share: float, longest_s: float
) -> Callable[..., Any]:
    """The same function, of whose calls this share begins later."""

    async def late(*arguments: Any, **named: Any) -> Any:
        if chance.random() < share:
            await asyncio.sleep(longest_s * chance.random())
        return await function(*arguments, **named)

    return late


def delay_all(seed: int) -> None:
    """Messages, timers and threads come late from now on; each process has delays of its own."""
    chance = random.Random(f"{seed} {os.environ.get('PYTEST_XDIST_WORKER')}")
    for owner, name, share, longest_s in (
        (MessagePump, "_dispatch_message", 0.1, 0.05),
        (Timer, "_tick", 0.3, 0.1),
        (asyncio, "to_thread", 1.0, 0.2),
    ):
        setattr(owner, name, _delayed(getattr(owner, name), chance, share, longest_s))
