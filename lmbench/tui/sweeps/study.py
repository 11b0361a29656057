"""A session's sweep as its screen shows it: which lines in which order, and what its plots show.

No Textual here. The screen fills a `Study`, its panels show it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from lmbench.jobs.sweeps.importance import Observation, level_spreads, levels_of
from lmbench.jobs.sweeps.kept_file import has_sweep, kept_path
from lmbench.jobs.sweeps.plan import Plan
from lmbench.jobs.sweeps.proposals import kept_plan, proposals_path
from lmbench.jobs.sweeps.status import Setting, SweepStatus, plotted, status_of, value_words
from lmbench.report import numbers
from lmbench.report.pareto_front import front_plot
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Colour
from lmbench.session import Session, Status
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView, Snapshot
from lmbench.tui.kit.grid import Column, Row
from lmbench.tui.kit.sort_order import SortOrder
from lmbench.tui.sweeps.columns import (
    Line,
    TableColumn,
    columns_of_runs,
    columns_of_settings,
    fitted,
)

__all__ = ["Level", "Study", "SweepState", "read_sweep"]


@dataclass(frozen=True)
class SweepState:
    """A session's sweep at one moment; `stamps` tell whether its files have changed since."""

    stamps: tuple[int, ...]
    plan: Plan
    status: SweepStatus


@dataclass(frozen=True)
class Level:
    """A value of an axis: the perplexities of its settings, and which of them is the chosen one."""

    words: str
    figures: tuple[float, ...]
    chosen: float | None

    @property
    def mean(self) -> float | None:
        return fmean(self.figures) if self.figures else None


def read_sweep(
    session: Session, views: tuple[RunView, ...], before: SweepState | None
) -> SweepState | None:
    """Where the session's sweep stands, by the runs as they were read; None where it has none.

    Raises:
        LmbenchError: the sweep's file cannot be read.
    """
    if not has_sweep(session):
        return None
    paths = (kept_path(session), proposals_path(session))
    stamps = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
    plan = before.plan if before is not None and before.stamps == stamps else kept_plan(session)
    read = [view for view in views if view.record and view.record.point and view.status]
    made = {view.record.point: (view.run, view.record) for view in read if view.record}
    statuses: dict[str, Status] = {view.run.ref: view.status for view in read if view.status}
    return SweepState(stamps, plan, status_of(session.name, plan, made, statuses))


