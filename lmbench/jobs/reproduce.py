"""The runs of a published table, and the table that their figures make. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmbench.config import TrainConfig, changed_settings
from lmbench.corpus.files import Progress
from lmbench.jobs.chains import Step, make_step
from lmbench.jobs.prepare import check_training
from lmbench.jobs.published_tables import Reproduction
from lmbench.report.runtime_table import end_of
from lmbench.report.seeds import spread_of
from lmbench.session import read_events
from lmbench.session.store import LIVE, Home, Run, RunRecord, Session

__all__ = ["begin", "check_rows", "compared", "make_runs", "over_seeds"]


def check_rows(
    reproduction: Reproduction, home: Home, progress: Progress | None = None
) -> str | None:
    """See that the runs of a table can be made; gives the fingerprint of their corpus.

    Raises:
        LmbenchError: the corpus or a schedule is wrong.
    """
    found = None
    for row in reproduction.rows:
        if isinstance(row.step.config, TrainConfig):
            has_parent = row.step.parent is not None
            corpus = check_training(row.step.config, home, progress, has_parent=has_parent)
            found = corpus.fingerprint
    return found


def make_runs(
    session: Session,
    reproduction: Reproduction,
    model: Run | None = None,
    text: str | None = None,
) -> list[Run]:
    """For each row its run: the session's, where it has one with the same settings that did not
    begin before its parent was finished, else a new one.

    Args:
        model: is taken for the first row's.
        text: fingerprint of the corpus; runs of another text of its name do not count. None where
            any does.
    """
    runs: list[Run] = [] if model is None else [model]
    for row in reproduction.rows[len(runs) :]:
        parent = None if row.step.parent is None else runs[row.step.parent]
        # A model that is given may be a stopped one: whoever gives it means to.
        given = parent is not None and parent == model
        whole = -math.inf if parent is None else end_of(parent) if given else _end_of(parent)
        known = _known(session, row.step, parent, whole, text)
        runs.append(known or make_step(session, row.step, parent))
    return runs


def _end_of(run: Run) -> float:
    """When it was finished; infinity for not yet."""
    record = run.read()
    return math.inf if record.status != "finished" or record.ended is None else record.ended


def _known(
    session: Session, step: Step, parent: Run | None, since: float, text: str | None
) -> Run | None:
    """The session's run of a step, if it has one that has not begun or did so after `since`."""
    wanted = (step.kind, changed_settings(step.config), parent and parent.ref)
    for run, record in session.records():
        if text and record.corpus and record.corpus.fingerprint != text:
            continue
        if (record.kind, record.config, record.parent) == wanted and _began(run, record) >= since:
            return run
    return None


def _began(run: Run, record: RunRecord) -> float:
    """When it took its parent's model; infinity for not yet. What is resumed goes on with what an
    earlier attempt had made of that: the first event that counts is of that attempt."""
    if record.started is None:
        return math.inf
    events = read_events(run.events_path) if record.attempt > 1 else []
    return min([record.started, *(event.t for event in events[:1])])


def begin(run: Run) -> Run:
    """Have the queue work on a run that is not finished: started, or gone on with where it stopped.
    Gives the run.

    Raises:
        LmbenchError: its process cannot be started.
    """
    from lmbench.jobs import launch

    status = run.status()
    if status == "queued":
        launch.start(run)
    elif status != "finished" and status not in LIVE:
        launch.resume(run)
    return run


def compared(reproduction: Reproduction, runs: list[Run]) -> list[dict[str, Any]]:
    """The table: each published row beside ours.

    ``…_change`` is the ratio to the table's first row, less 1; None where either is not known.
    """
    both = zip(reproduction.rows, runs, strict=True)
    shown = [(row, run) for row, run in both if row.shown]
    top, model = shown[0][0].published, shown[0][1]
    first = _of_model(reproduction, model, runs)
    table = []
    for row, run in shown:
        record, published = run.read(), row.published
        results = first if run == model else record.results
        valid, test = results.get("valid_ppl"), results.get(row.figure)
        entry: dict[str, Any] = {
            "name": row.name,
            "run": run.ref,
            "status": run.status(),
            "published_valid_ppl": published.valid,
            "published_test_ppl": published.test,
            "published_note": published.note,
            "valid_ppl": valid,
            "test_ppl": test,
            **{key: results.get(key) for key in ("sparsity", "nonzero")},
            "bytes": record.size.bytes,
            # Of the packed file; a training's is of training.
            "tokens_per_s": results.get("tokens_per_s") if record.kind == "pack" else None,
        }
        if reproduction.relative:
            entry |= {
                "published_valid_change": _change(published.valid, top.valid),
                "published_test_change": _change(published.test, top.test),
                "valid_change": _change(valid, first.get("valid_ppl")),
                "test_change": _change(test, first.get("test_ppl")),
            }
        table.append(entry)
    return table


_SHARED = ("sparsity", "nonzero", "bytes", "tokens_per_s")
_COUNTS = ("nonzero", "bytes")
_OURS = ("valid_ppl", "test_ppl", "valid_change", "test_change", *_SHARED)


def over_seeds(tables: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One table of several that differ in seed alone: the means of our figures, each change
    against the dense model of its own seed; of the perplexities the sample standard deviation, too,
    and of how many seeds it is. What a run had when it was stopped, or has so far, is left out."""
    if len(tables) == 1:
        return tables[0]
    merged = []
    begun = [table[0]["status"] == "finished" for table in tables]
    for rows in zip(*tables, strict=True):
        done = [row for row, dense in zip(rows, begun, strict=True)
                if dense and row["status"] == "finished"]  # fmt: skip
        entry = {**rows[0], "runs": [row["run"] for row in rows], "n": len(rows)}
        open_ones = [row["status"] for row in rows if row["status"] != "finished"]
        entry["status"] = open_ones[0] if open_ones else "finished"
        for key in _OURS:
            spread = spread_of(row.get(key) for row in done)
            if key in entry:
                mean = spread.mean if spread else None
                entry[key] = round(mean) if mean is not None and key in _COUNTS else mean
            if key.endswith("_ppl"):
                entry[f"{key}_deviation"] = spread.deviation if spread else None
                entry[f"{key}_n"] = spread.n if spread else 0
        merged.append(entry)
    return merged


def _of_model(reproduction: Reproduction, model: Run, runs: list[Run]) -> Mapping[str, Any]:
    """The first row's results. An imported model has no figures before it is evaluated: the
    evaluation with a cache gives that without one, too."""
    results = model.read().results
    if reproduction.table == "cache" and results.get("test_ppl") is None:
        return {**results, "test_ppl": runs[1].read().results.get("test_ppl")}
    return results


def _change(value: float | None, base: float | None) -> float | None:
    return value / base - 1.0 if value and base else None
