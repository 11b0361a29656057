"""The published tables, as runs to make and figures to set beside them. No torch here.

The figures are those of PyTorch's word-language-model example and of Distiller's tutorials on
pruning and quantizing it, all on WikiText-2. The pruning and quantization tables are of 2x1500
models; at the scale ``small`` a model of 2x200 stands in, and what compares is each row's change
against its dense model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lmbench.config import PruneConfig, QuantizeConfig, TrainConfig, changed_settings, validate
from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import Step, make_step
from lmbench.jobs.prepare import check_training
from lmbench.jobs.published_figures import PRUNED, PUBLISHED, QUANTIZED, QUANTIZED_DENSE, TRAINED
from lmbench.session.store import LIVE, Run, Session

__all__ = ["SCALES", "TABLES", "Reproduction", "Row", "begin", "compared", "make_runs", "plan"]

TableName = Literal["training", "pruning", "quantization"]
Scale = Literal["small", "large"]
TABLES: tuple[TableName, ...] = get_args(TableName)
SCALES: tuple[Scale, ...] = get_args(Scale)

# Of WikiText-2's valid: that many tokens calibrate the published rows.
_VALID_TOKENS = 217_646

_TRAININGS: Mapping[Scale, tuple[str, ...]] = {
    "small": ("small", "small-tied"),
    "large": ("small-tied-40", "medium-tied", "large-tied"),
}
_DENSE: Mapping[Scale, str] = {"small": "small-tied", "large": "large-tied"}

_LEVELS: Mapping[Scale, tuple[str, ...]] = {
    "small": ("70", "80", "90", "95"),
    "large": ("70", "70b", "80", "90", "95"),
}


@dataclass(frozen=True)
class Row:
    """A row of a published table, and the run that makes ours."""

    name: str
    valid: float | None
    test: float | None
    step: Step


@dataclass(frozen=True)
class Reproduction:
    """A table to reproduce; the first row is what the others are measured against."""

    table: TableName
    scale: Scale
    rows: tuple[Row, ...]

    @property
    def relative(self) -> bool:
        """Do the rows say how much worse they are than the first?"""
        return self.table != "training"


def plan(table: str, scale: str, changes: Mapping[str, Any] | None = None) -> Reproduction:
    """The rows of a table and the runs that they need, each after its parent.

    Args:
        changes: settings of the trainings that are to differ (corpus, device, threads).

    Raises:
        LmbenchError: there is no such table or scale.
    """
    if table not in TABLES:
        raise LmbenchError(f"table {table!r}: use one of {', '.join(TABLES)}")
    if scale not in SCALES:
        raise LmbenchError(f"--scale {scale!r}: use one of {', '.join(SCALES)}")
    given = dict(changes or {})
    if table == "training":
        rows = [_trained(name, given) for name in _TRAININGS[scale]]
    elif table == "pruning":
        dense = _trained(_DENSE[scale], given).step
        # What was pruned is a 2x1500 model, at either scale.
        rows = [Row("dense", *TRAINED[_DENSE["large"]], dense)]
        rows += [_pruned(scale, level, given) for level in _LEVELS[scale]]
    else:
        dense = _trained(_DENSE[scale], given).step
        rows = [Row("fp32", QUANTIZED_DENSE, None, dense)]
        rows += [_quantized(preset, given) for preset in QUANTIZED]
    return Reproduction(table, scale, tuple(rows))


def _settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    training = next(published for published in PUBLISHED if published.name == name)
    return {**training.settings, **given}


def _trained(name: str, given: Mapping[str, Any]) -> Row:
    valid, test = TRAINED[name]
    config = validate(TrainConfig, _settings(name, given))
    return Row(name, valid, test, Step("train", name, config))


def _pruned(scale: Scale, level: str, given: Mapping[str, Any]) -> Row:
    """From scratch, over as many epochs as the dense model, as published."""
    schedule = f"{scale}-{level}"
    config = validate(PruneConfig, {**_settings(_DENSE[scale], given), "compress": schedule})
    return Row(schedule, *PRUNED[level], Step("prune", schedule, config))


def _quantized(preset: str, given: Mapping[str, Any]) -> Row:
    machine = {name: value for name, value in given.items() if name in ("device", "threads")}
    published = {"calibrate_on": "valid", "calibration_tokens": _VALID_TOKENS}
    config = validate(QuantizeConfig, {**machine, "preset": preset, **published})
    return Row(preset, QUANTIZED[preset], None, Step("quantize", preset, config, 0))


def make_runs(
    session: Session, reproduction: Reproduction, progress: Progress | None = None
) -> list[Run]:
    """For each row its run: the session's, where it has one with the same settings, else a new one.

    Raises:
        LmbenchError: the corpus or a schedule is wrong; nothing is made then.
    """
    for row in reproduction.rows:
        if isinstance(row.step.config, TrainConfig):
            check_training(row.step.config, session.home, progress)
    runs: list[Run] = []
    for row in reproduction.rows:
        parent = None if row.step.parent is None else runs[row.step.parent]
        runs.append(_known(session, row.step, parent) or make_step(session, row.step, parent))
    return runs


def _known(session: Session, step: Step, parent: Run | None) -> Run | None:
    wanted = (step.kind, changed_settings(step.config), parent and parent.ref)
    for run in session.runs():
        try:
            record = run.read()
        except LmbenchError:
            # A damaged record is no run to take over; lists show what is wrong with it.
            continue
        if (record.kind, record.config, record.parent) == wanted:
            return run
    return None


def begin(run: Run, *, queue: bool) -> None:
    """Have a run worked on that is not finished: started, or gone on with where it stopped.

    Raises:
        LmbenchError: its process cannot be started.
    """
    from lmbench.jobs import launch

    status = run.status()
    if status == "finished" or status in LIVE:
        return
    if status == "queued":
        launch.start(run, queue=queue)
    else:
        launch.resume(run, queue=queue)


def compared(reproduction: Reproduction, runs: list[Run]) -> list[dict[str, Any]]:
    """The table: each published row beside ours.

    ``…_change`` is the ratio to the table's first row, less 1; None where either is not known.
    """
    first = runs[0].read().results
    top = reproduction.rows[0]
    table = []
    for row, run in zip(reproduction.rows, runs, strict=True):
        record = run.read()
        results = record.results
        entry: dict[str, Any] = {
            "name": row.name,
            "run": run.ref,
            "status": run.status(),
            "published_valid_ppl": row.valid,
            "published_test_ppl": row.test,
            **{key: results.get(key) for key in ("valid_ppl", "test_ppl", "sparsity", "nonzero")},
            "bytes": record.size.bytes,
        }
        if reproduction.relative:
            entry |= {
                "published_valid_change": _change(row.valid, top.valid),
                "published_test_change": _change(row.test, top.test),
                "valid_change": _change(results.get("valid_ppl"), first.get("valid_ppl")),
                "test_change": _change(results.get("test_ppl"), first.get("test_ppl")),
            }
        table.append(entry)
    return table


def _change(value: float | None, base: float | None) -> float | None:
    return value / base - 1.0 if value and base else None
