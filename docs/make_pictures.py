"""Pictures of the workbench's screens, from the recorded session.

    python docs/make_pictures.py [NAME…]
    python docs/make_pictures.py --home HOME --session NAME [NAME…]

The first writes ``docs/pictures/NAME.svg`` for each of `PICTURES`. The clock stands still, so the
same recording gives the same pictures (the form's on the same Python, whose text it measures). The
second does so for each of `LIVE`, screens that work on a model, from a session that has one; the
laboratory really evaluates what its picture shows.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.demo import Player, recording
from lmbench.tui.laboratory.screen import LabScreen

TARGET = Path(__file__).resolve().parent / "pictures"
# 2026-03-14 12:00 UTC
NOON = 1_773_489_600.0
FONT_RULE = re.compile(r"@font-face\s*\{[^}]*\}\s*")


@dataclass(frozen=True)
class Picture:
    """What to press, at which size, `seconds` into the recording; then to wait for words.

    `screen` is opened first, with `arguments`: a recording offers no key for one that starts runs.
    """

    size: tuple[int, int]
    seconds: float
    keys: tuple[str, ...] = ()
    waits: float = 0.3
    until: str = ""
    screen: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


# Into the pruning, when half of it is done.
MIDWAY = 70.0
PRUNED_MORE = {"compress": "small-90", "epochs": 6, "lr": 10.0}

PICTURES = {
    "main": Picture((120, 34), MIDWAY, ("up", "space", "down")),
    "main-narrow": Picture((80, 24), MIDWAY),
    "main-wide": Picture((200, 50), MIDWAY, ("up", "space", "down")),
    "sparsity": Picture((120, 34), MIDWAY, ("2", *["right_square_bracket"] * 2, "t", "left")),
    "new-run": Picture(
        (120, 34),
        MIDWAY,
        ("down",) * 3,
        until="an epoch",
        screen="new_run",
        arguments={"kind": "prune", "parent": "001-train", "settings": PRUNED_MORE},
    ),
    "schedule": Picture((120, 34), MIDWAY, until="in order", screen="schedule"),
}
# A session opens on the screen it was left on: Escape goes to the main one.
LIVE = {
    "laboratory": Picture(
        (150, 40),
        0,
        ("escape", "home", "l", "enter", "u", "tab", "tab", *"2345678"),
        until="weights left",
    ),
    "compare": Picture((120, 34), 0, ("escape", "c"), until="front"),
    "sensitivity": Picture((120, 34), 0, ("escape", "home", "v"), until="goal"),
    # Of the session that docs/tutorial.md makes.
    "dense-tensor": Picture(
        (100, 26),
        0,
        until="forget",
        screen="tensor",
        arguments={"key": "001-train", "tensor": "rnn.weight_hh_l0"},
    ),
    "pruned-tensor": Picture(
        (100, 26),
        0,
        until="forget",
        screen="tensor",
        arguments={"key": "002-prune", "tensor": "rnn.weight_hh_l0"},
    ),
}
LIMIT_S = 600


async def take(picture: Picture) -> str:
    """The screen of the recorded session as SVG, without fonts from elsewhere."""
    now = NOON
    with tempfile.TemporaryDirectory() as folder:
        player = Player(recording(), Home(Path(folder)))
        session = player.start(NOON)
        now += picture.seconds
        bench = Workbench(
            Home(Path(folder)), session, player=player, clock=lambda: now, follow=False
        )
        return await shot(bench, picture)


async def shot(bench: Workbench, picture: Picture) -> str:
    """Press the keys, wait for what they start, and export the screen."""
    async with bench.run_test(size=picture.size) as pilot:
        await settle(bench, picture.waits)
        if picture.screen:
            bench.open(picture.screen, **picture.arguments)
            await settle(bench, picture.waits)
        end = time.monotonic() + LIMIT_S
        for key in picture.keys:
            await pilot.press(key)
            await pilot.pause()
            while picture.until and pending(bench) and time.monotonic() < end:
                await asyncio.sleep(0.2)
        await settle(bench, picture.waits)
        while picture.until and picture.until not in words(bench) and time.monotonic() < end:
            await asyncio.sleep(0.2)
        await settle(bench, picture.waits)
        text = bench.export_screenshot(title="lmbench")
    return FONT_RULE.sub("", text).replace("Fira Code", "monospace")


def words(bench: Workbench) -> str:
    strips = bench.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def pending(bench: Workbench) -> bool:
    """Is the laboratory still at what it was asked?"""
    lab = bench.screen
    if not isinstance(lab, LabScreen):
        return False
    unfinished = any(entry.state in ("waiting", "running") for entry in lab.state.candidates)
    return not lab.state.modules or unfinished or lab.state.level_pending


async def settle(bench: Workbench, seconds: float) -> None:
    await bench.refresh_snapshot()
    await asyncio.sleep(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=", ".join((*PICTURES, *LIVE)))
    parser.add_argument("--home", type=Path, help="a working folder, for pictures of live screens")
    parser.add_argument("--session", default="default", help="its session")
    given = parser.parse_args()
    offered = PICTURES if given.home is None else LIVE
    TARGET.mkdir(exist_ok=True)
    for name in given.names or offered:
        if given.home is None:
            text = asyncio.run(take(PICTURES[name]))
        else:
            home = Home(given.home)
            text = asyncio.run(shot(Workbench(home, home.session(given.session)), LIVE[name]))
        path = TARGET / f"{name}.svg"
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
