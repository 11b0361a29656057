"""Every colour that a widget asks for by name is one in every theme."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from driving import bench_of, settled

import lmbench.tui
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.themes import THEMES

ASKED = re.compile(r'\bcolour(?:_style)?\("([a-z0-9-]+)"\)')


def names() -> set[str]:
    sources = Path(lmbench.tui.__file__).parent.rglob("*.py")
    found = {name for source in sources for name in ASKED.findall(source.read_text())}
    return found | {mark_of(number).variable for number in range(1, 20)}


def test_the_names_are_found():
    assert {"accent", "foreground-muted", "series-1"} <= names()


@pytest.mark.parametrize("theme", [theme.name for theme in THEMES])
async def test_each_theme_has_each_colour(full, theme):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        bench = bench_of(pilot)
        bench.set_theme(theme)
        await settled(pilot)
        for name in names():
            colour = bench.colour_style(name).color
            assert colour is not None, name
            # The terminal's own is no colour of plots.
            assert (bench.colour(name) is None) == (colour.is_default), name
