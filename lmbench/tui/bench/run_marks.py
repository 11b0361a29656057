"""How a run looks everywhere: its colour and its marker, the same in the tree and in each plot.

Colour alone tells nothing on a monochrome terminal, so each run has a marker too; eight colours
and nine markers turn at different speeds, and seventy-two runs look different.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmbench.report.plots.series import MARKERS

__all__ = ["SERIES_COLOURS", "STATUS_MARKS", "Mark", "mark_of"]

SERIES_COLOURS = 8

STATUS_MARKS = {
    "queued": ("…", "queued"),
    "running": ("▶", "running"),
    "paused": ("‖", "paused"),
    "finished": ("✓", "finished"),
    "stopped": ("□", "stopped"),
    "failed": ("✗", "failed"),
    "lost": ("?", "lost"),
}
"""For each status its sign and its word."""


@dataclass(frozen=True, slots=True)
class Mark:
    """`variable` names the theme's colour (``$series-3``); `marker` is one cell wide."""

    marker: str
    variable: str


def mark_of(run_id: int) -> Mark:
    """The look of run number `run_id`; it never changes."""
    turn = max(run_id, 1) - 1
    return Mark(MARKERS[turn % len(MARKERS)], f"series-{turn % SERIES_COLOURS + 1}")
