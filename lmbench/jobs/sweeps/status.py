"""A sweep as a table: a row for each setting, over its seeds, with the axes that vary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmbench.config.setting import value_text
from lmbench.jobs.sweeps.kept_file import Made, made_records
from lmbench.jobs.sweeps.plan import Plan
from lmbench.jobs.sweeps.proposals import kept_plan, to_propose
from lmbench.printable import printable
from lmbench.report.seeds import Spread, inside_spread, one_setting, spread_of
from lmbench.session.records import ModelSize, RunRecord, Status
from lmbench.session.store import Run, Session

__all__ = [
    "STOPPED_EARLY",
    "WAITS",
    "Setting",
    "SweepStatus",
    "plotted",
    "status_of",
    "status_words",
    "sweep_status",
    "value_words",
]

WAITS, STOPPED_EARLY = "at a rung", "stopped early"
"""What a stopped run is called that early stopping holds until it knows more, or has stopped."""
_FROM = "from"
"""The column of the run that a row begins with, where they are several."""


@dataclass(frozen=True)
class Setting:
    """One setting of a stage over its seeds. Figures are of the finished runs alone; `stopped_at`
    has a line for each run that early stopping holds at a rung, or has stopped there.

    `behind` is how far its validation perplexity lies above the stage's best, as a share; `inside`
    whether that difference lies inside the spread of the two, None where one seed has none.
    """

    stage: str
    kind: str
    name: str
    values: dict[str, Any]
    runs: tuple[str, ...]
    statuses: dict[str, int]
    valid: Spread | None
    test: Spread | None
    sparsity: float | None
    size: ModelSize
    part_tokens: int | None
    corpus: str = ""
    """The fingerprint of the text that the perplexities are of."""
    stopped_at: tuple[str, ...] = ()
    behind: float | None = None
    inside: bool | None = None


@dataclass(frozen=True)
class SweepStatus:
    """`columns` are the axes that vary; `missing` runs are still to be made, and `to_propose`
    combinations still to be proposed by TPE; `stuck` runs wait for a parent that nobody works on.
    Statuses are those of runs, and `WAITS` and `STOPPED_EARLY`."""

    session: str
    columns: tuple[str, ...]
    rows: tuple[Setting, ...]
    statuses: dict[str, int]
    missing: int
    to_propose: int
    stuck: int


def sweep_status(session: Session) -> SweepStatus:
    """Where a session's sweep stands.

    Raises:
        LmbenchError: the session has no sweep.
    """
    plan, made = kept_plan(session), made_records(session)
    statuses: dict[str, Status] = {run.ref: run.status(record) for run, record in made.values()}
    return status_of(session.name, plan, made, statuses)


def status_of(name: str, plan: Plan, made: Made, statuses_now: Mapping[str, Status]) -> SweepStatus:
    """The same of runs that were read already, with the status of each by its name."""
    # One search has made its runs a stage after the other, another a combination after the other.
    points = sorted(plan.points, key=lambda point: point.stage)
    found = [made[point.key] for point in points if point.key in made]
    runs = [run for run, _ in found]
    records = {run.ref: record for run, record in found}
    statuses = {run.ref: status_words(statuses_now[run.ref], record) for run, record in found}
    titles = _titles(plan)
    groups = one_setting(runs, records)
    rows = _against_best([_row(plan, group, records, statuses, titles) for group in groups])
    shown = {title for row in rows for title in row.values}
    columns = [_FROM, *titles.values()]
    waits = (ref for ref, status in statuses.items() if status == "queued")
    ended = {ref for ref, status in statuses.items() if status in ("stopped", "lost")}
    return SweepStatus(
        name,
        tuple(title for title in columns if title in shown),
        tuple(rows),
        dict(Counter(statuses.values())),
        len(plan.points) - len(runs),
        to_propose(plan),
        sum(_is_stuck(ref, records, ended) for ref in waits),
    )


def status_words(status: Status, record: RunRecord) -> str:
    """What a run's status is called in a sweep, where early stopping may have brought it about."""
    if status == "stopped" and record.stopped_early:
        return WAITS if record.early_stopping == "waits" else STOPPED_EARLY
    return status


