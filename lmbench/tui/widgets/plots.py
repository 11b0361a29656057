"""The panel of plots: zoom, pan, a cursor that reads all curves, overlay of runs, export."""

from __future__ import annotations

from dataclasses import replace
from operator import is_
from pathlib import Path
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.geometry import Region
from textual.strip import Strip

from lmbench.report.curves import Curves
from lmbench.report.draw import Drawing, Look, draw
from lmbench.report.plots import Plot, extent, value_at
from lmbench.report.series import PLOTS, Kind, Series, Source, gather, moments
from lmbench.tui.marks import mark_of
from lmbench.tui.subject import is_training, with_trainings
from lmbench.tui.watch import RunView
from lmbench.tui.widgets.panel import Panel
from lmbench.tui.widgets.plot_view import SMOOTHINGS, X_AXES, View, level_of, place, written

__all__ = ["PlotPanel"]

_ZOOM = 0.6
_PAN = 0.25
_NARROWEST = 1e-4
# A panel narrower than this names runs by their number alone.
_BRIEF = 70
_SHORT_TITLES = {"perplexity": "Ppl", "memory": "Mem"}


class PlotPanel(Panel, can_focus=True):
    """One plot at a time, of the selected run and the marked ones."""

    TITLE = "Plots"
    HELP = """
The selected run, overlaid with the marked ones. Each has its colour and its marker, the same as in
the list of runs; validation has the marker at each epoch, training is the line, ✶ is the test
score. ▼ marks pruning steps, ↘ drops of the learning rate, ✗ at the foot values that are
not finite. A run that is no training shows the curves of the one that it came from; where it made a
model, as by quantizing or packing, its own validation score is a level line over them.

**← →** move a cursor that reads all curves at once (with Ctrl ten columns); **+ −** zoom around it,
**Shift ← →** pan, **0** shows everything. **[ ]** change the plot, **x** the x axis, **y** log or
linear, **m** smoothing, **t** every tensor's sparsity, **f** holds the picture still while training
goes on, **e** writes it to a file.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right_square_bracket,full_stop",
            "turn(1)",
            "next",
            id="plots.next",
            key_display="[ ]",
            tooltip="Next plot",
        ),
        Binding(
            "left_square_bracket,comma",
            "turn(-1)",
            "previous",
            id="plots.previous",
            show=False,
            tooltip="Previous plot",
        ),
        Binding(
            "left,h",
            "cursor(-1)",
            "read",
            id="plots.left",
            key_display="← →",
            tooltip="Move the cursor left",
        ),
        Binding(
            "right",
            "cursor(1)",
            "read",
            id="plots.right",
            show=False,
            tooltip="Move the cursor right",
        ),
        Binding(
            "ctrl+left",
            "cursor(-10)",
            "read",
            id="plots.left_10",
            show=False,
            tooltip="Move the cursor ten columns left",
        ),
        Binding(
            "ctrl+right",
            "cursor(10)",
            "read",
            id="plots.right_10",
            show=False,
            tooltip="Move the cursor ten columns right",
        ),
        Binding(
            "home",
            "cursor(-100000)",
            "first",
            id="plots.first",
            show=False,
            tooltip="Move the cursor to the first value",
        ),
        Binding(
            "end",
            "cursor(100000)",
            "last",
            id="plots.last",
            show=False,
            tooltip="Move the cursor to the last value",
        ),
        Binding(
            "plus,equals_sign",
            "zoom(1)",
            "zoom",
            id="plots.zoom_in",
            key_display="+ −",
            tooltip="Zoom in around the cursor",
        ),
        Binding(
            "minus", "zoom(-1)", "zoom out", id="plots.zoom_out", show=False, tooltip="Zoom out"
        ),
        Binding("0", "whole", "all", id="plots.whole", tooltip="Show the whole x axis"),
        Binding(
            "shift+left,H", "pan(-1)", "pan", id="plots.pan_left", show=False, tooltip="Pan left"
        ),
        Binding(
            "shift+right,L", "pan(1)", "pan", id="plots.pan_right", show=False, tooltip="Pan right"
        ),
        Binding("y", "log", "log", id="plots.log", tooltip="Logarithmic or linear"),
        Binding("x", "x_axis", "x axis", id="plots.x_axis", tooltip="X by step, epoch or time"),
        Binding("m", "smooth", "smooth", id="plots.smooth", tooltip="Smooth more or less"),
        Binding(
            "t",
            "per_tensor",
            "tensors",
            id="plots.per_tensor",
            tooltip="Sparsity of each tensor or in total",
        ),
        Binding(
            "f",
            "freeze",
            "hold",
            id="plots.freeze",
            show=False,
            tooltip="Hold the picture still, or let it follow",
        ),
        Binding(
            "e",
            "export",
            "export",
            id="plots.export",
            tooltip="Export the plot as SVG, text or CSV",
        ),
        Binding(
            "escape",
            "no_cursor",
            "no cursor",
            id="plots.no_cursor",
            show=False,
            tooltip="Take the cursor away",
        ),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._view = View()
        self._cursor: float | None = None
        self._frozen: tuple[RunView, ...] | None = None
        self._look_drawn: object = None
        self._curves: tuple[Curves, ...] = ()
        self._drawing = Drawing([])
        self._lines: list[Text] = []
        self._theme = ""

    def on_mount(self) -> None:
        self._view = View.from_json(self.bench.recall("plot"))

    def on_resize(self) -> None:
        self.refresh_view()

    # -- what is drawn -------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self._view

    @property
    def cursor_x(self) -> float | None:
        """Where the value cursor stands on the x axis, None without one."""
        return self._cursor

    @property
    def runs(self) -> tuple[RunView, ...]:
        """The selected and the marked runs, and the trainings that those without curves are of."""
        if self._frozen is not None:
            return self._frozen
        return with_trainings(self.bench.snapshot.by_key, self.bench.shown_runs)

    def plot(self) -> Plot:
        """The plot as it is looked at now."""
        view = self._view
        brief = self.size.width < _BRIEF
        sources = [
            Source(
                f"{run.id}" if brief else f"{run.id} {run.name}",
                mark_of(run.id).marker,
                self.bench.colour(mark_of(run.id).variable),
                run.curves,
                level_of(run),
            )
            for run in self.runs
        ]
        return Plot(
            series=tuple(gather(view.kind, sources, view.x_axis, per_tensor=view.per_tensor)),
            moments=tuple(moments(sources, view.x_axis)),
            x_axis=view.x_axis,
            unit=PLOTS[view.kind].unit,
            log=view.kind in view.logs,
            smoothing=view.smoothing,
            window=view.window,
        )

    def refresh_view(self) -> None:
        size = self.content_size
        runs = self.runs
        levels = tuple(level_of(run) for run in runs)
        look = (size, self._view, self._cursor, self.app.theme, levels)
        # Curves are immutable, so the same object is the same picture.
        curves = tuple(run.curves for run in runs)
        known = len(curves) == len(self._curves) and all(map(is_, curves, self._curves))
        if known and look == self._look_drawn:
            return
        self._look_drawn, self._curves = look, curves
        self._titles()
        before = self._lines
        self._redraw(size.width, size.height)
        if len(before) != len(self._lines) or self._theme != self.app.theme:
            self._theme = self.app.theme
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._lines, strict=True)):
            if old != new or old.spans != new.spans:
                self.refresh(Region(0, y, size.width, 1))

    def _redraw(self, width: int, height: int) -> None:
        plot = self.plot()
        if not plot.series:
            self._drawing = Drawing([])
            self._lines = _centred(self._empty(), width, height)
            return
        rows = 1 if height < 12 else 2 if height < 24 else 3
        legend = self._legend(plot, width, rows)
        look = Look(
            axes=self.bench.colour("foreground-muted"),
            faint=self.bench.colour("faint"),
            bad=self.bench.colour("error"),
        )
        self._drawing = draw(plot, width, height - len(legend), look, self._cursor)
        self._lines = legend + self._drawing.lines

    def _titles(self) -> None:
        room = self.size.width - 6
        short = sum(len(kind.title) + 1 for kind in PLOTS.values()) > room
        parts = []
        for name, kind in PLOTS.items():
            title = _SHORT_TITLES.get(name, kind.title) if short else kind.title
            parts.append(f"[b r] {title} [/]" if name == self._view.kind else title)
        self.entitle(" ".join(parts))
        view = self._view
        notes = ["log" if view.kind in view.logs else "linear", view.x_axis]
        if view.smoothing:
            notes.append(f"smooth {view.smoothing:g}")
        if view.window is not None:
            notes.append("zoomed")
        if self._frozen is not None:
            notes.append("held")
        training = next((run for run in self.runs if is_training(run)), None)
        if training is not None and not is_training(self.runs[0]):
            notes.append(f"of {training.id} {training.name}")
        self.subtitle(" · ".join(notes))

    def _empty(self) -> str:
        runs = self.runs
        if not runs:
            return "Curves of the selected run come here. n starts a run."
        name = PLOTS[self._view.kind].title.lower()
        run = next(filter(is_training, runs), None)
        if run is None:
            return f"{runs[0].name} is no training, so it has no curves. Mark others with Space."
        if self._view.kind == "sparsity" and run.kind == "train":
            return "Nothing is pruned here. A pruning schedule draws its course in this plot."
        if run.status in ("queued", "running"):
            return f"No {name} yet: the first points come with the first batches."
        return f"{run.name} has no {name} to show."

    def _legend(self, plot: Plot, width: int, rows: int) -> list[Text]:
        """Sign, label and value of each series: at the cursor, or the newest."""
        end = extent(plot.series)[1] if plot.window is None else plot.window[1]
        at = end if self._cursor is None else self._cursor
        items = [] if self._cursor is None else [Text(f"{place(at, plot.x_axis)}  ", "bold")]
        named = [series for series in plot.series if series.style != "thin"]
        for series in sorted(named, key=lambda s: s.style != "points"):
            items.append(self._entry(series, plot, at))
        lines: list[Text] = []
        for number, item in enumerate(items):
            if lines and lines[-1].cell_len + item.cell_len <= width:
                lines[-1].append_text(item)
            elif len(lines) < rows:
                lines.append(Text(" ", no_wrap=True) + item)
            else:
                more = f" +{len(items) - number}"
                lines[-1].truncate(max(0, width - len(more)))
                lines[-1].append(more, "dim")
                break
        for line in lines:
            line.truncate(width, overflow="ellipsis", pad=True)
        return lines

    def _entry(self, series: Series, plot: Plot, at: float) -> Text:
        # A single point, the test score, holds for all x.
        value = value_at(series, at if len(series.x) > 1 else series.x[0], plot.smoothing)
        colour = series.colour
        style = Style() if colour is None else Style(color=_rich(colour))
        entry = Text(f"{series.marker or '─'} ", style)
        entry.append(f"{series.label} ", "")
        entry.append(f"{written(value, plot.unit)}  ", "bold")
        return entry

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        if y >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        strip = Strip(self._lines[y].render(self.app.console))
        return strip.apply_style(self.rich_style).adjust_cell_length(width, self.rich_style)

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "per_tensor":
                return self._view.kind == "sparsity"
            case "whole":
                return self._view.window is not None
            case "cursor" | "zoom" | "pan" | "export":
                return bool(self._drawing.columns)
            case "no_cursor":
                return self._cursor is not None
        return True

    def _look(self, **changes: Any) -> None:
        self._view = replace(self._view, **changes)
        self.bench.remember("plot", self._view.to_json())
        self.refresh_view()
        self.refresh_bindings()

    def action_turn(self, by: int) -> None:
        names = list(PLOTS)
        self._look(kind=names[(names.index(self._view.kind) + by) % len(names)])

    def show_kind(self, kind: Kind) -> None:
        """Turn to this plot."""
        self._look(kind=kind)

    def action_log(self) -> None:
        view = self._view
        logs = set(view.logs) ^ {view.kind}
        self._look(logs=tuple(sorted(logs)))

    def action_x_axis(self) -> None:
        turn = (X_AXES.index(self._view.x_axis) + 1) % len(X_AXES)
        self._cursor = None
        self._look(x_axis=X_AXES[turn], window=None)

    def action_smooth(self) -> None:
        turn = (SMOOTHINGS.index(self._view.smoothing) + 1) % len(SMOOTHINGS)
        self._look(smoothing=SMOOTHINGS[turn])

    def action_per_tensor(self) -> None:
        self._look(per_tensor=not self._view.per_tensor)

    def action_freeze(self) -> None:
        self._frozen = self.runs if self._frozen is None else None
        self._look_drawn = None
        self.refresh_view()

    def action_cursor(self, columns: int) -> None:
        drawing = self._drawing
        last = drawing.columns - 1
        here = last + 1 if self._cursor is None else drawing.column_of(self._cursor)
        self._cursor = drawing.x_at(min(max(here + columns, 0), last))
        self.refresh_view()
        self.refresh_bindings()

    def action_no_cursor(self) -> None:
        self._cursor = None
        self.refresh_view()
        self.refresh_bindings()

    def action_zoom(self, way: int) -> None:
        whole = extent(self.plot().series)
        left, right = self._view.window or whole
        middle = self._cursor if self._cursor is not None else (left + right) / 2
        factor = _ZOOM if way > 0 else 1 / _ZOOM
        if way > 0 and (right - left) * factor < (whole[1] - whole[0]) * _NARROWEST:
            return
        self._window(middle - (middle - left) * factor, middle + (right - middle) * factor, whole)

    def action_pan(self, way: int) -> None:
        whole = extent(self.plot().series)
        left, right = self._view.window or whole
        by = way * _PAN * (right - left)
        by = min(max(by, whole[0] - left), whole[1] - right)
        self._window(left + by, right + by, whole)

    def _window(self, left: float, right: float, whole: tuple[float, float]) -> None:
        left, right = max(left, whole[0]), min(right, whole[1])
        everything = (left, right) == whole
        if self._cursor is not None:
            self._cursor = min(max(self._cursor, left), right)
        self._look(window=None if everything else (left, right))

    def action_whole(self) -> None:
        self._look(window=None)

    def action_export(self) -> None:
        from lmbench.report.export import FORMATS, export
        from lmbench.tui.widgets.dialog import AskText

        plot, view = self.plot(), self._view
        title = f"{PLOTS[view.kind].title}: {', '.join(run.name for run in self.runs)}"

        def check(text: str) -> str:
            path = Path(text)
            if path.suffix.lstrip(".") not in FORMATS:
                return "The ending says which format: .svg, .txt or .csv"
            return "" if path.expanduser().parent.is_dir() else f"There is no folder {path.parent}"

        async def write(text: str) -> None:
            path = Path(text).expanduser()
            await self.bench.do(export, plot, path, title, doing="while writing the plot")
            if path.exists():
                self.bench.say(f"wrote {path}")

        def done(text: str | None) -> None:
            if text:
                self.bench.run_worker(write(text), exit_on_error=False)

        question = "Write the plot to a file (.svg, .txt) or its data (.csv):"
        self.bench.push_screen(AskText("Export", question, f"{view.kind}.svg", check), done)

    # -- mouse ---------------------------------------------------------------------------------

    def on_click(self, event: Click) -> None:
        column = event.x - 1 - self._drawing.left
        if 0 <= column < self._drawing.columns:
            self._cursor = self._drawing.x_at(column)
            self.refresh_view()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        if self._drawing.columns:
            self.action_zoom(1)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        if self._drawing.columns:
            self.action_zoom(-1)


def _rich(colour: tuple[int, int, int] | int) -> str:
    return f"color({colour})" if isinstance(colour, int) else "rgb({},{},{})".format(*colour)


def _centred(words: str, width: int, height: int) -> list[Text]:
    text = Text(words, "dim", justify="center")
    from rich.console import Console

    lines = list(text.wrap(Console(width=max(width, 1)), max(width - 4, 1)))
    blank = [Text() for _ in range(max(0, (height - len(lines)) // 2))]
    for line in lines:
        line.align("center", width)
    return blank + lines
