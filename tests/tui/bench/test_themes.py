"""Every colour that a widget asks for by name is one in every theme."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from driving import bench_of, opened, settled
from rich.color import Color

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


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
async def test_each_theme_has_each_colour_and_selected_text_can_be_read(full, theme):
    async with opened(full) as pilot:
        bench = bench_of(pilot)
        bench.set_theme(theme.name)
        await settled(pilot)
        for name in names():
            colour = bench.colour_style(name).color
            assert colour is not None, name
            # The terminal's own is no colour of plots.
            assert (bench.colour(name) is None) == (colour.is_default), name
        # The colours of the fourth are the terminal's.
        if not theme.ansi:
            style = pilot.app.screen.get_component_rich_style("screen--selection")
            assert style.color
            assert style.bgcolor
            dark, light = sorted(map(luminance, (style.color, style.bgcolor)))
            # The least contrast that WCAG allows for text.
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: Color) -> float:
    """From 0 to 1, as WCAG has it."""
    r, g, b = (
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in colour.get_truecolor().normalized
    )
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
