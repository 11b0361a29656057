"""Runs side by side, in the form of the published tables. No torch here."""

from __future__ import annotations

import html
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmbench.errors import LmbenchError
from lmbench.printable import csv_text, one_line, printable
from lmbench.report import numbers
from lmbench.report.model_card import markdown_text, scored_checkpoint
from lmbench.report.run_command import run_command
from lmbench.report.runtime_table import (
    RUNTIME_COLUMNS,
    SCORED,
    benchmarked,
    end_of,
    runtime_cell,
    scores_note,
)
from lmbench.report.seeds import Spread, one_setting, spread_of
from lmbench.report.tables import AS_PACKED, OF_A_PART, PART_SIGN
from lmbench.session.store import Run, RunRecord, Session

__all__ = [
    "ADAPTED",
    "COLUMNS",
    "MEASURABLE",
    "OF_ADAPTED",
    "OVER_SEEDS",
    "SEED_KEYS",
    "Comparison",
    "compare_runs",
    "compare_runtimes",
    "report_session",
    "runtime_table",
]

Format = Literal["markdown", "csv", "latex", "html"]

COLUMNS = (
    ("run", "Run"),
    ("name", "Name"),
    ("kind", "Kind"),
    ("corpus", "Corpus"),
    ("sparsity", "Sparsity"),
    ("nonzero", "Non-zero parameters"),
    ("valid_ppl", "Valid ppl"),
    ("test_ppl", "Test ppl"),
    ("bytes", "Bytes"),
    ("ms_per_token", "ms a token"),
)
PER_UNIT = (
    ("test_word_ppl", "Test ppl a word"),
    ("test_bits_per_character", "Test bits a character"),
)
"""Columns of runs on a corpus that knows its words and characters (`Corpus.figures`)."""
ADAPTED = (
    ("test_cache_ppl", "Test ppl, cache"),
    ("test_dynamic_ppl", "Test ppl, dynamic"),
    ("test_cache_dynamic_ppl", "Test ppl, cache and dynamic"),
)
"""Columns of runs that were evaluated with a neural cache or by dynamic evaluation."""
OF_ADAPTED = (
    "cache, dynamic: of the newest `lmbench evaluate --cache`, `--dynamic` of all of test; such a "
    "figure compares with its like alone"
)
SEED_KEYS = (
    *("runs", "n", "valid_ppl_deviation", "valid_ppl_n", "test_ppl_deviation", "test_ppl_n"),
)
"""What a row over several seeds has besides: its runs and how many, and of each perplexity the
sample standard deviation and of how many seeds it is."""
_ALWAYS = frozenset(key for key, _ in COLUMNS if key not in ("ms_per_token", "corpus"))
_PERPLEXITIES = ("valid_ppl", "test_ppl")
_OF_TEXT = (*_PERPLEXITIES, *(key for key, _ in ADAPTED))
_FURTHER = tuple(key for key, _ in (*ADAPTED, *PER_UNIT))
_EARLY = ", stopped early"
_LEFT = {"run", "name", "kind", "corpus", "model", "runtime"}

OVER_SEEDS = "± the sample standard deviation over n runs that differ in seed alone"
"""What a spread in a table is, for a line under it."""

_KEEPING = {"train": ("exact",), "prune": ("exact",), "pack": ("exact", "close")}
"""By kind of run the accuracies of the runtimes that keep to its perplexity."""

MEASURABLE = frozenset(_KEEPING)
"""Kinds of run whose speed a benchmark can say."""