class Study:
    """What is looked at, and how."""

    def __init__(self) -> None:
        self.state: SweepState | None = None
        self.problem = ""
        """Why the sweep cannot be shown."""
        self.known = False
        """Was it looked whether there is a sweep?"""
        self.version = 0
        """Another one when anything but the figures of live runs has changed."""
        self.means = False
        self.split: Literal["test", "valid"] = "valid"
        self.by: Literal["bytes", "sparsity"] = "bytes"
        self.log_axis = False
        self.filter = ""
        self.order = SortOrder()
        self.axis = ""
        self.cursor: Line | None = None
        self.importance: tuple[tuple[object, ...], dict[str, float]] | None = None
        """What PED-ANOVA was asked of, and what it said; None for the spread of means."""
        self._snapshot: Snapshot | None = None
        self._views: dict[str, RunView] = {}

    def recall(self, kept: Any) -> None:
        """Take over what `to_json` gave; what does not fit is left as it is."""
        if isinstance(kept, dict):
            self.means, self.log_axis = kept.get("means") is True, kept.get("log") is True
            self.split = "test" if kept.get("split") == "test" else "valid"
            self.by = "sparsity" if kept.get("by") == "sparsity" else "bytes"
            self.order = SortOrder(str(kept.get("sort", "")), kept.get("reversed") is True)
            self.axis = str(kept.get("axis", ""))

    def to_json(self) -> dict[str, Any]:
        return {
            "means": self.means, "log": self.log_axis, "reversed": self.order.reversed,
            "split": self.split, "by": self.by, "sort": self.order.by, "axis": self.axis,
        }  # fmt: skip

    def follow(self, snapshot: Snapshot) -> None:
        """The runs as they are now, whose figures the lines have."""
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._views = {view.run.ref: view for view in snapshot.runs}

    # -- the table -----------------------------------------------------------------------------

    @property
    def settings(self) -> tuple[Setting, ...]:
        return self.state.status.rows if self.state else ()

    def _all_lines(self) -> list[Line]:
        lines = []
        for setting in self.settings:
            views = [self._views[ref] for ref in setting.runs if ref in self._views]
            if self.means and views:
                lines.append(Line(views[0].key, setting, tuple(views)))
            elif views:
                lines += [Line(v.key, setting, (v,), self._seed(v)) for v in views]
        return lines

    def _seed(self, view: RunView) -> int | None:
        assert self.state is not None
        plan, point = self.state.plan, view.record.point if view.record else ""
        return plan.points[plan.keys[point]].seed if point in plan.keys else None

    def table(self) -> tuple[tuple[Column, ...], tuple[Row, ...], int, list[Line]]:
        """Columns and rows as a grid shows them, the column that they are sorted by (-1 for none)
        and the lines themselves."""
        lines = self._all_lines()
        columns = self._columns(lines)
        names = [column.name for column in columns]
        by = names.index(self.order.by) if self.order.by in names else -1
        matching = [line for line in lines if self._matches(line)]
        lines = self.order.of(matching, columns[by].figure if by >= 0 else None)
        cells = [[column.cell(line) for line in lines] for column in columns]
        shown = tuple(fitted(c, own) for c, own in zip(columns, cells, strict=True))
        rows = tuple(
            (line.key, own) for line, own in zip(lines, zip(*cells, strict=True), strict=True)
        )
        return shown, rows, by, lines

    def _columns(self, lines: list[Line]) -> list[TableColumn]:
        if self.state is None:
            return []
        axes = self.state.status.columns
        if self.means:
            return list(columns_of_settings(axes, lines))
        rungs = self.state.plan.sweep.early_stopping is not None
        return list(columns_of_runs(axes, lines, rungs=rungs))

    def _matches(self, line: Line) -> bool:
        """Does every word of the filter occur in what tells the line from others?"""
        if not self.filter:
            return True
        setting = line.setting
        words = [setting.stage, *map(value_words, setting.values.values())]
        words += [str(line.view.id), str(line.seed), line.status] if not self.means else []
        text = " ".join(words).lower()
        return all(word in text for word in self.filter.lower().split())

    def sort_by_next(self, shown: list[int]) -> None:
        """Sort by the next of the columns that are shown, by their places."""
        columns = self._columns(self._all_lines())
        names = [columns[place].name for place in shown]
        self.order.turn(name for name in names if name != "course")

    @property
    def order_words(self) -> str:
        """What the table is sorted by, and which way round."""
        # The other table may lack the column.
        known = self.order.by in {c.name for c in self._columns(self._all_lines())}
        return self.order.words(self.order.by if known else "", "stages")

    @property
    def words(self) -> str:
        """How the sweep stands, in a line."""
        if self.state is None:
            return ""
        status = self.state.status
        parts = [", ".join(f"{count:,} {word}" for word, count in status.statuses.items())]
        if self._snapshot is not None and self._snapshot.unread:
            parts.append(f"reading {self._snapshot.unread:,} more")
        elif status.missing:
            parts.append(f"{status.missing:,} not made yet")
        if status.to_propose:
            parts.append(f"{numbers.plural(status.to_propose, 'combination')} to be proposed")
        if status.stuck:
            parts.append(f"{status.stuck:,} wait for stopped ones")
        return " · ".join(filter(None, parts))

    # -- the plots -----------------------------------------------------------------------------

    def front(self, colour: Callable[[str], Colour]) -> Plot | None:
        """Perplexity against size or sparsity; each stage has a marker, the chosen setting the
        theme's accent. None where fewer than two settings have both."""
        stages = self.stages
        chosen = self.cursor.setting.runs if self.cursor else ()
        rows = []
        for setting in self.settings:
            mark = mark_of(stages.index(setting.stage) + 1)
            here = setting.runs == chosen
            sign, tint = ("◉", "accent") if here else (mark.marker, mark.variable)
            look = {"marker": sign, "colour": colour(tint)}
            rows.append((not here, plotted(setting) | look))
        rows.sort(key=lambda pair: pair[0])
        plot = front_plot([row for _, row in rows], self.split, self.by)
        return dataclasses.replace(plot, log=self.log_axis) if plot else None

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(setting.stage for setting in self.settings))

    @property
    def stage(self) -> str:
        """The stage that importance and slices are of: the cursor's, or the last."""
        if self.cursor is not None:
            return self.cursor.setting.stage
        return self.stages[-1] if self.settings else ""

    @property
    def axes(self) -> list[str]:
        """The axes with several values in that stage."""
        if self.state is None:
            return []
        own = [setting.values for setting in self.settings if setting.stage == self.stage]
        return [axis for axis in self.state.status.columns if len(levels_of(axis, own)) > 1]

    @property
    def sliced(self) -> str:
        """The axis of the slices; "" where there is none."""
        return self.axis if self.axis in self.axes else next(iter(self.axes), "")

    def next_axis(self, step: int) -> None:
        axes = self.axes
        if axes:
            self.axis = axes[(axes.index(self.sliced) + step) % len(axes)]

    def observations(self) -> list[Observation]:
        """The settings of the stage with a perplexity of the whole split."""
        return [(setting.values, ppl) for setting, ppl in self._figures()]

    def _figures(self) -> list[tuple[Setting, float]]:
        found = []
        for setting in self.settings:
            spread = getattr(setting, self.split)
            whole = setting.stage == self.stage and not setting.part_tokens
            if whole and spread is not None and math.isfinite(spread.mean):
                found.append((setting, spread.mean))
        return found

    def importances(self) -> tuple[Mapping[str, float], bool]:
        """For each axis its importance, the greatest first, and whether it is PED-ANOVA's."""
        if self.importance is not None and self.importance[0] == self.importance_state:
            return self.importance[1], True
        observations = self.observations()
        spreads = level_spreads(self.axes, observations) if observations else {}
        return dict(sorted(spreads.items(), key=lambda pair: -pair[1])), False

    @property
    def importance_state(self) -> tuple[object, ...]:
        """What an answer of PED-ANOVA is of."""
        return self.stage, self.split, *(ppl for _, ppl in self._figures())

    def levels(self) -> list[Level]:
        """The slice: each value of the axis with its settings."""
        figures, axis = self._figures(), self.sliced
        chosen = self.cursor.setting.runs if self.cursor else ()
        own = [setting.values for setting in self.settings if setting.stage == self.stage]
        found = []
        for level in levels_of(axis, own):
            here = [(s, ppl) for s, ppl in figures if repr(s.values.get(axis)) == repr(level)]
            found.append(
                Level(
                    value_words(level) or "–",
                    tuple(ppl for _, ppl in here),
                    next((ppl for setting, ppl in here if setting.runs == chosen), None),
                )
            )
        return found
