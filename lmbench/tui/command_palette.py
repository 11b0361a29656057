"""The command palette: what the keys do, by name, and only what is possible right now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from textual.app import App, SystemCommand
from textual.screen import Screen

from lmbench.tui.bench.key_bindings import bindings_in_force
from lmbench.tui.kit.panel import Panel

__all__ = ["commands_of"]


def commands_of(app: App[Any], screen: Screen[Any]) -> Iterable[SystemCommand]:
    """A command for each binding of the application, the screen and the screen's panels.

    Bindings of panels count whether the panel has the focus or not. What `check_action` refuses
    is left out, so is a binding without an id (moving about). The action is run on the node that
    the binding belongs to.
    """
    panels = [panel for panel in screen.query(Panel) if panel.is_in_view]
    offered: set[str] = set()
    for node in (*panels, screen, app):
        for _, binding in bindings_in_force(node):
            if not binding.id or binding.id in offered:
                continue
            if not app._check_action_state(binding.action, node):
                continue
            offered.add(binding.id)
            title = binding.tooltip or binding.description
            where = f"{node.TITLE}: " if isinstance(node, Panel) and node.TITLE else ""
            key = app.get_key_display(replace(binding, key_display=None))
            yield SystemCommand(
                f"{where}{title}", f"key {key}", partial(app.run_action, binding.action, node)
            )
