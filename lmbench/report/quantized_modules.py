"""How a quantize run treated each module, and the error that it makes, as its events tell it."""

from __future__ import annotations

from lmbench.distiller.reports.table import Column, Table, Value, decimal, whole
from lmbench.errors import LmbenchError
from lmbench.session.event_log import read_events
from lmbench.session.events import QuantResult
from lmbench.session.store import Run

__all__ = ["MODE_WORDS", "quantized_modules", "short_mode"]

MODE_WORDS = {
    "SYMMETRIC": "sym",
    "SYMMETRIC_RESTRICTED": "sym-r",
    "ASYMMETRIC_SIGNED": "asym",
    "ASYMMETRIC_UNSIGNED": "asym-u",
}
"""The quantization modes, as short as a table needs them."""


def short_mode(mode: str) -> str:
    """``SYMMETRIC / ASYMMETRIC_SIGNED`` as ``sym/asym``."""
    return "/".join(MODE_WORDS.get(word, word) for word in mode.split(" / "))


def _decibels(value: float | str) -> str:
    # An event has the word for what JSON has no number for.
    return f"{float(value):.1f}"


def _integer(value: float) -> str:
    return f"{value:,.0f}"


_COLUMNS = (
    Column("name", "Module"),
    Column("kind", "Type"),
    Column("bits_weights", "W bits", whole),
    Column("bits_activations", "A bits", whole),
    Column("precision", "Floats"),
    Column("mode", "Mode w/a", short_mode),
    Column("clip_acts", "Clip"),
    Column("output_scale", "Scale", decimal),
    Column("output_zero_point", "Zero", _integer),
    Column("weight_sqnr", "W dB", _decibels),
    Column("output_sqnr", "Out dB", _decibels),
)


def quantized_modules(run: Run) -> Table:
    """Settings and signal-to-quantization-noise ratio (SQNR, in dB) of each module.

    Raises:
        LmbenchError: the run has quantized no module; says what to name.
    """
    # A run that was killed and went on tells them again: the last word counts.
    found = {e.module: e for e in read_events(run.events_path) if isinstance(e, QuantResult)}
    if not found:
        raise LmbenchError(
            f"run {run.ref} ({run.status()}) has quantized no module: name a finished quantize run"
        )
    rows = tuple(tuple(_cell(event, column.key) for column in _COLUMNS) for event in found.values())
    return Table("Quantized modules", _COLUMNS, rows)


def _cell(event: QuantResult, key: str) -> Value:
    if key == "name":
        return event.module
    return event.sqnr if key == "output_sqnr" else event.settings.get(key)
