"""Each key of each screen and panel reaches its action, where it says that it does.

What the actions do is told by the tests of the screens; here every key is pressed, and a class
with keys that is not in the list is a failure.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from driving import at_rest, press, press_in_turn, screen_of, settled
from laboratory_double import measure
from layers_world import checkpoint
from textual.actions import parse
from textual.binding import Binding
from textual.pilot import Pilot

import lmbench.tui
from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.help_screen import HelpScreen

pytestmark = pytest.mark.usefixtures("started")

WRITTEN = ("g", *"in", "enter", "down", "down")
TRIED = ("l", "enter")

REACHED: dict[str, tuple[str, ...]] = {
    "Workbench": (),
    "BenchScreen": (),
    "MainScreen": (),
    "RunsPanel": (),
    "LinesView": (),
    "FilterInput": ("slash",),
    "Searchable": ("5",),
    "PlotPanel": ("2",),
    "LayersPanel": ("3",),
    "GeneratePanel": WRITTEN,
    "PromptInput": ("g",),
    "SamplingControls": ("g", "down"),
    "TintedText": WRITTEN,
    "AlternativesList": (*WRITTEN, "right", "enter"),
    "LogPanel": ("5",),
    "HelpScreen": ("question_mark",),
    "SettingsScreen": ("comma",),
    "SessionsScreen": ("o",),
    "ScheduleScreen": ("S",),
    "TensorScreen": ("3", "enter"),
    "NewRunScreen": ("n",),
    "Form": ("n",),
    "ChoiceField": ("n",),
    "ChoiceDialog": ("S", "ctrl+o"),
    "_Dialog": ("r",),
    "ChainsScreen": ("N",),
    "CompareScreen": ("c",),
    "TablePanel": ("c",),
    "LabScreen": TRIED,
    "ModulesPanel": TRIED,
    "CandidatesPanel": (*TRIED, "tab"),
    "PrunePanel": (*TRIED, "tab", "tab"),
    "SensitivityScreen": ("v",),
    "SuggestionPanel": ("v", "tab"),
    "SweepScreen": ("W",),
    "SweepTable": ("W",),
    "NewSweepScreen": ("W", "n"),
    "WelcomeScreen": (),
}
"""For each class with keys the keys that lead to it from the main screen, the dense run selected;
the welcome screen comes by itself where there is no session."""


MODAL = ("ChoiceDialog", "_Dialog")
"""They say their keys themselves, and nothing opens above them."""


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(lmbench.tui.__path__, "lmbench.tui."):
        yield importlib.import_module(info.name)


def with_keys() -> dict[str, type[Any]]:
    """The classes that have keys of their own, by name."""
    found = {}
    for module in modules():
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and value.__dict__.get("BINDINGS"):
                found[name] = value
    return found


def keys_of(cls: type[Any]) -> list[tuple[str, str, tuple[Any, ...]]]:
    """(key, action, arguments) of each key that the class binds itself."""
    found = []
    for binding in cls.__dict__["BINDINGS"]:
        assert isinstance(binding, Binding)
        _, action, arguments = parse(binding.action)
        found += [(key, action, arguments) for key in binding.key.split(",")]
    return found


MOVES = {"up", "k", "down", "j", "pageup", "pagedown", "home", "end", "G"}
"""Keys that go through lines as everywhere in a terminal, and cannot be changed …"""

WITH_LINES = {"ChoiceDialog", "Form", "HelpScreen", "LinesView", "SessionsScreen", "TintedText"}
"""… in these classes."""


def test_every_key_can_be_changed_but_those_that_go_through_lines():
    """Help, palette and settings file list what has an id, in the words of its tooltip."""
    ids: Counter[str] = Counter()
    for name, cls in with_keys().items():
        for binding in cls.__dict__["BINDINGS"]:
            if binding.id:
                assert binding.tooltip, f"{binding.id} says nowhere what it does"
                ids[binding.id] += 1
            else:
                fixed = name in WITH_LINES and set(binding.key.split(",")) <= MOVES
                assert fixed, f"{binding.key} of {name} needs an id and a tooltip"
    assert [name for name, count in ids.items() if count > 1] == []


def test_the_keys_of_everywhere_mean_the_same_in_every_panel():
    everywhere = {key for key, _, _ in keys_of(Workbench)}
    # The help is closed by the keys that open it, and by `q`.
    others = {n: cls for n, cls in with_keys().items() if n not in ("Workbench", "HelpScreen")}
    for name, cls in others.items():
        assert everywhere.isdisjoint(key for key, _, _ in keys_of(cls)), name


def test_every_class_with_keys_is_in_the_list():
    assert set(with_keys()) == set(REACHED)


@pytest.fixture
def ready(lab: Any) -> Any:
    """A session in which every screen has something to show."""
    measure(lab)
    dense = lab.session.run(1)
    shape = dense.read().shape
    checkpoint(dense, "best")
    dense.update(shape=shape)
    return lab


@asynccontextmanager
async def reached(ready: Any, tmp_path: Path, name: str) -> AsyncIterator[Pilot[None]]:
    """A pilot where the class of this name has the keys."""
    if name == "WelcomeScreen":
        app = Workbench(Home(tmp_path / "nothing yet"), None, follow=False)
    else:
        app = ready.bench()
    async with app.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        if name in ("LayersPanel", "TensorScreen"):
            for key in REACHED[name]:
                await at_rest(pilot)
                await press(pilot, key)
            await at_rest(pilot)
        elif name != "WelcomeScreen":
            await press_in_turn(pilot, "home", *REACHED[name])
        yield pilot


@pytest.mark.parametrize("name", REACHED)
async def test_each_key_is_in_the_help_and_reaches_its_action(ready, tmp_path, monkeypatch, name):
    cls = with_keys()[name]
    async with reached(ready, tmp_path, name) as pilot:
        if name not in MODAL:
            await look_into_help(pilot, cls)
        done = recorded(cls, monkeypatch)
        for key, action, arguments in keys_of(cls):
            await press(pilot, key)
            assert done == [(action, arguments)], f"{key} of {name}"
            done.clear()


async def look_into_help(pilot: Pilot[None], cls: type[Any]) -> None:
    """Is each key that can be changed there, and none twice?"""
    if cls is not HelpScreen:
        await press(pilot, "f1")
    help = screen_of(pilot, HelpScreen)
    below = help if cls is HelpScreen else help._below()
    areas = [list(help._keys(nodes)) for _, nodes in help._areas(below)]
    told = [words for area in areas for _, words in area]
    for binding in cls.__dict__["BINDINGS"]:
        if binding.id and not binding.system:
            assert binding.tooltip in told, f"{binding.id} is not in the help"
    assert all(len(set(area)) == len(area) for area in areas)
    if cls is not HelpScreen:
        await press_in_turn(pilot, "escape")


def recorded(cls: type[Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """From now on the actions of a class are possible at any time, do nothing, and stand here."""
    done: list[tuple[str, tuple[Any, ...]]] = []

    def recorder(action: str) -> Any:
        return lambda self, *arguments: done.append((action, arguments))

    for _, action, _ in keys_of(cls):
        assert hasattr(cls, f"action_{action}")
        monkeypatch.setattr(cls, f"action_{action}", recorder(action))
    monkeypatch.setattr(cls, "check_action", lambda *_: True)
    return done
