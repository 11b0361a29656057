"""Curves of a command's answer, drawn for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.text import Text

from lmbench.distiller.schedules.plan import SchedulePlan
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Series

__all__ = ["curves_text", "schedule_text"]

# Signs and colours (of the terminal's 256) that tell series apart without colour, too.
_MARKERS = "●◆■▲▼★○◇□△"
_COLOURS = (39, 208, 34, 170, 220, 44, 203, 141, 112, 250)

Points = Sequence[tuple[float, float]]


def curves_text(
    curves: Mapping[str, Points], width: int, height: int, *, unit: str, x_axis: str, log: bool
) -> Text:
    """The curves in a plot of `width` by `height` cells, with a line for each below it."""
    series = tuple(
        Series(
            name,
            np.array([x for x, _ in points], dtype=np.float64),
            np.array([y for _, y in points], dtype=np.float64),
            _MARKERS[number % len(_MARKERS)],
            _COLOURS[number % len(_COLOURS)],
            "points",
        )
        for number, (name, points) in enumerate(curves.items())
    )
    picture = draw(Plot(series, x_axis=x_axis, unit=unit, log=log), width, height)
    text = Text("\n").join(picture.lines)
    for one in series:
        text.append("\n")
        text.append(f" {one.marker} ", style=f"color({one.colour})")
        text.append(one.label)
    return text


def schedule_text(plan: SchedulePlan, width: int, height: int) -> Text:
    """The sparsity of each tensor over the epochs of a schedule, and of the whole model."""
    epochs, tensors, totals = plan.drawn()
    curves = {
        name: [(e, s) for e, s in zip(epochs, curve, strict=True) if s is not None]
        for name, curve in {**tensors, "total": totals}.items()
    }
    known = {name: points for name, points in curves.items() if points}
    return curves_text(known, width, height, unit="share", x_axis="epoch", log=False)
