"""The panel of plots: zoom, pan, a cursor that reads all curves, overlay of runs, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from textual.binding import BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.geometry import Region
from textual.strip import Strip

from lmbench.report.plots.curve_data import Curves
from lmbench.report.plots.draw_in_terminal import draw
from lmbench.report.plots.layout import Plot, extent
from lmbench.report.plots.series import PLOTS, count_pruned
from lmbench.tui.bench.float_model_run import is_training, with_trainings
from lmbench.tui.bench.saved_state import restored
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.dialog import ask_for_file
from lmbench.tui.kit.panel import Panel
from lmbench.tui.plots.keys import KEYS
from lmbench.tui.plots.legend import legend
from lmbench.tui.plots.plot_cache import Drawn, centred, within
from lmbench.tui.plots.view import SMOOTHINGS, X_AXES, View, inside, level_of, plot_of

__all__ = ["PlotPanel"]

_ZOOM = 0.6
_PAN = 0.25
_NARROWEST = 1e-4
# So many plots are kept as they were drawn, for going to and fro between runs.
_LATEST = 4
# Of the frame's foot, beside its words.
_FRAME_TAKES = 4
# A panel narrower than this names runs by their number alone.
_BRIEF = 70
# The plots' names in less and less room.
_TITLES: tuple[dict[str, str], ...] = (
    {},
    {"perplexity": "Ppl", "memory": "Mem"},
    {"perplexity": "Ppl", "memory": "Mem", "speed": "Spd"},
)


class PlotPanel(Panel, can_focus=True):
    """One plot at a time, of the selected run and the marked ones."""

    TITLE = "Plots"
    HELP = """
The selected run, overlaid with the marked ones. Each has its colour and its marker, the same as in
the list of runs; validation has the marker at each epoch, training is the line, with a marker here
and there where several runs are shown, ✶ is the test score. ▼ marks pruning steps, ↘ drops of the
learning rate, ✗ at the foot values that are not finite. A run that is no training shows the curves
of the one that it came from; where it made a model, as by quantizing or packing, its own validation
score is a level line over them.