@dataclass(frozen=True)
class Comparison:
    """A table: one dictionary a run with the keys of `COLUMNS` (the published style), or one a
    run and runtime with those of `RUNTIME_COLUMNS`."""

    rows: tuple[dict[str, Any], ...]
    columns: tuple[tuple[str, str], ...] = COLUMNS
    beside: tuple[str, ...] = ()
    """Keys without a column, which CSV has all the same: elsewhere `note` says them in words."""

    @property
    def keys(self) -> tuple[str, ...]:
        """All that is told of a row."""
        return (*(key for key, _ in self.columns), *self.beside)

    def cells(self) -> list[list[str]]:
        """The rows as they are written; "" where a number is not known."""
        return [[_cell(key, row) for key, _ in self.columns] for row in self.rows]

    @property
    def note(self) -> str:
        """What must be said under the written table; "" where nothing must."""
        packed = any(row.get("as_packed") and row.get("bytes") is not None for row in self.rows)
        part = any(row.get("part_tokens") for row in self.rows)
        seeds = any(row.get("n") for row in self.rows)
        adapted = any(row.get(key) is not None for row in self.rows for key, _ in ADAPTED)
        notes = [AS_PACKED] * packed + [OF_A_PART] * part + [OVER_SEEDS] * seeds
        notes += [OF_ADAPTED] * adapted
        return "; ".join(notes) or scores_note(self.rows)

    def alignment(self) -> str:
        """For each column ``l`` (words) or ``r`` (numbers)."""
        return "".join("l" if key in _LEFT else "r" for key, _ in self.columns)

    def text(self) -> str:
        """The table in aligned columns, for a log, with its `note`; "-" where a number is not
        known."""
        body = [[cell or "-" for cell in row] for row in self.cells()]
        lines = [[head for _, head in self.columns], *body]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [str.ljust if side == "l" else str.rjust for side in self.alignment()]
        table = "\n".join(
            "  ".join(
                put(cell, width) for put, cell, width in zip(sides, line, widths, strict=True)
            ).rstrip()
            for line in lines
        )
        return table + (f"\n{self.note}" if self.note else "")

    def write(self, form: Format) -> str:
        """The table as text of that format, with its `note`; CSV has numbers alone (of pruned and
        quantized runs the bytes are those that they would have packed), and what is `beside` the
        columns."""
        heads = [head for _, head in self.columns]
        match form:
            case "markdown":
                rule = [("---" if key in _LEFT else "---:") for key, _ in self.columns]
                body = [list(map(markdown_text, row)) for row in self.cells()]
                table = "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *body])
                # A sign that it explains would begin a list.
                note = self.note.replace("*", "\\*")
                return table + (f"\n{note}\n" if note else "")
            case "csv":
                return csv_text([self.keys, *self._values()])
            case "latex":
                table = _latex(heads, self.alignment(), self.cells())
                return table + (f"% {self.note}\n" if self.note else "")
            case "html":
                note = f"<p>{html.escape(self.note)}</p>\n" if self.note else ""
                return _html(heads, self.cells()) + note

    def _values(self) -> list[list[Any]]:
        return [[row.get(key) for key in self.keys] for row in self.rows]


