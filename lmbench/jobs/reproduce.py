"""The published tables, as runs to make and figures to set beside them. No torch here.

The figures are those of PyTorch's word-language-model example, of Distiller's tutorials on pruning
and quantizing it, and of GluonNLP's models with a neural cache, all on WikiText-2. The pruning and
quantization tables are of 2x1500 models; at the scale ``small`` a model of 2x200 stands in, and
what compares is each row's change against its dense model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lmbench.config import (
    EvaluateConfig,
    PruneConfig,
    QuantizeConfig,
    TrainConfig,
    changed_settings,
    validate,
)
from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import Step, make_step
from lmbench.jobs.prepare import check_training
from lmbench.jobs.published_figures import (
    CACHED,
    PRUNED,
    PUBLISHED,
    QUANTIZED,
    QUANTIZED_DENSE,
    TRAINED,
)
from lmbench.session.store import LIVE, Run, Session

__all__ = ["SCALES", "TABLES", "Reproduction", "Row", "begin", "compared", "make_runs", "plan"]

TableName = Literal["training", "pruning", "quantization", "cache"]
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

_CACHE = {"cache": 2000}
_DYNAMIC = {"dynamic": "sgd"}
_TUNE = {"tune": True, "tune_tokens": 20_000}

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
    figure: str = "test_ppl"
    """Which of the run's results is the row's perplexity on test."""


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

    @property
    def note(self) -> str:
        """What must be said under the table; "" where nothing must."""
        if self.table == "cache":
            model = "2x200" if self.scale == "small" else "2x1500"
            return (
                f"published: GluonNLP's {model} on WikiText-2, 750 epochs: compare the changes\n"
                "dynamic evaluation is published of another model: AWD-LSTM on WikiText-2, 65.8 to "
                "44.3 (-32.7%)"
            )
        if self.relative and self.scale == "small":
            return "published: 2x1500 over 40 epochs; compare the changes"
        return ""


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
    elif table == "cache":
        dense = _trained(_DENSE[scale], given).step
        plain, cached = CACHED[scale]
        rows = [
            Row("plain", None, plain, dense),
            _adapted("cache", cached, "test_cache_ppl", _CACHE, given),
            _adapted("dynamic", None, "test_dynamic_ppl", _DYNAMIC, given),
            _adapted(
                "cache and dynamic", None, "test_cache_dynamic_ppl", {**_CACHE, **_DYNAMIC}, given
            ),
        ]
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


def _adapted(
    name: str,
    test: float | None,
    figure: str,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Row:
    """The trained model on test, its settings found on the start of valid."""
    config = validate(EvaluateConfig, {**_machine(given), **settings, **_TUNE})
    return Row(name, None, test, Step("evaluate", name, config, 0), figure)


def _machine(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in ("device", "threads")}


def _quantized(preset: str, given: Mapping[str, Any]) -> Row:
    published = {"calibrate_on": "valid", "calibration_tokens": _VALID_TOKENS}
    config = validate(QuantizeConfig, {**_machine(given), "preset": preset, **published})
    return Row(preset, QUANTIZED[preset], None, Step("quantize", preset, config, 0))


def make_runs(
    session: Session,
    reproduction: Reproduction,
    progress: Progress | None = None,
    model: Run | None = None,
) -> list[Run]:
    """For each row its run: the session's, where it has one with the same settings, else a new one.

    Args:
        model: is taken for the first row's.

    Raises:
        LmbenchError: the corpus or a schedule is wrong; nothing is made then.
    """
    for row in reproduction.rows:
        if isinstance(row.step.config, TrainConfig) and model is None:
            check_training(row.step.config, session.home, progress)
    runs: list[Run] = [] if model is None else [model]
    for row in reproduction.rows[len(runs) :]:
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
    first, top = _of_model(reproduction, runs), reproduction.rows[0]
    table = []
    for row, run in zip(reproduction.rows, runs, strict=True):
        record = run.read()
        results = first if run == runs[0] else record.results
        valid, test = results.get("valid_ppl"), results.get(row.figure)
        entry: dict[str, Any] = {
            "name": row.name,
            "run": run.ref,
            "status": run.status(),
            "published_valid_ppl": row.valid,
            "published_test_ppl": row.test,
            "valid_ppl": valid,
            "test_ppl": test,
            **{key: results.get(key) for key in ("sparsity", "nonzero")},
            "bytes": record.size.bytes,
        }
        if reproduction.relative:
            entry |= {
                "published_valid_change": _change(row.valid, top.valid),
                "published_test_change": _change(row.test, top.test),
                "valid_change": _change(valid, first.get("valid_ppl")),
                "test_change": _change(test, first.get("test_ppl")),
            }
        table.append(entry)
    return table


def _of_model(reproduction: Reproduction, runs: list[Run]) -> Mapping[str, Any]:
    """The first row's results. An imported model has no figures before it is evaluated: the
    evaluation with a cache gives that without one, too."""
    results = runs[0].read().results
    if reproduction.table == "cache" and results.get("test_ppl") is None:
        return {**results, "test_ppl": runs[1].read().results.get("test_ppl")}
    return results


def _change(value: float | None, base: float | None) -> float | None:
    return value / base - 1.0 if value and base else None