**← →** move a cursor that reads all curves at once, a tensor's target behind its → (with Ctrl ten
columns); **+ −** zoom around it, **Shift ← →** pan, **0** shows everything. **[ ]** or **< >**
change the plot, **x** the x axis, **y** log or linear, **m** smoothing, **t** every tensor's
sparsity, where one run prunes, **f** holds the picture still while training goes on, **e** writes
it to a file. The highest few values, as those of the first batches, are left out where they would
flatten the rest: ↑ marks them, **a** shows them.
"""
    BINDINGS: ClassVar[list[BindingType]] = KEYS

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.view = View()
        self._cursor: float | None = None
        self._frozen: tuple[RunView, ...] | None = None
        self._shown = Drawn()
        self._latest: list[Drawn] = []
        self._theme = ""

    def on_mount(self) -> None:
        self.view = restored(View, self.bench.recall("plot"))

    def on_resize(self) -> None:
        self.refresh_view()

    # -- what is drawn -------------------------------------------------------------------------

    @property
    def cursor_x(self) -> float | None:
        """Where the value cursor stands on the x axis, None without one.

        Runs that are shown in place of others may have nothing where it stood: then it is not
        seen, until there is something again.
        """
        return within(self._cursor, self._shown.span)

    @property
    def runs(self) -> tuple[RunView, ...]:
        """The selected and the marked runs, and the trainings that those without curves are of."""
        if self._frozen is not None:
            return self._frozen
        return with_trainings(self.bench.snapshot.by_key, self.bench.shown_runs)

    def plot(self) -> Plot:
        """The plot as it is looked at now."""
        brief = self.size.width < _BRIEF
        return plot_of(self.view, self.runs, self.bench.colour, brief=brief)

    def refresh_view(self) -> None:
        size, runs = self.content_size, self.runs
        said = tuple((run.name, level_of(run)) for run in runs) or self.bench.snapshot.complete
        look = (size, self.view, self._cursor, self.app.theme, said)
        curves = tuple(run.curves for run in runs)
        if self._shown.is_of(look, curves):
            return
        before = self._shown.lines
        kept = (plot for plot in self._latest if plot.is_of(look, curves))
        self._shown = next(kept, None) or self._draw(look, curves)
        self._latest = [self._shown, *(d for d in self._latest if d is not self._shown)][:_LATEST]
        self._titles()
        if len(before) != len(self._shown.lines) or self._theme != self.app.theme:
            self._theme = self.app.theme
            self.refresh()
            return
        lines = enumerate(zip(before, self._shown.lines, strict=True))
        changed = [y for y, (old, new) in lines if old != new or old.spans != new.spans]
        if changed:
            # One region: each costs more than the lines between them.
            first, last = changed[0], changed[-1]
            self.refresh(Region(0, first, size.width, last - first + 1))

    def _draw(self, look: object, curves: tuple[Curves, ...]) -> Drawn:
        (width, height), plot = self.content_size, self.plot()
        if not plot.series:
            return Drawn(look, curves, centred(self._empty(), width, height))
        span = plot.window or extent(plot.series)
        cursor = within(self._cursor, span)
        above = legend(plot, width, height, cursor, f"{self.runs[0].id}")
        picture = draw(plot, width, height - len(above), self.bench.plot_colours, cursor)
        lines = [*above, *picture.lines]
        return Drawn(look, curves, lines, picture, span, zoomed=plot.window is not None)

    def _titles(self) -> None:
        room = self.size.width - 6
        titles = {}
        for short in _TITLES:
            titles = {name: short.get(name, kind.title) for name, kind in PLOTS.items()}
            if sum(len(title) + 1 for title in titles.values()) <= room:
                break
        chosen = self.view.kind
        titles[chosen] = f" {titles[chosen]} "
        self.set_tabs(list(titles.items()), chosen, " ")
        view = self.view
        notes = ["held"] if self._frozen is not None else []
        notes += ["log" if view.kind in view.logs else "linear", view.x_axis]
        if self._shown.picture.clipped:
            notes.append("↑ above")
        if view.smoothing:
            notes.append(f"smooth {view.smoothing:g}")
        if self._shown.zoomed:
            notes.append("zoomed")
        room = self.content_size.width - _FRAME_TAKES
        if of := self._trainings_of_others():
            notes.append(f"of {', '.join(run.title for run in of)}")
            if len(of) > 1 or len(" · ".join(notes)) > room:
                notes[-1] = f"of {', '.join(str(run.id) for run in of)}"
        # None is cut: what does not fit whole is left out.
        while len(notes) > 1 and len(" · ".join(notes)) > room:
            notes.pop()
        self.set_subtitle(" · ".join(notes))

    def _trainings_of_others(self) -> Sequence[RunView]:
        """Where the selected run is no training: those whose curves it and others like it show."""
        others = [run for run in self.runs if not is_training(run)]
        if not others or others[0] is not self.runs[0]:
            return ()
        return with_trainings(self.bench.snapshot.by_key, others)[len(others) :]

    def _empty(self) -> str:
        runs = self.runs
        if not runs:
            if not self.bench.snapshot.complete:
                return ""
            return "Curves of the selected run come here. n starts a run."
        name = PLOTS[self.view.kind].title.lower()
        run = next(filter(is_training, runs), None)
        if run is None:
            who = runs[0].title
            return f"{who} is no training, so it has no curves. Mark others with Space."
        if self.view.kind == "sparsity" and run.kind == "train":
            return "Nothing is pruned here. A pruning schedule draws its course in this plot."
        if run.status == "queued":
            return f"{run.title} waits in the queue. Its curves come when it runs."
        if run.status == "running":
            return f"No {name} yet: the first points come with the first batches."
        return f"{run.title} has no {name} to show."

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        return self._shown.strip(y, self.content_size.width, base, self.app.console)

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "per_tensor":
                # Tensors of several runs would have one colour and one name.
                pruned = count_pruned(run.curves for run in self.runs)
                return self.view.kind == "sparsity" and pruned == 1
            case "whole":
                return self._shown.zoomed
            case "cursor" | "zoom" | "pan" | "export" | "clip":
                return bool(self._shown.picture.columns)
            case "no_cursor":
                return self.cursor_x is not None
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        match action:
            case "per_tensor" if self.view.kind != "sparsity":
                return "t is for the plot of sparsity"
            case "per_tensor":
                return "t is for one run that prunes"
            case "whole" if self._shown.picture.columns:
                return "everything is shown"
        return "there is no curve"

    def _look(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self.bench.remember("plot", self.view.to_json())
        self.refresh_view()
        self.refresh_bindings()

    def action_turn(self, by: int) -> None:
        names = list(PLOTS)
        self._look(kind=names[(names.index(self.view.kind) + by) % len(names)])

    def action_log(self) -> None:
        view = self.view
        logs = set(view.logs) ^ {view.kind}
        self._look(logs=tuple(sorted(logs)))

    def action_clip(self) -> None:
        left_out = self._shown.picture.clipped
        if left_out or not self.view.clipped:
            self._look(clipped=not self.view.clipped)
        if not left_out and not self._shown.picture.clipped:
            self.bench.show_message("every value is shown: none is far above the rest", keep=False)

    def action_x_axis(self) -> None:
        turn = (X_AXES.index(self.view.x_axis) + 1) % len(X_AXES)
        self._cursor = None
        self._look(x_axis=X_AXES[turn], window=None)

    def action_smooth(self) -> None:
        more = (smoothing for smoothing in SMOOTHINGS if smoothing > self.view.smoothing)
        self._look(smoothing=next(more, SMOOTHINGS[0]))

    def action_per_tensor(self) -> None:
        self._look(per_tensor=not self.view.per_tensor)

    def action_freeze(self) -> None:
        self._frozen = self.runs if self._frozen is None else None
        self.refresh_view()
        self._titles()

    def action_cursor(self, columns: int) -> None:
        picture = self._shown.picture
        last = picture.columns - 1
        cursor = self.cursor_x
        here = last + 1 if cursor is None else picture.column_of(cursor)
        self._cursor = picture.x_at(min(max(here + columns, 0), last))
        self.refresh_view()
        self.refresh_bindings()

    def action_no_cursor(self) -> None:
        self._cursor = None
        self.refresh_view()
        self.refresh_bindings()

    def action_zoom(self, way: int) -> None:
        plot, cursor = self.plot(), self.cursor_x
        whole = extent(plot.series)
        left, right = plot.window or whole
        middle = (left + right) / 2 if cursor is None else min(max(cursor, left), right)
        factor = _ZOOM if way > 0 else 1 / _ZOOM
        if way > 0 and (right - left) * factor < (whole[1] - whole[0]) * _NARROWEST:
            return
        self._window(middle - (middle - left) * factor, middle + (right - middle) * factor, whole)

    def action_pan(self, way: int) -> None:
        plot = self.plot()
        whole = extent(plot.series)
        left, right = plot.window or whole
        by = way * _PAN * (right - left)
        by = min(max(by, whole[0] - left), whole[1] - right)
        self._window(left + by, right + by, whole)

    def _window(self, left: float, right: float, whole: tuple[float, float]) -> None:
        window = inside((left, right), whole)
        cursor, (left, right) = self.cursor_x, window or whole
        if cursor is not None:
            self._cursor = min(max(cursor, left), right)
        self._look(window=window)

    def action_whole(self) -> None:
        self._look(window=None)

    def action_export(self) -> None:
        from lmbench.report.plots.export import export

        kind = self.view.kind
        title = f"{PLOTS[kind].title}: {', '.join(run.name for run in self.runs)}"
        plot = plot_of(self.view, self.runs, self.bench.colour_on_white, brief=False)
        whole = replace(plot, clipped=False)
        question = "Write the plot to a file (.svg, .txt) or its data (.csv):"
        write = partial(export, whole, title=title)
        ask_for_file(self.bench, question, f"{kind}.svg", (".svg", ".txt", ".csv"), write)

    # -- mouse ---------------------------------------------------------------------------------

    def on_panel_tab_clicked(self, event: Panel.TabClicked) -> None:
        event.stop()
        self._look(kind=next(kind for kind in PLOTS if kind == event.name))

    def on_click(self, event: Click) -> None:
        column = event.x - 1 - self._shown.picture.left
        if event.y > 0 and 0 <= column < self._shown.picture.columns:
            self._cursor = self._shown.picture.x_at(column)
            self.refresh_view()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        if self._shown.picture.columns:
            self.action_zoom(1)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        if self._shown.picture.columns:
            self.action_zoom(-1)
