"""The panels of a sweep: its table, the Pareto front, the axes' importance, and a slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input, Static

from lmbench.jobs.sweeps.status import plotted
from lmbench.printable import one_line
from lmbench.report import numbers
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.run_place import where_of
from lmbench.tui.kit.filter_input import FilterInput
from lmbench.tui.kit.grid import Grid, GridPanel
from lmbench.tui.kit.panel import PicturePanel, update_static
from lmbench.tui.kit.status_lines import bar
from lmbench.tui.sweeps.columns import Line, rung_of
from lmbench.tui.sweeps.study import Level, Study

__all__ = ["CHARTS", "ChartPanel", "FrontPanel", "ImportancePanel", "SlicePanel", "SweepTable"]

CHARTS = ("front", "importance", "slice")
"""The ids of the panels of plots."""

_LABEL = 14


class SweepTable(GridPanel):
    """A line for each run of the sweep, or for each setting."""

    TITLE = "Sweep"
    HELP = """
The runs of this session's sweep, with a column for each setting that varies. A figure of a run at
work is the best so far. **rung** is how many rungs of early stopping a run has reached, and the
epoch of the last. **course** draws its validation perplexity. **where** is the place, host and
device that work on a run; it is empty where that is this machine. Below the table stands why the
run under the cursor ended.

