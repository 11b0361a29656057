"""Pictures of the workbench's screens, from the recorded session.

    python docs/make_pictures.py [NAME…]

writes ``docs/pictures/NAME.svg`` for each of `PICTURES`. The clock stands still, so the same
recording gives the same pictures.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.demo import Player, recording

TARGET = Path(__file__).resolve().parent / "pictures"
# 2026-03-14 12:00 UTC
NOON = 1_773_489_600.0
FONT_RULE = re.compile(r"@font-face\s*\{[^}]*\}\s*")


@dataclass(frozen=True)
class Picture:
    """What to press, at which size, `seconds` into the recording."""

    size: tuple[int, int]
    seconds: float
    keys: tuple[str, ...] = ()
    theme: str = ""
    waits: float = 0.3


# Into the pruning, when half of it is done.
MIDWAY = 70.0
END = 100_000.0

PICTURES = {
    "main": Picture((120, 34), MIDWAY, ("up", "space", "down")),
    "main-narrow": Picture((80, 24), MIDWAY),
    "main-wide": Picture((200, 50), MIDWAY, ("up", "space", "down")),
    "main-light": Picture((120, 34), MIDWAY, theme="lmbench-light"),
    "sparsity": Picture((120, 34), MIDWAY, ("2", *["right_square_bracket"] * 2, "t", "left")),
    "palette": Picture((100, 30), MIDWAY, ("ctrl+p",)),
}


async def take(picture: Picture) -> str:
    """The screen as SVG, without fonts from elsewhere."""
    now = NOON
    with tempfile.TemporaryDirectory() as folder:
        player = Player(recording(), Home(Path(folder)))
        session = player.start(NOON)
        now += picture.seconds
        bench = Workbench(
            Home(Path(folder)), session, player=player, clock=lambda: now, follow=False
        )
        async with bench.run_test(size=picture.size) as pilot:
            if picture.theme:
                bench.set_theme(picture.theme)
            await settle(bench, picture.waits)
            for key in picture.keys:
                await pilot.press(key)
                await pilot.pause()
            await settle(bench, picture.waits)
            text = bench.export_screenshot(title="lmbench")
    return FONT_RULE.sub("", text).replace("Fira Code", "monospace")


async def settle(bench: Workbench, seconds: float) -> None:
    await bench.look()
    await asyncio.sleep(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    TARGET.mkdir(exist_ok=True)
    for name in names:
        path = TARGET / f"{name}.svg"
        path.write_text(asyncio.run(take(PICTURES[name])), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
