"""What the tables of a run's tensors hold: their columns, and a line for each tensor or module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from lmbench.printable import one_line
from lmbench.report.numbers import as_float
from lmbench.report.quantized_modules import short_mode
from lmbench.session import RunRecord
from lmbench.session import events as ev
from lmbench.tui.bench.snapshots import short_module
from lmbench.tui.kit.grid import Cell, Column

__all__ = [
    "Table",
    "has_weights",
    "packed_table",
    "packed_tensors",
    "quantized_table",
    "sparsity_table",
]

Line = tuple[tuple[Any, ...], tuple[Cell, ...]]
"""What a row is sorted by under each column, its key the first, and what it shows there."""

_SPARSITY = (
    Column("tensor", 17, left=True, grow=2),
    Column("shape", 10, rank=4),
    Column("nonzero", 10, rank=3),
    Column("sparsity", 20, grow=3),
    Column("change", 7, rank=1),
    Column("|mean|", 7, rank=2),
    Column("std", 7, rank=5),
    Column("rows 0", 6, rank=6),
    Column("cols 0", 6, rank=6),
)
# Of a quantized module what `ModuleReport` has; its kind follows from its name.
_QUANTIZED = (
    Column("module", 14, left=True, grow=2),
    Column("bits", 6, left=True),
    Column("scale", 7, rank=1),
    Column("zero", 5, rank=1),
    Column("clip", 7, left=True, grow=1, rank=1),
    Column("mode w/a", 10, left=True, rank=2),
    Column("w SQNR", 6, rank=3),
    Column("SQNR", 5),
)
_PACKED = (
    Column("tensor", 17, left=True, grow=2),
    Column("shape", 10, rank=2),
    Column("values", 6, left=True),
    Column("layout", 7, left=True, rank=3),
    Column("nonzero", 10, rank=4),
    Column("sparsity", 14, grow=2, rank=1),
    Column("bytes", 10),
    Column("smaller", 7),
)
_FLOATS = {"16": "fp16", "32": "fp32", "64": "fp64"}
# Kinds of modules that have weights also where these stay floats.
_WEIGHTED = ("Linear", "Embedding")
# Differences in percentage points and decibels that are worth a colour.
_NO_CHANGE = 0.05
_POOR_DB, _GOOD_DB = 20.0, 35.0


class Table(NamedTuple):
    columns: tuple[Column, ...]
    lines: list[Line]
    total: tuple[Cell, ...] = ()


def sparsity_table(event: ev.Sparsity, before: ev.Sparsity | None) -> Table:
    """`before` is the table of the parent run."""
    earlier = {row.get("name"): _share(row) for row in before.tensors} if before else {}
    lines: list[Line] = []
    for row in event.tensors:
        number, share, was = partial(_number, row), _share(row), earlier.get(row.get("name"))
        change = share - was if was is not None else None
        figures = (str(row.get("name")), number("dense"), number("nnz"), share, change,
                   *map(number, ("abs_mean", "std", "rows", "cols")))  # fmt: skip
        lines.append((figures, _sparsity_cells(row, share, was)))
    total = (
        Cell("total (tied once)"),
        Cell(_count(event.parameters)),
        Cell(f"{event.nonzero:,}"),
        Cell(f"{100 * event.total:5.1f}", share=event.total),
        _change(event.total, before.total if before else None),
        *(Cell(),) * 4,
    )
    return Table(_SPARSITY, lines, total)


def quantized_table(events: Iterable[ev.QuantResult]) -> Table:
    latest = {event.module: event for event in events}
    figures = [_figures_of(event) for event in latest.values()]
    return Table(_QUANTIZED, [(row, _quantized_cells(row)) for row in figures])


def packed_tensors(record: RunRecord | None) -> list[dict[str, Any]]:
    """What a packed run's results say of its file's tensors; others' say nothing."""
    found = record.results.get("tensors") if record else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def packed_table(record: RunRecord) -> Table:
    lines = [_packed_line(row) for row in packed_tensors(record)]
    results = partial(_number, record.results)
    words = ("words", None, None, None, None, None, results("vocabulary_bytes"), None)
    lines.append((words, (Cell("words"), *(Cell(),) * 5, _bytes(words[6]), Cell())))
    nonzero, share = results("nonzero"), results("sparsity")
    total = (
        Cell("whole file"),
        *(Cell(),) * 3,
        Cell("" if nonzero is None else f"{nonzero:,.0f}"),
        Cell() if share is None else Cell(f"{100 * share:5.1f}", share=share),
        _bytes(results("bytes")),
        _ratio(results("ratio")),
    )
    return Table(_PACKED, lines, total)


