"""A stylesheet that names a class which is not there does nothing, and nothing says so."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from driving import opened, press
from textual.css.stylesheet import Stylesheet
from textual.dom import DOMNode
from textual.widget import Widget
from workbench_world import World

import lmbench.tui
from lmbench.tui.kit.line_input import LineInput

# A type in a selector: a capitalised word that no dot, hash or other word stands before.
TYPE = re.compile(r"(?<![\w.#$:-])[A-Z]\w+")


def classes(base: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for one in base.__subclasses__():
        yield one
        yield from classes(one)


def test_every_class_that_a_stylesheet_names_is_there() -> None:
    for module in pkgutil.walk_packages(lmbench.tui.__path__, "lmbench.tui."):
        importlib.import_module(module.name)
    known = {one.__name__ for one in classes(DOMNode)}
    missing = [
        f"{one.__module__}: {name}"
        for one in classes(DOMNode)
        if one.__module__.startswith("lmbench.")
        for selector in re.findall(r"([^{}]+)\{", vars(one).get("DEFAULT_CSS", ""))
        for name in TYPE.findall(selector)
        if name not in known
    ]
    assert not missing


def test_what_looks_otherwise_around_the_focus_is_a_widget_or_its_children() -> None:
    """`BenchScreen` styles no more than these when the focus moves."""
    for module in pkgutil.walk_packages(lmbench.tui.__path__, "lmbench.tui."):
        importlib.import_module(module.name)
    selectors = [
        selector.strip()
        for one in classes(DOMNode)
        if one.__module__.startswith("lmbench.")
        for rule in re.findall(r"([^{}]+)\{", vars(one).get("DEFAULT_CSS", ""))
        for selector in rule.split(";")[-1].split(",")
        if ":focus-within" in selector
    ]
    assert len(selectors) >= 2
    assert not [s for s in selectors if not re.search(r":focus-within( > [^\s>]+)?$", s)]


async def test_of_a_forms_labels_the_focused_ones_is_bold(world: World) -> None:
    async with opened(world, "comma") as pilot:
        for key, name in (("down", "motion"), ("down", "notify"), ("up", "motion")):
            await press(pilot, key)
            rows = [field.parent for field in pilot.app.screen.query("ChoiceField, TextField")]
            bold = [
                row.name
                for row in rows
                if isinstance(row, Widget)
                and pilot.app.screen.get_style_at(row.region.x + 1, row.region.y).bold
            ]
            assert bold == [name]


async def test_opening_a_screen_styles_each_line_of_its_form_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    styled: Counter[str] = Counter()
    apply = Stylesheet.apply

    def counted(sheet: Stylesheet, node: DOMNode, **named: Any) -> None:
        if isinstance(node, LineInput):
            styled[f"{node!r} {id(node)}"] += 1
        apply(sheet, node, **named)

    async with opened(world) as pilot:
        monkeypatch.setattr(Stylesheet, "apply", counted)
        await press(pilot, "n")
        assert pilot.app.screen.query(LineInput)
        monkeypatch.undo()
    assert styled
    assert not {node: times for node, times in styled.items() if times > 1}
