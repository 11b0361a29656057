"""The table of the selected run's tensors."""

from __future__ import annotations

from lmbench.tui.widgets.panel import Panel

__all__ = ["LayersPanel"]


class LayersPanel(Panel, can_focus=True):
    TITLE = "Layers"
