"""Each key of each screen and panel reaches its action, where it says that it does.

What the actions do is told by the tests of the screens; here every key is pressed, and a class
with keys that is not in the list is a failure.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from driving import press, settled
from laboratory_double import measure
from sampler_double import SamplerDouble
from test_layers_panel import checkpoint
from textual.actions import parse
from textual.binding import Binding

import lmbench.tui.screens
import lmbench.tui.widgets
from lmbench.session import Home
from lmbench.tui import app as app_module
from lmbench.tui.app import Workbench
from lmbench.tui.widgets.generate import GeneratePanel

pytestmark = pytest.mark.usefixtures("started")

WRITTEN = ("g", *"in", "enter", "down", "down")
TRIED = ("l", "enter")

REACHED: dict[str, tuple[str, ...]] = {
    "Workbench": (),
    "MainScreen": (),
    "RunsPanel": (),
    "RunTree": (),
    "FilterInput": ("slash",),
    "PlotPanel": ("2",),
    "LayersPanel": ("3",),
    "Grid": ("3",),
    "GeneratePanel": WRITTEN,
    "PromptInput": ("g",),
    "Dials": ("g", "down"),
    "WordsView": WRITTEN,
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
    "Pick": ("S", "ctrl+o"),
    "_Dialog": ("r",),
    "ChainsScreen": ("N",),
    "ChainsPanel": ("N",),
    "CompareScreen": ("c",),
    "TablePanel": ("c",),
    "ScatterPanel": ("c", "tab"),
    "LabScreen": TRIED,
    "ModulesPanel": TRIED,
    "TriesPanel": (*TRIED, "tab"),
    "PrunePanel": (*TRIED, "tab", "tab"),
    "SensitivityScreen": ("v",),
    "SuggestionPanel": ("v", "tab"),
    "WelcomeScreen": (),
}
"""For each class with keys the keys that lead to it from the main screen, the dense run selected;
the welcome screen comes by itself where there is no session."""


def modules() -> Iterator[ModuleType]:
    yield app_module
    for package in (lmbench.tui.screens, lmbench.tui.widgets):
        for info in pkgutil.iter_modules(package.__path__):
            yield importlib.import_module(f"{package.__name__}.{info.name}")


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


def test_every_class_with_keys_is_in_the_list():
    assert set(with_keys()) == set(REACHED)


@pytest.fixture
def ready(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session in which every screen has something to show."""
    monkeypatch.setattr(SamplerDouble, "made", [], raising=False)
    monkeypatch.setattr(GeneratePanel, "client_class", SamplerDouble)
    measure(lab)
    dense = lab.session.run(1)
    shape = dense.read().shape
    checkpoint(dense, "best")
    dense.update(shape=shape)
    return lab


@pytest.mark.parametrize("name", REACHED)
async def test_each_key_reaches_its_action(ready, tmp_path, monkeypatch, name):
    cls = with_keys()[name]
    if name == "WelcomeScreen":
        app = Workbench(Home(tmp_path / "nothing yet"), None, follow=False)
    else:
        app = ready.bench()
    async with app.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        if name in ("LayersPanel", "Grid", "TensorScreen"):
            await press(pilot, *REACHED[name])
        elif name != "WelcomeScreen":
            await press(pilot, "home", *REACHED[name], workers="compare")
        done = recorded(cls, monkeypatch)
        for key, action, arguments in keys_of(cls):
            await press(pilot, key)
            assert done == [(action, arguments)], f"{key} of {name}"
            done.clear()


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
