"""What is compared, in which order and from which side: the state of the compare screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.report.compare import ADAPTED, COLUMNS, Comparison, runtime_table
from lmbench.report.pareto_front import front_plot, fronts_of
from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import Colour
from lmbench.report.runtime_table import runtime_cell, scored_text
from lmbench.report.tables import PART_SIGN
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.kit.grid import Cell, Row
from lmbench.tui.kit.sort_order import SortOrder

__all__ = ["Compared", "Table", "folder_of"]

Table = Literal["runs", "runtimes"]

_NONE = "–"  # a figure that is not there, as `numbers.perplexity` has it
_PERPLEXITIES = ("valid_ppl", "test_ppl", *(key for key, _ in ADAPTED))
_TWO_DIGITS = 9999.0
_NEAR = 1e-3  # so far from the exact runtime's perplexity another one keeps to it
_WORDS = dict((*COLUMNS, *ADAPTED)) | {
    "model": "run",
    "runtime": "runtime",
    "disk": "bytes on disk",
    "numbers": "bytes of weights",
    "peak": "peak memory",
    "ms": "ms a token",
    "ms_p95": "the slowest tokens",
    "step_vs_naive": "steps against naive",
    "step_vs_fp32": "steps against the best fp32",
    "tokens_per_s": "tokens a second",
    "score_vs_naive": "scoring against naive",
    "score_vs_fp32": "scoring against the best fp32",
    "ppl": "perplexity",
    "tokens": "tokens that the perplexity is of",
}
"""How a line names the columns that a table is sorted by."""


def folder_of(key: str) -> str:
    """The run's folder, of a row's key in either table."""
    return key.partition("/")[0]


def _folder(row: dict[str, Any]) -> str:
    return str(row.get("run") or row.get("model")).rpartition("/")[2]


def _number(row: dict[str, Any]) -> int:
    return int(_folder(row).partition("-")[0])


class Compared:
    """The two tables and the plot. The screen fills it, its panels show it and turn it round."""

    def __init__(self) -> None:
        self.runs = Comparison(())
        self.runtimes = runtime_table(())
        self.of_marked = False
        self.invitation = ""
        """What is said in place of a table without rows."""
        self.reading = ""
        """How much of the session is read; "" where all is."""
        self.table: Table = "runs"
        self.split: Literal["test", "valid"] = "test"
        self.log_axis = False
        self._orders: dict[Table, SortOrder] = {"runs": SortOrder(), "runtimes": SortOrder()}

    def recall(self, kept: Any) -> None:
        """Take over what `to_json` gave; what does not fit is left as it is."""
        if not isinstance(kept, dict):
            return
        self.table = "runtimes" if kept.get("table") == "runtimes" else "runs"
        self.split = "valid" if kept.get("split") == "valid" else "test"
        self.log_axis = kept.get("log") is True
        for table, (by, turned) in _KEPT.items():
            self._orders[table] = SortOrder(str(kept.get(by, "")), kept.get(turned) is True)

    def to_json(self) -> dict[str, Any]:
        kept = {"table": self.table, "split": self.split, "log": self.log_axis}
        for table, (by, turned) in _KEPT.items():
            kept |= {by: self._orders[table].by, turned: self._orders[table].reversed}
        return kept

    # -- the table -----------------------------------------------------------------------------

    @property
    def shown(self) -> Comparison:
        """The table that is looked at."""
        return self.runs if self.table == "runs" else self.runtimes

    @property
    def order(self) -> SortOrder:
        return self._orders[self.table]

    @property
    def in_order(self) -> Comparison:
        """The same with its rows as they are asked for; those without a figure stand last."""
        by = self.order.by
        figure = partial(_figure, key=by) if by in self.shown.keys else None
        return replace(self.shown, rows=tuple(self.order.of(self.shown.rows, figure)))

    @property
    def order_words(self) -> str:
        """What the table is sorted by, and which way round."""
        return self.order.words(_WORDS.get(self.order.by, "").lower(), "runs")

    def rows(self) -> tuple[Row, ...]:
        """The rows of the table as a grid shows them."""
        rows = self.in_order.rows
        if self.table == "runs":
            best = {_folder(row) for row in self.front()}
            return tuple((_folder(row), self._run(row, _folder(row) in best)) for row in rows)
        keeping = _keeping(self.runtimes.rows)
        fastest, most = _best(keeping, "ms", min), _best(keeping, "tokens_per_s", max)
        names = {row["run"]: row["name"] for row in self.runs.rows}
        return tuple(
            (
                f"{_folder(row)}/{row['runtime']}",
                self._runtime(row, names.get(row["model"], ""), fastest, most),
            )
            for row in rows
        )

    def _run(self, row: dict[str, Any], best: bool) -> tuple[Cell, ...]:
        return (
            _name(row, row["name"] + (f" ({row['corpus']})" if self._several else "")),
            Cell(row["kind"]),
            Cell(numbers.percent(row["sparsity"]) or _NONE),
            Cell(_written(row, "nonzero", "{:,}")),
            Cell(_perplexity(row, "valid_ppl")),
            Cell(_perplexity(row, "test_ppl"), "success" if best else ""),
            *(Cell(_perplexity(row, key)) for key in self.adapted),
            Cell(numbers.size(row["bytes"], row["as_packed"]) or _NONE),
            Cell(_written(row, "ms_per_token", "{:.2f}")),
        )

    @property
    def _several(self) -> bool:
        """Are they of more than one corpus?"""
        return any(key == "corpus" for key, _ in self.runs.columns)

    @property
    def adapted(self) -> tuple[str, ...]:
        """The figures with a cache or by dynamic evaluation that some run has."""
        return tuple(k for k, _ in ADAPTED if any(r.get(k) is not None for r in self.runs.rows))

    def _runtime(
        self, row: dict[str, Any], name: str, fastest: dict[str, Any], most: dict[str, Any]
    ) -> tuple[Cell, ...]:
        best = {"ms": fastest.get(row["model"]), "tokens_per_s": most.get(row["model"])}
        speeds = ("ms", "ms_p95", "step_vs_naive", "step_vs_fp32")
        speeds += ("tokens_per_s", "score_vs_naive", "score_vs_fp32")
        return (
            _name(row, name),
            Cell(printable(str(row["runtime"]))),
            *(Cell(numbers.size(row.get(key)) or _NONE) for key in ("disk", "numbers", "peak")),
            *(
                Cell(runtime_cell(key, row.get(key)) or _NONE, _tint(row.get(key), best.get(key)))
                for key in speeds
            ),
            Cell(_precise(row.get("ppl"))),
            Cell(_written(row, "tokens", "{:,}")),
        )

    @property
    def scored_words(self) -> str:
        """What the perplexities of the runtimes are of; "" where they have none."""
        texts = {scored_text(row) for row in self.runtimes.rows} - {""}
        if not texts:
            return ""
        return f"ppl of {texts.pop()}" if len(texts) == 1 else "ppl of different parts of test"

    # -- the plot ------------------------------------------------------------------------------

    def _points(self) -> list[tuple[dict[str, Any], tuple[float, float]]]:
        key = f"{self.split}_ppl"
        return [
            (row, (float(row["bytes"]), float(row[key])))
            for row in self._models
            if row["bytes"] and _figure(row, key) is not None
        ]

    @property
    def _models(self) -> list[dict[str, Any]]:
        """An evaluation has its parent's size and a perplexity of its own, but is no model."""
        return [row for row in self.runs.rows if row["kind"] != "evaluate"]

    def front(self) -> list[dict[str, Any]]:
        """The rows on the Pareto front, the smallest first; of several corpora one after the
        other."""
        rows, points = zip(*self._points(), strict=True) if self._points() else ((), ())
        return [rows[i] for i in chain.from_iterable(fronts_of(rows, points))]

    @property
    def front_words(self) -> str:
        """The numbers of the runs on the front."""
        return ", ".join(str(_number(row)) for row in self.front())

    def plot(self, colour: Callable[[str], Colour]) -> Plot:
        """The scatter plot as it is looked at now; `colour` gives the theme's."""
        rows = []
        for row in self._models:
            number = _number(row)
            mark, name = mark_of(number), f"{number} {row['name']}"
            look = {"name": name, "marker": mark.marker, "colour": colour(mark.variable)}
            rows.append(row | look)
        plot = front_plot(rows, self.split, least=1) or Plot(())
        return replace(plot, log=self.log_axis)