def compare_runs(runs: Sequence[Run], *, over_seeds: bool = False) -> Comparison:
    """The table of these runs, in their order; `over_seeds` makes one row, with the means, of runs
    that differ in seed alone.

    `ms_per_token` is the fastest of the newest benchmarks on this machine, in runtimes that keep to
    the perplexity of the row: fp32 for trained and pruned runs, the integers of the file for packed
    ones. A quantize run has none: it is a simulation until it is packed.
    """
    measured, adapted, names = benchmarked(runs), _adapted(runs), _names(runs)
    texts = _texts(run.read() for run in runs)
    of_run: dict[Path, dict[str, Any]] = {}
    for run in runs:
        record = run.read()
        row = _row(run, record, measured.get(run.path, ()))
        text = record.corpus.fingerprint if record.corpus else ""
        named = {"run": names[run.path], "corpus": texts.get(text), "fingerprint": text}
        of_run[run.path] = row | named | adapted.get(run.path, {})
    rows = tuple(of_run[run.path] for run in runs)
    beside = ("part_tokens",) * any(row["part_tokens"] for row in rows)
    if over_seeds:
        groups = [[of_run[run.path] for run in group] for group in one_setting(runs)]
        # A figure of a part of a training is no sample of what the whole one comes to.
        apart: list[list[dict[str, Any]]] = []
        for group in groups:
            apart.append([row for row in group if row["finished"]])
            apart.append([row for row in group if row["early"]])
            apart += [[row] for row in group if not (row["finished"] or row["early"])]
        groups = [group for group in apart if group]
        rows = tuple(group[0] if len(group) == 1 else _mean_row(group) for group in groups)
        beside += SEED_KEYS * any(len(group) > 1 for group in groups)
    columns = tuple(
        (key, head)
        for key, head in (*COLUMNS, *ADAPTED, *PER_UNIT)
        if key in _ALWAYS
        or (len(texts) > 1 if key == "corpus" else any(_tells(key, row) for row in rows))
    )
    if "n" in beside:
        further = [key for key, _ in columns if key in _FURTHER]
        beside += tuple(f"{key}_{what}" for key in further for what in ("deviation", "n"))
    beside = (*(key for key, head in COLUMNS if (key, head) not in columns), *beside)
    return Comparison(rows, columns, beside)


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run is called: by its reference, and of several working folders that have the same
    by its path."""
    paths: dict[str, set[Path]] = {}
    for run in runs:
        paths.setdefault(run.ref, set()).add(run.path)
    return {run.path: run.ref if len(paths[run.ref]) == 1 else str(run.path) for run in runs}


def _texts(records: Iterable[RunRecord]) -> dict[str, str]:
    """The corpora by their fingerprints; of several of one name each with the start of its own."""
    names = {r.corpus.fingerprint: one_line(r.corpus.name) for r in records if r.corpus}
    often = Counter(names.values())
    return {text: name if often[name] == 1 else f"{name} {text[:6]}"
            for text, name in names.items()}  # fmt: skip


def _tells(key: str, row: Mapping[str, Any]) -> bool:
    """Has the row something to say in this column that it has not said in another?"""
    value, ppl = row[key], row["test_ppl"]
    is_said = key == "test_word_ppl" and ppl and value and math.isclose(value, ppl, rel_tol=1e-4)
    return bool(value) and not is_said


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of runs that differ in seed alone: means, and what `SEED_KEYS` name."""
    mean = dict(rows[0]) | {"runs": " ".join(row["run"] for row in rows), "n": len(rows)}
    early = any(row["early"] for row in rows)
    names = [row["name"].removesuffix(_EARLY) for row in rows]
    mean |= {"name": _common_name(names) + _EARLY * early, "early": early}
    mean["as_packed"] = any(row["as_packed"] for row in rows if row["bytes"])
    for key in ("sparsity", "nonzero", "bytes", "ms_per_token", *_PERPLEXITIES, *_FURTHER):
        spread = spread_of(row[key] for row in rows)
        whole = key in ("nonzero", "bytes")
        mean[key] = None if spread is None else round(spread.mean) if whole else spread.mean
        if key in (*_PERPLEXITIES, *_FURTHER):
            mean[f"{key}_deviation"] = spread.deviation if spread else None
            mean[f"{key}_n"] = spread.n if spread else 0
    return mean


def compare_runtimes(runs: Sequence[Run]) -> Comparison:
    """A line for each run and runtime, of the newest benchmark on this machine that measured it."""
    measured, names = benchmarked(runs), _names(runs)
    return runtime_table(
        [row | {"model": names[run.path]} for run in runs for row in measured.get(run.path, ())]
    )


def runtime_table(rows: Sequence[dict[str, Any]]) -> Comparison:
    """A benchmark's rows as a table."""
    return Comparison(tuple(rows), RUNTIME_COLUMNS, SCORED)