def _is_stuck(ref: str, records: dict[str, RunRecord], ended: set[str]) -> bool:
    """Does it wait for a run that was stopped or lost, itself or through those before it?"""
    parent = records[ref].parent
    seen: set[str] = set()
    while parent is not None and parent in records and parent not in seen:
        if parent in ended:
            return True
        seen.add(parent)
        parent = records[parent].parent
    return False


def _titles(plan: Plan) -> dict[tuple[str, str], str]:
    """The axes with several values, and what their columns are called: by the setting, with the
    stage where two stages vary it."""
    varying = [
        (plan.sweep.stages[stage].name, setting)
        for stage, setting, values in plan.axes
        if len(values) > 1
    ]
    often = Counter(setting for _, setting in varying)
    return {
        (stage, setting): setting if often[setting] == 1 else f"{stage} {setting}"
        for stage, setting in varying
    }


def _row(
    plan: Plan,
    group: Sequence[Run],
    records: dict[str, RunRecord],
    statuses: dict[str, str],
    titles: dict[tuple[str, str], str],
) -> Setting:
    own = [records[run.ref] for run in group]
    done = [records[run.ref] for run in group if statuses[run.ref] == "finished"]
    point = plan.points[plan.keys[own[0].point]]
    stage = plan.stage(point)
    values = plan.values(point)
    source = plan.source_run(point)
    shown = {} if source is None else {_FROM: source}
    shown |= {title: values[axis] for axis, title in titles.items() if axis in values}
    return Setting(
        stage=stage.name,
        kind=stage.kind,
        name=own[0].name,
        values=shown,
        runs=tuple(run.ref for run in group),
        statuses=dict(Counter(statuses[run.ref] for run in group)),
        valid=spread_of(record.results.get("valid_ppl") for record in done),
        test=spread_of(record.results.get("test_ppl") for record in done),
        sparsity=_mean(record.results.get("sparsity") for record in done),
        size=_size(done),
        part_tokens=own[0].part_tokens,
        corpus=next((record.corpus.fingerprint for record in done if record.corpus), ""),
        stopped_at=tuple(
            f"{run.ref}: {record.reason}"
            for run, record in zip(group, own, strict=True)
            if record.stopped_early
        ),
    )


def _mean(values: Any) -> float | None:
    spread = spread_of(values)
    return spread.mean if spread else None


def _size(records: Sequence[RunRecord]) -> ModelSize:
    sizes = [record.size for record in records]
    mean = _mean(size.bytes for size in sizes)
    return ModelSize(None if mean is None else round(mean), any(s.as_packed for s in sizes))


def _against_best(rows: list[Setting]) -> list[Setting]:
    """With each row's difference to the best of its stage, of those that are of the same text."""

    def alike(row: Setting) -> tuple[str, int | None, str]:
        return row.stage, row.part_tokens, row.corpus

    best: dict[tuple[str, int | None, str], Setting] = {}
    for row in rows:
        if row.valid is not None:
            known = best.setdefault(alike(row), row)
            if known.valid is not None and row.valid.mean < known.valid.mean:
                best[alike(row)] = row
    return [_compared(row, best.get(alike(row))) for row in rows]


def _compared(row: Setting, best: Setting | None) -> Setting:
    if best is None or best is row or row.valid is None or best.valid is None:
        return row
    inside = inside_spread(row.valid, best.valid) if row.valid.n > 1 and best.valid.n > 1 else None
    return replace(row, behind=row.valid.mean / best.valid.mean - 1.0, inside=inside)


def value_words(value: Any) -> str:
    """A value of an axis as tables have it: of a file its name alone; "" for none."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(map(value_words, value))
    return printable(value_text(value).rpartition("/")[2].removesuffix(".yaml"))


def plotted(row: Setting) -> dict[str, Any]:
    """A setting as `lmbench.report.pareto_front.front_plot` takes it."""
    found: dict[str, Any] = {
        "name": " ".join([row.stage, *map(value_words, row.values.values())]),
        "bytes": row.size.bytes,
        "as_packed": row.size.as_packed,
        "sparsity": row.sparsity,
        "part_tokens": row.part_tokens,
    }
    for split, spread in (("valid", row.valid), ("test", row.test)):
        found[f"{split}_ppl"] = spread.mean if spread else None
        found[f"{split}_ppl_deviation"] = spread.deviation if spread else None
    return found