def _packed_line(row: dict[str, Any]) -> Line:
    name, shape = str(row.get("name")), _shape(row)
    count = as_float(math.prod(side for side in shape if isinstance(side, int)))
    stored = _number(row, "bytes")
    # Weights alone, as in the total.
    nonzero = _number(row, "nonzero") if len(shape) > 1 else None
    share = 1 - nonzero / count if nonzero is not None and count else None
    ratio = 4 * count / stored if stored and count is not None else None
    values, layout = (one_line(str(row.get(key) or "")) for key in ("values", "layout"))
    cells = (
        Cell(one_line(name)),
        _sides(shape),
        Cell(values),
        Cell(layout),
        Cell("" if nonzero is None else f"{nonzero:,.0f}"),
        Cell() if share is None else Cell(f"{100 * share:5.1f}", share=share),
        _bytes(stored),
        _ratio(ratio),
    )
    return (name, count, values, layout, nonzero, share, stored, ratio), cells


def _bytes(count: float | None) -> Cell:
    return Cell("" if count is None else f"{count:,.0f}")


def _ratio(ratio: float | None) -> Cell:
    """How much smaller than fp32."""
    return Cell("" if ratio is None else f"{ratio:.1f}×")


def _shape(row: dict[str, Any]) -> list[Any] | tuple[Any, ...]:
    shape = row.get("shape")
    return shape if isinstance(shape, list | tuple) else ()


def _sides(shape: Iterable[Any]) -> Cell:
    return Cell("×".join(one_line(side) for side in shape))


def _number(row: dict[str, Any], name: str) -> float | None:
    return as_float(row.get(name))


def _share(row: dict[str, Any]) -> float:
    """The share of zeros in [0, 1]."""
    return (_number(row, "fine") or 0.0) / 100


def _sparsity_cells(row: dict[str, Any], share: float, was: float | None) -> tuple[Cell, ...]:
    rows, cols = _number(row, "rows"), _number(row, "cols")
    return (
        Cell(one_line(str(row.get("name")))),
        _sides(_shape(row)),
        Cell(f"{_number(row, 'nnz') or 0:,.0f}"),
        Cell(f"{100 * share:5.1f}", share=share),
        _change(share, was),
        Cell(_fixed(_number(row, "abs_mean"))),
        Cell(_fixed(_number(row, "std"))),
        Cell("" if rows is None else f"{rows:.1f}"),
        Cell("" if cols is None else f"{cols:.1f}"),
    )


def _change(share: float, was: float | None) -> Cell:
    """Percentage points since the parent."""
    if was is None:
        return Cell()
    points = 100 * (share - was)
    if abs(points) < _NO_CHANGE:
        return Cell("·", tint="faint")
    return Cell(f"{points:+.1f}", tint="success" if points > 0 else "warning")


def _fixed(value: float | None) -> str:
    """A magnitude in so many digits that figures of one kind stand under each other."""
    if value is None:
        return ""
    return f"{value:.4f}" if 1e-3 <= value < 100 or value == 0 else f"{value:.1e}"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def has_weights(event: ev.QuantResult) -> bool:
    settings = event.settings
    return settings.get("bits_weights") is not None or settings.get("kind") in _WEIGHTED


def _bits(settings: dict[str, Any]) -> str:
    """``w8 a8``, ``w4``, ``a8``, or the floats that the module computes in, such as ``fp16``."""
    precision = settings.get("precision")
    if precision is not None:
        return _FLOATS.get(str(precision), one_line(str(precision)))
    sides = (("w", settings.get("bits_weights")), ("a", settings.get("bits_activations")))
    return " ".join(f"{side}{bits}" for side, bits in sides if isinstance(bits, int))


def _figures_of(event: ev.QuantResult) -> tuple[Any, ...]:
    """A module's values under `_QUANTIZED`, to be sorted by; None where it has none."""
    settings = event.settings
    return (
        event.module,
        _bits(settings) or None,
        _number(settings, "output_scale"),
        _number(settings, "output_zero_point"),
        one_line(str(settings.get("clip_acts") or "")).lower() or None,
        one_line(short_mode(str(settings.get("mode") or ""))) or None,
        _decibels_of(settings.get("weight_sqnr")),
        event.sqnr,
    )


def _decibels_of(value: Any) -> float | None:
    """A ratio in dB; an event has the word for what JSON has no number for."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _quantized_cells(figures: tuple[Any, ...]) -> tuple[Cell, ...]:
    module, bits, scale, zero, clip, mode, weights, output = figures
    return (
        Cell(short_module(module)),
        Cell(bits or ""),
        Cell("" if scale is None else f"{scale:.4g}"),
        Cell("" if zero is None else f"{zero:.0f}"),
        Cell(clip or ""),
        Cell(mode or ""),
        Cell() if weights is None else _decibels(weights),
        _decibels(output),
    )


def _decibels(value: float | None) -> Cell:
    if value is None or math.isnan(value):
        return Cell("–")
    tint = "error" if value < _POOR_DB else "success" if value >= _GOOD_DB else ""
    text = f"{value:.1f}" if math.isfinite(value) else "∞" if value > 0 else "-∞"
    return Cell(text, tint=tint)
