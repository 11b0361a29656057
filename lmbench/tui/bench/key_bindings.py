"""Every binding of the workbench: for the file in which a user gives actions other keys."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import key_to_character
from textual.screen import Screen

import lmbench.tui

__all__ = ["all_bindings", "bindings_in_force", "is_typed"]


def all_bindings(app: type[DOMNode]) -> list[Binding]:
    """The bindings with an id of the application, of all screens and of all widgets of ours.

    Imports every screen, so it is only called where someone's keys are at stake.
    """
    found: dict[str, Binding] = {}
    for cls in (app, *_classes()):
        for binding in cls.__dict__.get("BINDINGS", ()):
            if isinstance(binding, Binding) and binding.id:
                found.setdefault(binding.id, binding)
    return list(found.values())


def _classes() -> Iterator[type[Any]]:
    for module in _modules():
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield value


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(lmbench.tui.__path__, "lmbench.tui."):
        yield importlib.import_module(info.name)


def bindings_in_force(node: DOMNode) -> Iterator[tuple[str, Binding]]:
    """A node's own bindings with the keys that the user gave them, each with its key."""
    bindings = node._bindings.copy()
    bindings.apply_keymap(node.app._keymap)
    yield from bindings


def is_typed(screen: Screen[Any], key: str) -> bool:
    """Is the key typed where the focus is, whatever it is bound to?"""
    focused = screen.focused
    return focused is not None and focused.check_consume_key(key, key_to_character(key))
