"""Text of anyone's making, made fit for a terminal.

Names, messages and notes come from files that a stranger may have written. A terminal obeys control
characters (C0, C1, DEL), and bidirectional controls show a text in another order than it has.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["csv_text", "finite", "json_text", "one_line", "printable"]

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line end, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029\ud800-\udfff]"  # line and paragraph separators, lone surrogates
)
# With these a spreadsheet takes a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t")


def printable(text: object) -> str:
    """The text without what a terminal would obey; line ends and tabs stay."""
    return _UNPRINTABLE.sub("", str(text))


def one_line(text: object) -> str:
    """The same in one line: each stretch of white space is one blank."""
    return " ".join(printable(text).split())


def finite(value: Any) -> Any:
    """The value with null for each number in it that is not finite, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_text(document: Any, *, ascii_only: bool = False) -> str:
    """Strict JSON; what is not printable is written as its escape, so nothing is lost."""
    text = json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as CSV, "" for None; words that a spreadsheet would compute begin with ``'``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_csv_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    value = printable(value)
    return f"'{value}" if value.startswith(_FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
