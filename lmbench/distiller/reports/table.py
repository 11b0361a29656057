"""A table of plain values that renders as text, rich, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Value = str | int | float | None
Cell = Callable[[Any], str]


def whole(value: int) -> str:
    """``1,234``."""
    return f"{value:,}"


def percent(value: float) -> str:
    """``12.34``."""
    return f"{value:.2f}"


def decimal(value: float) -> str:
    """``0.01234``."""
    return f"{value:.5f}"


@dataclass(frozen=True)
class Column:
    """A column: its key in JSON and CSV, its heading, and how a value is written in text."""

    key: str
    heading: str
    write: Cell = str

    @property
    def numeric(self) -> bool:
        """Whether it is written flush right."""
        return self.write is not str


@dataclass(frozen=True)
class Table:
    """Rows of values under columns, and perhaps a last row of totals."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    total: tuple[Value, ...] | None = None

    def __str__(self) -> str:
        return self.to_text()

    @property
    def all_rows(self) -> tuple[tuple[Value, ...], ...]:
        """The rows with the total."""
        return self.rows if self.total is None else (*self.rows, self.total)

    def records(self) -> list[dict[str, Value]]:
        """Each row, without the total, by column key."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, row, strict=True)) for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """``{title, columns, rows, total}`` of JSON values."""
        keys = [column.key for column in self.columns]
        total = None if self.total is None else dict(zip(keys, self.total, strict=True))
        return {
            "title": self.title,
            "columns": {column.key: column.heading for column in self.columns},
            "rows": self.records(),
            "total": total,
        }

    def to_csv(self) -> str:
        """A line of keys, a line for each row, the total last; full precision."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows(["" if v is None else v for v in row] for row in self.all_rows)
        return text.getvalue()

    def cells(self) -> list[list[str]]:
        """The rows as written in text."""
        return [
            ["" if v is None else c.write(v) for c, v in zip(self.columns, row, strict=True)]
            for row in self.all_rows
        ]

    def to_rich(self) -> RichTable:
        """A table for a rich console."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.title)
        for column in self.columns:
            table.add_column(column.heading, justify="right" if column.numeric else "left")
        cells = self.cells()
        for number, row in enumerate(cells):
            last_before_total = self.total is not None and number == len(cells) - 2
            table.add_row(*(Text(cell) for cell in row), end_section=last_before_total)
        return table

    def to_text(self) -> str:
        """Aligned columns of plain text."""
        grid = [[column.heading for column in self.columns], *self.cells()]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.columns))]
        lines = []
        for row in grid:
            parts = [
                cell.rjust(width) if column.numeric else cell.ljust(width)
                for cell, width, column in zip(row, widths, self.columns, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        rule = "-" * max(map(len, lines))
        lines.insert(1, rule)
        if self.total is not None:
            lines.insert(len(lines) - 1, rule)
        return "\n".join(lines)
