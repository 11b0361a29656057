"""Text from the selected run."""

from __future__ import annotations

from lmbench.tui.widgets.panel import Panel

__all__ = ["GeneratePanel"]


class GeneratePanel(Panel, can_focus=True):
    TITLE = "Generate"