_KEPT: dict[Table, tuple[str, str]] = {
    "runs": ("sort", "reversed"),
    "runtimes": ("runtimes_sort", "runtimes_reversed"),
}
"""Under which names the order of each table is remembered."""


def _name(row: dict[str, Any], name: str) -> Cell:
    mark = mark_of(_number(row))
    return Cell(f"{mark.marker} {_number(row)} {name}", mark.variable)


def _keeping(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the runtimes that keep to the perplexity of an exact one, as measured."""
    rows, exact = list(rows), dict[str, float]()
    for row in rows:
        if row.get("accuracy") == "exact" and row.get("ppl") is not None:
            exact.setdefault(row["model"], row["ppl"])
    return [row for row in rows if _keeps(row, exact.get(row["model"]))]


def _keeps(row: Mapping[str, Any], exact: float | None) -> bool:
    if row.get("accuracy") == "exact":
        return True
    ppl = row.get("ppl")
    return ppl is not None and exact is not None and abs(ppl - exact) <= _NEAR * exact


def _best(
    rows: Iterable[dict[str, Any]], key: str, best: Callable[[Iterable[float]], float]
) -> dict[str, float]:
    """The best figure of each model."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            found.setdefault(row["model"], []).append(row[key])
    return {model: best(values) for model, values in found.items()}


def _precise(ppl: float | None) -> str:
    """Runtimes of one model differ in the digits that the other tables leave out."""
    fits = ppl is not None and ppl < _TWO_DIGITS
    return f"{ppl:.2f}" if fits else numbers.perplexity(ppl)


def _tint(value: float | None, best: float | None) -> str:
    return "success" if value is not None and value == best else ""


def _figure(row: dict[str, Any], key: str) -> Any:
    """A figure that compares with those of other rows; None where there is none."""
    of_a_part = row.get("part_tokens") or row.get("early")
    return None if of_a_part and key in _PERPLEXITIES else row.get(key)


def _perplexity(row: dict[str, Any], key: str) -> str:
    mark = PART_SIGN if row.get(key) is not None and row.get("part_tokens") else ""
    return numbers.perplexity(row.get(key)) + mark


def _written(row: dict[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return _NONE if value is None else form.format(value)