**a** changes between a line for each run and one for each setting, with mean and standard deviation
over its seeds, of finished runs alone. **t** sorts by the next column, **T** turns the order round,
**/** filters by words of stage, values, seed and status.

**p** pauses what runs, **s** stops the whole sweep (asks), **R** goes on with it. **P** **Q** **K**
go on with the run under the cursor: the form to prune, quantize or pack it, filled so that Ctrl+S
starts it. **Enter** goes to the run. **n** asks for a new sweep.

Below: the **front** of perplexity against size (**b**: against sparsity), an error bar for one
standard deviation over the seeds, **◉** the setting under the cursor. The **importance** of each
axis: how far the mean perplexities of its values lie apart, or (**i**) what Optuna's PED-ANOVA
says. A **slice**: the settings by one axis, which **← →** change, with the mean of each value. The
last two are of the stage under the cursor. **[ ]** change between the three where they share a
place, **x** between valid and test, **y** between a linear and a logarithmic axis.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "go to run", id="sweep.open", tooltip="Select the run"),
        Binding("slash", "filter", "filter", id="sweep.filter", key_display="/",
                tooltip="Filter the table"),
        Binding("t", "sort", "sort", id="sweep.sort", key_display="t T",
                tooltip="Sort by the next column"),
        Binding("T", "reverse", "reverse", id="sweep.reverse", show=False,
                tooltip="Reverse the order"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    SweepTable #detail { height: 1; color: $text-muted; }
    .-narrow SweepTable #detail { height: 2; }
    """

    class Turned(Message):
        """It is to be looked at otherwise."""

    class Chosen(Message):
        """The cursor is on another line."""

    def __init__(self, study: Study, id: str) -> None:
        super().__init__(id=id)
        self.study = study
        self.lines: list[Line] = []

    def compose(self) -> ComposeResult:
        yield FilterInput()
        yield from super().compose()
        yield Static("", id="detail", markup=False)

    def take_focus(self) -> None:
        box, grid = self.query_one(FilterInput), self.query_one(Grid)
        box.set_class(bool(box.value), "-shown")
        (grid if grid.display else self).focus()

    def refresh_view(self) -> None:
        study, grid = self.study, self.query_one(Grid)
        study.follow(self.bench.snapshot)
        columns, rows, sorted_by, self.lines = study.table()
        there = study.state is not None
        self.show_grid(there, self._nothing())
        self.query_one("#detail").display = there
        if all(line.key != grid.cursor_key for line in self.lines):
            # In the line of its setting the cursor stands on the same run.
            its = (one.key for one in self.lines for v in one.views if v.key == grid.cursor_key)
            grid.cursor_key = next(its, grid.cursor_key)
        grid.show(columns, rows, (), sorted_by)
        self.choose()
        self.set_subtitle(study.words)
        self.refresh_bindings()

    def _nothing(self) -> str:
        if self.study.problem:
            return self.study.problem
        if not self.study.known:
            return "Looking for a sweep …"
        ways = "lmbench sweep start FILE starts one in a session of its own (docs/sweeps.md)."
        if self.bench.selected_run is not None and not self.bench.demo:
            ways = f"n asks for one that starts from the selected run; {ways}"
        return f"This session has no sweep.\n\n{ways}"

    def choose(self) -> None:
        """Take over the line under the cursor, and say more of it."""
        key = self.query_one(Grid).cursor_key
        before = self.study.cursor
        now = next((line for line in self.lines if line.key == key), None)
        self.study.cursor = now
        update_static(self.query_one("#detail", Static), _detail(now) if now else "")
        if (before.setting.runs if before else None) != (now.setting.runs if now else None):
            self.study.version += 1
            self.post_message(self.Chosen())

    @on(Grid.Moved)
    def _moved(self) -> None:
        self.choose()
        self.screen.refresh_bindings()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.study.state is not None

    def action_filter(self) -> None:
        self.query_one(FilterInput).open()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        event.stop()
        self.study.filter = event.value
        self.refresh_view()

    def action_sort(self) -> None:
        self.study.sort_by_next(self.query_one(Grid).shown_columns)
        self.bench.show_message(self.study.order_words)
        self.post_message(self.Turned())

    def action_reverse(self) -> None:
        self.study.order.reversed = not self.study.order.reversed
        self.bench.show_message(self.study.order_words)
        self.post_message(self.Turned())


def _detail(line: Line) -> Text:
    """What the columns have no room for."""
    if len(line.views) > 1:
        setting = line.setting
        parts = [f"{plotted(setting)['name']}: n = {setting.statuses.get('finished', 0)}"]
        others = [f"{n} {word}" for word, n in setting.statuses.items() if word != "finished"]
        parts += [*others, *setting.stopped_at[:1]]
    else:
        view = line.view
        rung = rung_of(view)
        parts = [view.title, one_line(view.reason) or line.status, where_of(view)]
        parts += [f"rung {rung}"] * bool(rung and not view.reason)
    return Text(" · ".join(filter(None, parts)), no_wrap=False, overflow="ellipsis")


class ChartPanel(PicturePanel, can_focus=True):
    """One picture, drawn anew where what it shows, its size or the theme is another."""

    DEFAULT_CSS = "ChartPanel Static { height: 1fr; }"

    def __init__(self, study: Study, id: str) -> None:
        super().__init__(id=id)
        self.study = study
        self._drawn: object = None

    def refresh_view(self) -> None:
        state = (self.study.version, self.content_size, self.bench.theme)
        if state != self._drawn and self.content_size.width:
            self._drawn = state
            update_static(self.query_one(Static), self.picture())

    def picture(self) -> Text:
        raise NotImplementedError

    def _faint(self, words: str) -> Text:
        return Text(words, "dim")


class FrontPanel(ChartPanel):
    """Perplexity against size or sparsity."""

    TITLE = "Front"

    def picture(self) -> Text:
        study, size = self.study, self.content_size
        plot = study.front(self.bench.colour)
        by = "size" if study.by == "bytes" else "sparsity"
        self.set_subtitle(f"{study.split} ppl by {by}{_log(study)}")
        if plot is None:
            return self._faint(
                f"Finished settings with a {study.split} perplexity come here: there are fewer "
                "than two."
            )
        lines = draw(plot, size.width, size.height - 1, self.bench.plot_colours).lines
        return Text("\n").join([*lines, self._legend(size.width)])

    def _legend(self, width: int) -> Text:
        text = Text(no_wrap=True)
        for turn, stage in enumerate(self.study.stages, start=1):
            mark = mark_of(turn)
            text.append(f" {mark.marker}", self.bench.colour_style(mark.variable))
            text.append(f" {stage}")
        text.append(" ◉", self.bench.colour_style("accent"))
        text.append(" chosen")
        text.truncate(width, overflow="ellipsis")
        return text


class ImportancePanel(ChartPanel):
    """How much each axis matters."""

    TITLE = "Importance"

    def picture(self) -> Text:
        study, width = self.study, self.content_size.width
        importances, asked = study.importances()
        self.set_subtitle(study.stage)
        if not importances:
            return self._faint(
                "No axis varies in this stage."
                if not study.axes
                else "Finished settings are compared here: there is none."
            )
        how = "PED-ANOVA" if asked else "spread of the means"
        head = f"{how}, {study.split} ppl"
        if not asked and find_spec("optuna"):
            head += " (i: PED-ANOVA)" if width > len(head) + 16 else ""
        lines = [self._faint(head)]
        most = max(importances.values()) or 1.0
        label = min(max(map(cell_len, importances)), _LABEL, width // 3)
        figures = [f"{v:.0%}" if asked else numbers.short(v) for v in importances.values()]
        room = width - label - max(map(len, figures)) - 2
        done, rest = self.bench.colour_style("primary"), self.bench.colour_style("faint")
        for (axis, value), figure in zip(importances.items(), figures, strict=True):
            line = Text(_fit(axis, label) + " ", no_wrap=True)
            line.append_text(bar(value / most, max(room, 1), done, rest))
            line.append(figure.rjust(width - line.cell_len))
            lines.append(line)
        return Text("\n").join(_within(lines, self.content_size.height))


class SlicePanel(ChartPanel):
    """The settings by one axis."""

    TITLE = "Slice"

    def picture(self) -> Text:
        study, width = self.study, self.content_size.width
        axis, levels = study.sliced, study.levels() if study.sliced else []
        self.set_subtitle(f"{study.stage}: {axis}{_log(study)}" if axis else study.stage)
        figures = [ppl for level in levels for ppl in level.figures]
        if not figures:
            return self._faint(
                "No axis varies in this stage."
                if not axis
                else "Finished settings by one axis come here: there is none."
            )
        label = min(max(cell_len(level.words) for level in levels), _LABEL, width // 3)
        means = [numbers.perplexity(level.mean) for level in levels]
        room = width - label - max(map(len, ("mean", *means))) - 2
        ends = (min(figures), max(figures))
        low, high = map(numbers.perplexity, ends)
        between = high.rjust(max(room - len(low), 0)) if ends[0] < ends[1] else ""
        head = " " * (label + 1) + low + between
        lines = [self._faint(head + "mean".rjust(max(width - len(head), 0)))]
        for level, mean in zip(levels, means, strict=True):
            line = Text(_fit(level.words, label) + " ", no_wrap=True)
            line.append_text(self._strip(level, ends, room))
            line.append(mean.rjust(width - line.cell_len))
            lines.append(line)
        return Text("\n").join(_within(lines, self.content_size.height))

    def _strip(self, level: Level, ends: tuple[float, float], room: int) -> Text:
        """A mark for each setting of a value, where its perplexity lies between the ends."""
        line = Text("·" * room, self.bench.colour_style("faint"), no_wrap=True)
        colour = self.bench.colour_style("series-1")
        marks = [(ppl, "●", colour) for ppl in level.figures]
        if level.mean is not None and len(level.figures) > 1:
            marks.append((level.mean, "┃", self.bench.colour_style("foreground")))
        if level.chosen is not None:
            marks.append((level.chosen, "◉", self.bench.colour_style("accent")))
        for ppl, sign, style in marks:
            at = _column(ppl, ends, room, log=self.study.log_axis)
            line.plain = line.plain[:at] + sign + line.plain[at + 1 :]
            line.stylize(style, at, at + 1)
        return line


def _column(value: float, ends: tuple[float, float], room: int, *, log: bool) -> int:
    low, high = ends
    if log and low > 0:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return round((value - low) / (high - low) * (room - 1)) if high > low else room // 2


def _within(lines: Sequence[Text], height: int) -> list[Text]:
    """As many lines as there is room for; the last says how many are left out."""
    if len(lines) <= height:
        return list(lines)
    more = len(lines) - height + 1
    return [*lines[: height - 1], Text(f"… {more} more", "dim")]


def _fit(text: str, width: int) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, max(width - 1, 0)) + "…"
    return text + " " * (width - cell_len(text))


def _log(study: Study) -> str:
    return ", log" if study.log_axis else ""