def _row(run: Run, record: RunRecord, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    results, size = record.results, record.size
    return {
        "run": run.ref,
        "name": one_line(record.name) + _EARLY * record.stopped_early,
        "early": record.stopped_early,
        "finished": _is_whole(run, record),
        "kind": record.kind,
        "sparsity": results.get("sparsity"),
        "nonzero": results.get("nonzero"),
        "valid_ppl": results.get("valid_ppl"),
        "test_ppl": results.get("test_ppl"),
        **{key: results.get(key) for key in _FURTHER},
        "bytes": size.bytes,
        "as_packed": size.as_packed,
        "part_tokens": record.part_tokens,
        "ms_per_token": _fastest(measured, record.kind),
    }


def _is_whole(run: Run, record: RunRecord) -> bool:
    """Is it finished, and what it came from too? Those that are gone are taken to have been."""
    if run.status(record) != "finished":
        return False
    parent = run.home.run_of(record.parent) if record.parent else None
    try:
        return parent is None or _is_whole(parent, parent.read())
    except (LmbenchError, RecursionError):
        return True


def _adapted(runs: Sequence[Run]) -> Mapping[Path, dict[str, float]]:
    """By folder of a run the figures of `ADAPTED`, each of the newest evaluation of all of test
    on the run's own corpus, by the checkpoint that the run's own score is of."""
    by_name = {(run.home.path, run.ref): run for run in runs}
    scored = {run.path: scored_checkpoint(run.read()) or "best" for run in runs}
    ends = {run.path: end_of(run) for run in runs}
    found = dict[Path, dict[str, float]]()
    for session in {run.session.path: run.session for run in runs}.values():
        for _, record in session.records():
            parent = by_name.get((session.home.path, record.parent or ""))
            if record.kind != "evaluate" or parent is None or record.part_tokens:
                continue
            if "data" in record.config:
                continue
            if record.config.get("checkpoint", "best") != scored[parent.path]:
                continue
            if (record.started or record.created) < ends[parent.path]:
                continue
            figures = {key: record.results[key] for key, _ in ADAPTED if key in record.results}
            found[parent.path] = found.get(parent.path, {}) | figures
    return found


def _common_name(names: Sequence[str]) -> str:
    """The words that names begin with in common: those of seeds end with the seed."""
    words = zip(*(name.split(" ") for name in names), strict=False)
    common = itertools.takewhile(lambda column: len(set(column)) == 1, words)
    return " ".join(column[0] for column in common) or names[0]


def _fastest(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Milliseconds a token in the fastest runtime that keeps to the run's perplexity."""
    keeping = _KEEPING.get(kind, ())
    return min((r["ms"] for r in rows if "ms" in r and r.get("accuracy") in keeping), default=None)


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = row.get(key)
    if value is None:
        return ""
    match key:
        case "sparsity":
            return f"{100 * value:.1f}%"
        case "bytes":
            return f"{'≈' if row.get('as_packed') else ''}{value:,}"
        case "nonzero":
            return f"{value:,}"
        case _ if key in _OF_TEXT:
            return _figure(key, row) + (PART_SIGN if row.get("part_tokens") else "")
        case "run" if row.get("n"):
            return f"{value} +{row['n'] - 1}"
        case "test_word_ppl" | "test_bits_per_character":
            return _figure(key, row, 3 if key.endswith("character") else 2)
        case "ms_per_token":
            return f"{value:.2f}"
    return runtime_cell(key, value)


def _figure(key: str, row: Mapping[str, Any], digits: int = 2) -> str:
    """Over several seeds with its spread; where one alone has it, that is said."""
    n = row.get(f"{key}_n", 1)
    text = Spread(row[key], row.get(f"{key}_deviation"), n).text(digits)
    return f"{text}, n = 1" if n == 1 < row.get("n", 1) else text


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
          "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
          "≈": r"$\approx$"}  # fmt: skip


def _latex(heads: list[str], align: str, rows: list[list[str]]) -> str:
    def escape(cell: str) -> str:
        return "".join(_LATEX.get(character, character) for character in cell)

    lines = [rf"\begin{{tabular}}{{{align}}}", r"\hline"]
    for number, row in enumerate([heads, *rows]):
        lines.append(" & ".join(map(escape, row)) + r" \\")
        if number == 0:
            lines.append(r"\hline")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _html(heads: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        parts = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{parts}</tr>"

    body = "\n".join([line(heads, "th"), *(line(row, "td") for row in rows)])
    return f"<table>\n{body}\n</table>\n"


_IN_RUNTIMES = "In each runtime, as measured on this machine"

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;"
    "text-align:left}svg{max-width:100%}"
)


def report_session(session: Session, form: Literal["markdown", "html"]) -> str:
    """A session as one document: its table, its curves, and how each run was made."""
    from lmbench.report.pareto_front import front_plot
    from lmbench.report.plots.export import as_svg
    from lmbench.report.plots.layout import Plot

    record, (runs, damaged) = session.read(), readable(session.runs())
    comparison, speeds = compare_runs(runs, over_seeds=True), compare_runtimes(runs)
    table = comparison.write(form)
    runtimes = speeds.write(form) if speeds.rows else ""
    made = [_made(run) for run in runs] + damaged
    title = f"Session {session.name}"
    when = time.strftime("%F %R", time.localtime(record.created))
    if form == "markdown":
        parts = [f"# {title}", f"Begun {when}.", record.notes, table]
        parts += [f"## {_IN_RUNTIMES}", runtimes] if runtimes else []
        parts += ["## How each was made"]
        parts += [
            f"- {markdown_text(name)}: {text}" + (f"\n\n      {command}" if command else "")
            for name, text, command in made
        ]
        return printable("\n\n".join(part for part in parts if part)) + "\n"
    series = _valid_curves(runs)
    plot = as_svg(Plot(series, log=True), "Validation perplexity") if series else ""
    # An evaluation has its parent's size and a perplexity of its own, but is no other model.
    front = front_plot([row for row in comparison.rows if row["kind"] != "evaluate"])
    if front is not None:
        plot += "\n" + as_svg(front, "Test perplexity against size")
    items = "\n".join(_item(*parts) for parts in made)
    title = html.escape(title)
    if runtimes:
        runtimes = f"<h2>{_IN_RUNTIMES}</h2>\n{runtimes}\n"
    return printable(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>Begun {when}. {html.escape(record.notes)}</p>\n{table}\n{plot}\n{runtimes}"
        f"<h2>How each was made</h2>\n<ul>\n{items}\n</ul>\n</html>\n"
    )


def readable(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[str, str, str]]]:
    """The runs whose records can be read, and for each other what is wrong, as `_made` has it."""
    readable: list[Run] = []
    damaged: list[tuple[str, str, str]] = []
    for run in runs:
        try:
            run.read()
        except LmbenchError as error:
            damaged.append((run.ref, f"damaged: {printable(error.message)}", ""))
        else:
            readable.append(run)
    return readable, damaged


def _item(name: str, text: str, command: str) -> str:
    name, text, command = html.escape(name), html.escape(text), html.escape(command)
    return f"<li><b>{name}</b> {text}<br><code>{command}</code></li>"


def _made(run: Run) -> tuple[str, str, str]:
    record = run.read()
    parts = [run.status(record), numbers.duration(record.results.get("seconds"))]
    parts += [numbers.size(*record.size), record.device]
    return run.ref, ", ".join(part for part in parts if part), run_command(run, record)


def _valid_curves(runs: Sequence[Run]) -> tuple[Any, ...]:
    import numpy as np

    from lmbench.report.plots.series import MARKERS, Series
    from lmbench.session.event_log import read_events
    from lmbench.session.events import Epoch

    series = []
    for run in runs:
        epochs = [e for e in read_events(run.events_path) if isinstance(e, Epoch)]
        if epochs:
            x = np.array([e.step for e in epochs], dtype=np.float64)
            y = np.array([e.valid_ppl for e in epochs], dtype=np.float64)
            marker = MARKERS[(run.id - 1) % len(MARKERS)]
            series.append(Series(run.ref, x, y, marker, None, "points"))
    return tuple(series)
