"""A change paints the widgets that it touches, and those as Textual does."""

from __future__ import annotations

import random
from collections import Counter
from functools import reduce
from operator import and_

import pytest
from driving import at_rest, bench_of, opened
from textual._compositor import ChopsUpdate, Compositor
from textual.geometry import Region
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widget import Widget

from lmbench.tui.generate.panel import GeneratePanel
from lmbench.tui.kit.compositor import FrugalCompositor

pytestmark = pytest.mark.usefixtures("started")

Pieces = dict[tuple[int, int], Strip | None]


def painted(update: ChopsUpdate | None) -> Pieces:
    """What an update sends, by line and column: the pieces that its spans reach into."""
    assert update is not None
    found: Pieces = {}
    for y, first, end in update.spans:
        for piece_end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=True):
            if x < end and piece_end > first:
                found[y, x] = strip
    return found


def both(compositor: FrugalCompositor, changed: set[Region]) -> tuple[Pieces, Pieces]:
    compositor._dirty_regions = set(changed)
    ours = painted(compositor.render_partial_update())
    compositor._dirty_regions = set(changed)
    ordinary = Compositor._render_chops.__get__(compositor)
    compositor._render_chops = ordinary
    theirs = painted(Compositor.render_partial_update(compositor))
    del compositor._render_chops
    return ours, theirs


def some_regions(chance: random.Random, width: int, height: int) -> set[Region]:
    def one() -> Region:
        x, y = chance.randrange(width), chance.randrange(height)
        return Region(x, y, chance.randint(1, width - x), chance.randint(1, min(4, height - y)))

    return {one() for _ in range(chance.randint(1, 5))}


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
@pytest.mark.parametrize("keys", [(), ("question_mark",), ("n",), ("S",)])
async def test_what_is_painted_is_what_textual_paints(full, size, keys):
    async with opened(full, *keys, size=size) as pilot:
        compositor = pilot.app.screen._compositor
        assert isinstance(compositor, FrugalCompositor)
        chance = random.Random(5)
        for _ in range(20):
            ours, theirs = both(compositor, some_regions(chance, *size))
            assert ours == theirs
            assert None not in ours.values()


async def test_whose_place_was_asked_for_before_the_layout_is_told_its_new_size(full, monkeypatch):
    async with opened(full, size=(120, 30)) as pilot:
        screen, told = pilot.app.screen, []
        panel = screen.query_one(GeneratePanel)
        monkeypatch.setattr(GeneratePanel, "on_resize", lambda _, event: told.append(event.size))
        # A scroll; then one asks for a place while the screen is yet to be told of the new style.
        screen._compositor.reflow_visible(screen, screen.size)
        panel.styles.width = 20
        panel._check_refresh()
        assert screen._compositor.full_map[panel].region.width == 20
        await at_rest(pilot)
        assert [size.width for size in told] == [20]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many lines each kind of widget was asked for."""
    lines: Counter[str] = Counter()
    render = Widget.render_lines

    def counted(self: Widget, crop: Region) -> list[Strip]:
        lines[type(self).__name__] += crop.height
        return render(self, crop)

    monkeypatch.setattr(Widget, "render_lines", counted)
    return lines


async def pressed(pilot: Pilot[None], keys: str, rendered: Counter[str]) -> Counter[str]:
    """What each of the keys paints: once in a while, on a busy machine, something else comes
    between."""
    each: list[Counter[str]] = []
    for key in keys.split():
        await at_rest(pilot)
        rendered.clear()
        await pilot.press(key)
        await at_rest(pilot)
        each.append(Counter(rendered))
    return reduce(and_, each)


async def test_a_mark_paints_its_line_and_the_foot_of_the_frame(full, rendered: Counter[str]):
    async with opened(full, size=(120, 30)) as pilot:
        lines = await pressed(pilot, "space space space", rendered)
        assert bench_of(pilot).marked
        assert lines["RunTree"] == 1
        assert lines["RunsPanel"] == 1
        assert not {"GeneratePanel", "TopBar", "MainScreen", "Container"} & {*lines}


async def test_the_cursor_paints_no_frame_but_the_words_at_its_foot(full, rendered: Counter[str]):
    async with opened(full, size=(120, 30)) as pilot:
        lines = await pressed(pilot, "up down up down", rendered)
        assert lines["GeneratePanel"] <= 1
        assert lines["RunsPanel"] <= 1
        assert "TopBar" not in lines
