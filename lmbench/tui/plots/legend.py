"""The lines above a plot that name its series and read their values."""

from __future__ import annotations

import re

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lmbench.report.plots.draw_in_terminal import in_colour
from lmbench.report.plots.layout import Plot, extent, value_at
from lmbench.report.plots.series import TEST, Series
from lmbench.tui.plots.view import place, written

__all__ = ["legend"]

# A panel narrower than this names tensors by what tells them apart.
_NARROW = 80
_SHARED = re.compile(r"\brnn\.weight_|\.weight\b")
_TARGET = " target"
# Lines that the picture keeps of a low panel.
_LEAST = 5
_ORDER = {"points": 0, "line": 1, "thin": 2}


def legend(
    plot: Plot, width: int, height: int, cursor: float | None, first: str = ""
) -> list[Text]:
    """Sign, label and value of each series: the newest, or those at the cursor. There a target
    follows the value of what it is for.

    Args:
        first: the number of the run whose series come first among those of their style.
        width, height: of the whole panel, in cells. With a cursor the legend takes as much of it
            as all series need, but half of it at the most, and reads the thin ones, too; else
            it has one line, or in a high panel one of eight.
    """
    end = extent(plot.series)[1] if plot.window is None else plot.window[1]
    if cursor is None:
        rows = 1 if height < 24 else height // 8
        items, named = [], [series for series in plot.series if series.style != "thin"]
    else:
        rows = max(1, min(height // 2, height - _LEAST))
        items, named = [Text(f"{place(cursor, plot.x_axis)}  ", "bold")], list(plot.series)
    at = end if cursor is None else cursor
    labels = {series.label + _TARGET for series in named}
    paired = {s.label: s for s in named if s.style == "thin" and s.label in labels}
    # Those of tensors that are not drawn themselves, as beside the sparsity in total.
    targets = [s for s in named if s.style == "thin" and s.label.endswith(_TARGET)]
    of_runs: dict[str, list[Series]] = {}
    for series in targets:
        if series.label not in paired:
            of_runs.setdefault(_whose(series, named), []).append(series)
    together = {s.label for of_run in of_runs.values() if len(of_run) > 1 for s in of_run}
    named.sort(key=lambda s: (_ORDER[s.style], not f"{s.label} ".startswith(f"{first} ")))
    for series in named:
        if series.label in paired or series.label in together:
            continue
        target = paired.get(series.label + _TARGET)
        items.append(_entry(series, target, plot, at, width))
    for whose, of_run in of_runs.items():
        if len(of_run) > 1:
            values = list(dict.fromkeys(_value(series, plot, at) for series in of_run))
            items.append(_targets(whose, values, width).append("  "))
    if together:
        items[-1].rstrip()
    lines: list[list[Text]] = []
    for number, item in enumerate(items):
        if lines and _length(lines[-1]) + item.cell_len <= width:
            lines[-1].append(item)
        elif len(lines) < rows:
            lines.append([item])
        else:
            left = len(items) - number
            # Entries make room for the count as a whole: a figure is never cut.
            while lines[-1] and _length(lines[-1]) + len(f"+{left}") > width:
                lines[-1].pop()
                left += 1
            lines[-1].append(Text(f"+{left}", "dim"))
            break
    shown = [Text(" ", no_wrap=True).append_text(Text("").join(line)) for line in lines]
    for line in shown:
        # The room between entries is none of theirs.
        line.rstrip_end(width)
        line.truncate(width, overflow="ellipsis", pad=True)
    return shown


def _length(line: list[Text]) -> int:
    """In cells, with the one at its beginning."""
    return 1 + sum(item.cell_len for item in line)


def _value(series: Series, plot: Plot, at: float) -> str:
    value = value_at(series, series.x[0] if series.marker == TEST else at, plot.smoothing)
    return written(value, plot.unit)


def _whose(target: Series, named: list[Series]) -> str:
    """The run that a target is of, where several are drawn: its label, as its total has it."""
    runs = (s.label.removesuffix("total") for s in named if s.label.endswith(" total"))
    return max((run for run in runs if target.label.startswith(run)), key=len, default="")


def _entry(series: Series, target: Series | None, plot: Plot, at: float, width: int) -> Text:
    label = _SHARED.sub("", series.label) if width < _NARROW else series.label
    figures = Text.assemble((_value(series, plot, at) + ("" if target else "  "), "bold"))
    if target is not None:
        figures.append(f" → {_value(target, plot, at)}  ")
    entry = Text(f"{series.sign} ", in_colour(series.colour))
    entry.append(f"{_cut(label, width - _length([entry, figures]) + 1)} ", "")
    return entry.append_text(figures)


def _targets(whose: str, values: list[str], width: int) -> Text:
    """What a run's targets are: as many of them as there is room for beside its name."""
    shown, count = list(values), ""
    while len(shown) > 1 and len(f" ┄ {whose}targets {' '.join(shown)}{count}") > width:
        shown.pop()
        count = f" +{len(values) - len(shown)}"
    figures = " ".join(shown) + count
    label = _cut(f"{whose}targets", width - len(figures) - 4)
    return Text(f"┄ {label} ").append(figures, "bold")


def _cut(label: str, room: int) -> str:
    """What is cut leaves room for the count of other entries beside it."""
    if cell_len(label) <= room:
        return label
    return set_cell_size(label, max(room - len("…  +99"), 0)) + "…"
