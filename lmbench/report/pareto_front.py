"""Perplexity against size as a plot: each setting a point, with an error bar over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lmbench.report.plots.layout import Plot
from lmbench.report.plots.series import MARKERS, Series

__all__ = ["front_plot", "fronts_of", "pareto_front"]

_MARGIN = 0.06


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both: (bytes, perplexity), less is better."""
    best, front = float("inf"), []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            best = points[index][1]
            front.append(index)
    return front


def fronts_of(
    rows: Sequence[Mapping[str, Any]], points: Sequence[tuple[float, float]]
) -> list[list[int]]:
    """The Pareto front of each corpus: perplexities of different texts do not compare."""
    of_text: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        of_text.setdefault(row.get("fingerprint") or "", []).append(index)
    return [
        [indices[i] for i in pareto_front([points[i] for i in indices])]
        for indices in of_text.values()
    ]


def front_plot(
    rows: Sequence[Mapping[str, Any]],
    split: Literal["test", "valid"] = "test",
    by: Literal["bytes", "sparsity"] = "bytes",
    least: int = 2,
) -> Plot | None:
    """The rows of a table with both a size (or a sparsity) and a perplexity of a whole split, and
    the Pareto front of their means, for each corpus its own; None where there are fewer than
    `least`. Trainings that their sweep ended early are left out, those that a user stopped are not.

    An error bar goes one sample standard deviation up and down. Of sizes less is better, of
    sparsities, which are shown in per cent, more.

    Args:
        rows: with ``name``, ``bytes`` and ``as_packed``, or ``sparsity`` (a share in [0, 1]),
            ``part_tokens``, ``early`` and ``test_ppl``, ``test_ppl_deviation`` (or ``valid_…``),
            ``corpus`` and its ``fingerprint``, as `compare.compare_runs` has them; ``marker``
            and ``colour`` where they are given.
    """
    key = f"{split}_ppl"
    whole = [row for row in rows if not row.get("part_tokens") and not row.get("early")]
    known = [row for row in whole if _has(row, by) and row.get(key) is not None]
    if len(known) < least:
        return None
    series: list[Series] = []
    scale = 100.0 if by == "sparsity" else 1.0
    points = [(scale * float(row[by]), float(row[key])) for row in known]
    for number, (row, (size, ppl)) in enumerate(zip(known, points, strict=True)):
        marker = row.get("marker") or MARKERS[number % len(MARKERS)]
        x, colour = np.array([size]), row.get("colour")
        series.append(Series(str(row["name"]), x, np.array([ppl]), marker, colour, "points"))
    for row, (size, ppl) in zip(known, points, strict=True):
        deviation = row.get(f"{key}_deviation")
        if deviation:
            ends = np.array([ppl - deviation, ppl + deviation])
            bar = f"{row['name']} ± {deviation:.2f}"
            series.append(Series(bar, np.array([size, size]), ends, style="thin"))
    better = -1.0 if by == "sparsity" else 1.0
    fronts = fronts_of(known, [(better * size, ppl) for size, ppl in points])
    for front in fronts:
        x, y = np.array(sorted(points[i] for i in front)).T
        of = known[front[0]].get("corpus")
        name = f"Pareto front, {of}" if len(fronts) > 1 else "Pareto front"
        series.append(Series(name, x, y, style="thin"))
    sizes = [size for size, _ in points]
    room = (max(sizes) - min(sizes)) * _MARGIN or 0.5 * max(sizes) or 1.0
    window = (max(min(sizes) - room, 0.0), max(sizes) + room)
    return Plot(tuple(series), x_axis=_axis(known, by), window=window)


def _has(row: Mapping[str, Any], by: str) -> bool:
    # A model of no bytes is none, one without zeros is one.
    return bool(row.get(by)) if by == "bytes" else row.get(by) is not None


def _axis(rows: Sequence[Mapping[str, Any]], by: str) -> str:
    if by == "sparsity":
        return "sparsity %"
    packed = any(row["as_packed"] for row in rows)
    return "bytes (pruned, quantized: as packed)" if packed else "bytes"
