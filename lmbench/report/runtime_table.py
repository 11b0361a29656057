"""What benchmarks of this machine found of runs, a row for each runtime. No torch here."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmbench.session.store import Run

__all__ = [
    "RUNTIME_COLUMNS",
    "SCORED",
    "benchmarked",
    "runtime_cell",
    "scored_text",
    "scores_note",
]

RUNTIME_COLUMNS = (
    ("model", "Model"),
    ("runtime", "Runtime"),
    ("disk", "Disk MB"),
    ("numbers", "Weights MB"),
    ("peak", "Peak MB"),
    ("ms", "ms/word"),
    ("ms_p95", "p95"),
    ("step_vs_naive", "x naive"),
    ("step_vs_fp32", "x fp32"),
    ("tokens_per_s", "Scored tok/s"),
    ("score_vs_naive", "x naive"),
    ("score_vs_fp32", "x fp32"),
    ("ppl", "Ppl"),
)
"""Keys of `lmbench.deploy.benchmark.Row` and how a table heads them.

Disk is the model's file, weights what the runtime makes of them and holds in memory. Ratios are to
torch's own layers and to the fastest dense fp32 runtime: of the step first, then of scoring.
"""

SCORED = ("tokens", "split_tokens")
"""Keys of a row that `scores_note` puts in words: the tokens of test that its perplexity is of, and
all that test has. Rows of early benchmarks have neither."""

_FORMS = {
    "ms": "{:.3f}",
    "ms_p95": "{:.3f}",
    "step_vs_naive": "{:.1f}",
    "step_vs_fp32": "{:.1f}",
    "tokens_per_s": "{:,.0f}",
    "score_vs_naive": "{:.1f}",
    "score_vs_fp32": "{:.1f}",
    "ppl": "{:.3f}",
}


def runtime_cell(key: str, value: Any) -> str:
    """A number of a row as tables show it; "" where it was not measured."""
    if value is None:
        return ""
    match key:
        case "disk" | "numbers":
            return f"{value / 1e6:.2f}"
        case "peak":
            return f"{value / 1e6:.0f}"
    return _FORMS[key].format(value) if key in _FORMS else str(value)


def scored_text(row: Mapping[str, Any]) -> str:
    """What the row's perplexity is of, as it stands after "ppl of"; "" where it has none."""
    if row.get("ppl") is None:
        return ""
    tokens, whole = (row.get(key) for key in SCORED)
    if tokens is None:
        return "an unrecorded part of test"
    return "test" if tokens == whole else f"the first {tokens:,} tokens of test"


def scores_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the perplexities of a table of runtimes are of; "" where it has none."""
    models: dict[str, dict[str, None]] = {}
    for row in rows:
        if text := scored_text(row):
            models.setdefault(text, {})[row["model"]] = None
    if not models:
        return ""
    texts = [f"{text} ({', '.join(of)})" for text, of in models.items()]
    note = f"Ppl of {'; of '.join(texts if len(models) > 1 else models)}"
    return note + ("; a run's own test ppl is of all of test" if set(models) != {"test"} else "")


def end_of(run: Run) -> float:
    """Since when a run's figures are of the model that it has: when it ended, or last went on where
    it has no end yet; minus infinity where nobody has noted it."""
    record = run.read()
    noted = record.started if record.ended is None else record.ended
    return -math.inf if noted is None else noted


def benchmarked(runs: Sequence[Run]) -> Mapping[Path, list[dict[str, Any]]]:
    """By folder of a run the rows of the newest benchmark that measured it on this machine.

    Rows of different benchmarks are not mixed: only those of one were measured in turns. When that
    began is each row's ``measured``. Benchmarks are looked for in the sessions of `runs`; damaged
    ones are passed over, and those of a model that was trained on since.
    """
    ends, found = {run.path: end_of(run) for run in runs}, dict[Path, list[dict[str, Any]]]()
    by_name = {(run.home.path, run.ref): run.path for run in runs}
    sessions = {run.session.path: run.session for run in runs}
    for session in sessions.values():
        for _, record in session.records():
            if record.kind != "benchmark" or record.host != platform.node():
                continue
            began = {"measured": record.started or record.created}
            rows: dict[Path, list[dict[str, Any]]] = {}
            for row in record.results.get("rows", ()):
                path = by_name.get((session.home.path, row.get("model")))
                if path is not None and began["measured"] >= ends[path]:
                    rows.setdefault(path, []).append(row | began)
            for path, measured in rows.items():
                before = found.get(path)
                if before is None or before[0]["measured"] <= began["measured"]:
                    found[path] = measured
    return found
