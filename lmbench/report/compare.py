"""Runs side by side, in the form of the published tables. No torch here."""

from __future__ import annotations

import html
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmbench.errors import LmbenchError
from lmbench.report.tables import AS_PACKED, human_bytes, human_time, plain, size_sign
from lmbench.session.store import Run, RunRecord, Session

__all__ = ["COLUMNS", "MEASURABLE", "Comparison", "compare_runs", "pareto_front", "report_session"]

Format = Literal["markdown", "csv", "latex", "html"]

COLUMNS = (
    ("run", "Run"),
    ("name", "Name"),
    ("kind", "Kind"),
    ("sparsity", "Sparsity"),
    ("nonzero", "Non-zero parameters"),
    ("valid_ppl", "Valid ppl"),
    ("test_ppl", "Test ppl"),
    ("bytes", "Bytes"),
    ("ms_per_token", "ms a token"),
)
_RIGHT = {"sparsity", "nonzero", "valid_ppl", "test_ppl", "bytes", "ms_per_token"}

_KEEPING = {"train": ("exact",), "prune": ("exact",), "pack": ("exact", "close")}
"""By kind of run the accuracies of the runtimes that keep to its perplexity."""

MEASURABLE = frozenset(_KEEPING)
"""Kinds of run whose speed a benchmark can say."""


@dataclass(frozen=True)
class Comparison:
    """The published-style table: one dictionary a run, with the keys of `COLUMNS`."""

    rows: tuple[dict[str, Any], ...]

    def cells(self) -> list[list[str]]:
        """The rows as they are written; "" where a number is not known."""
        return [[_cell(key, row.get(key), row["kind"]) for key, _ in COLUMNS] for row in self.rows]

    @property
    def note(self) -> str:
        """What must be said under the written table; "" where nothing must."""
        packed = any(size_sign(row["kind"]) and row.get("bytes") is not None for row in self.rows)
        return AS_PACKED if packed else ""

    def write(self, form: Format) -> str:
        """The table as text of that format, with its `note`; CSV has numbers alone, and the kind
        of run tells what its bytes are."""
        heads = [head for _, head in COLUMNS]
        match form:
            case "markdown":
                rule = [("---:" if key in _RIGHT else "---") for key, _ in COLUMNS]
                body = [[cell.replace("|", "\\|") for cell in row] for row in self.cells()]
                table = "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *body])
                return table + (f"\n{self.note}\n" if self.note else "")
            case "csv":
                return _csv([[key for key, _ in COLUMNS], *self._values()])
            case "latex":
                return _latex(heads, self.cells()) + (f"% {self.note}\n" if self.note else "")
            case "html":
                note = f"<p>{html.escape(self.note)}</p>\n" if self.note else ""
                return _html(heads, self.cells()) + note

    def _values(self) -> list[list[Any]]:
        return [
            ["" if (v := row.get(key)) is None else v for key, _ in COLUMNS] for row in self.rows
        ]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """The table of these runs, in their order.

    `ms_per_token` is the fastest of the newest benchmarks on this machine, in runtimes that keep to
    the perplexity of the row: fp32 for trained and pruned runs, the integers of the file for packed
    ones. A quantize run has none: it is a simulation until it is packed.
    """
    return Comparison(tuple(_row(run, run.read()) for run in runs))


def _row(run: Run, record: RunRecord) -> dict[str, Any]:
    results = record.results
    return {
        "run": run.ref,
        "name": plain(record.name),
        "kind": record.kind,
        "sparsity": results.get("sparsity"),
        "nonzero": results.get("nonzero"),
        "valid_ppl": results.get("valid_ppl"),
        "test_ppl": results.get("test_ppl"),
        "bytes": results.get("bytes"),
        "ms_per_token": results.get("ms_per_token") or _benchmarked(run, record.kind),
    }


def _benchmarked(run: Run, kind: str) -> float | None:
    """Milliseconds a token in the fastest runtime, by the benchmarks of this machine."""
    found, keeping = None, _KEEPING.get(kind, ())
    for other in run.session.runs():
        try:
            record = other.read()
        except LmbenchError:
            continue
        if record.kind == "benchmark" and record.host == platform.node():
            rows = record.results.get("rows", ())
            times = [
                row["ms"]
                for row in rows
                if row.get("model") == run.ref and row.get("accuracy") in keeping
            ]
            found = min(times, default=found)
    return found


def _cell(key: str, value: Any, kind: str) -> str:
    if value is None:
        return ""
    match key:
        case "sparsity":
            return f"{100 * value:.1f}%"
        case "bytes":
            return f"{size_sign(kind)}{value:,}"
        case "nonzero":
            return f"{value:,}"
        case "valid_ppl" | "test_ppl" | "ms_per_token":
            return f"{value:.2f}"
    return str(value)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both: (bytes, perplexity), less is better."""
    best, front = float("inf"), []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            best = points[index][1]
            front.append(index)
    return front


def _csv(rows: list[list[Any]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
          "≈": r"$\approx$"}  # fmt: skip


def _latex(heads: list[str], rows: list[list[str]]) -> str:
    def escape(cell: str) -> str:
        return "".join(_LATEX.get(character, character) for character in cell)

    align = "".join("r" if key in _RIGHT else "l" for key, _ in COLUMNS)
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


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ccc;"
    "text-align:left}svg{max-width:100%}"
)


def report_session(session: Session, form: Literal["markdown", "html"]) -> str:
    """A session as one document: its table, its curves, and how each run was made."""
    from lmbench.report.export import as_svg
    from lmbench.report.plots import Plot

    record, runs = session.read(), session.runs()
    table = compare_runs(runs).write(form)
    made = [_made(run) for run in runs]
    title = f"Session {session.name}"
    when = time.strftime("%F %R", time.localtime(record.created))
    if form == "markdown":
        parts = [f"# {title}", f"Begun {when}.", record.notes, table, "## How each was made"]
        parts += [f"- `{name}`: {text}\n  `{command}`" for name, text, command in made]
        return "\n\n".join(part for part in parts if part) + "\n"
    series = _valid_curves(runs)
    plot = as_svg(Plot(series, log=True), "Validation perplexity") if series else ""
    items = "\n".join(_item(*parts) for parts in made)
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>Begun {when}. {html.escape(record.notes)}</p>\n{table}\n{plot}\n"
        f"<h2>How each was made</h2>\n<ul>\n{items}\n</ul>\n</html>\n"
    )


def _item(name: str, text: str, command: str) -> str:
    name, text, command = html.escape(name), html.escape(text), html.escape(command)
    return f"<li><b>{name}</b> {text}<br><code>{command}</code></li>"


def _made(run: Run) -> tuple[str, str, str]:
    record = run.read()
    parts = [run.status(record), human_time(record.results.get("seconds"))]
    size = human_bytes(record.results.get("bytes"))
    parts += [size_sign(record.kind) + size if size else "", record.device]
    return run.ref, ", ".join(part for part in parts if part), plain(record.command)


def _valid_curves(runs: Sequence[Run]) -> tuple[Any, ...]:
    import numpy as np

    from lmbench.report.series import Series
    from lmbench.session.eventlog import EventLog
    from lmbench.session.events import Epoch

    series = []
    for run in runs:
        epochs = [e for e in EventLog(run.events_path).poll() if isinstance(e, Epoch)]
        if epochs:
            x = np.array([e.step for e in epochs], dtype=np.float64)
            y = np.array([e.valid_ppl for e in epochs], dtype=np.float64)
            series.append(Series(run.ref, x, y, "●", None, "points"))
    return tuple(series)
