"""The published tables, as runs to make and figures to set beside them. No torch here.

The figures stand in `published_figures`. The pruning and quantization tables are of 2x1500 models;
at the scales ``small`` and ``medium`` a model of 2x200 stands in, and what compares is each row's
change against its dense model. Of the tables ``bits`` and ``structure`` nothing is published for
this corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lmbench.config import (
    EvaluateConfig,
    PackConfig,
    PruneConfig,
    QuantizeConfig,
    TrainConfig,
    validate,
)
from lmbench.jobs.chains import Step
from lmbench.report.published_figures import (
    CACHED,
    CORPUS,
    DYNAMIC,
    PRUNED,
    PUBLISHED,
    QUANTIZED,
    QUANTIZED_DENSE,
    TRAINED,
    Figures,
)

__all__ = ["Reproduction", "Row", "Scale", "TableName", "plan"]

TableName = Literal["training", "pruning", "quantization", "cache", "bits", "structure"]
Scale = Literal["small", "medium", "large"]

# Of WikiText-2's valid: that many tokens calibrate the published rows.
_VALID_TOKENS = 217_646

_TRAININGS: Mapping[Scale, tuple[str, ...]] = {
    "small": ("small", "small-tied"),
    "medium": ("small-tied-40",),
    "large": ("small-tied-40", "medium-tied", "large-tied"),
}
_DENSE: Mapping[Scale, str] = {
    "small": "small-tied",
    "medium": "small-tied-40",
    "large": "large-tied",
}


def _schedule(scale: Scale, level: str) -> str:
    """A preset as long as the scale's trainings. Where levels differ between the matrices, large-80
    leaves less of a 2x200 than 20%: its embedding is nine tenths of it."""
    if scale == "medium":
        return "medium-80" if level == "80" else f"large-{level}"
    return f"{scale}-{level}"


_UNITS = "small-units"
"""Removes hidden units in the first epochs, whatever the scale."""

_CACHE = {"cache": 2000}
_DYNAMIC = {"dynamic": "sgd"}
_TUNE = {"tune": True, "tune_tokens": 20_000}

_LEVELS: Mapping[Scale, tuple[str, ...]] = {
    "small": ("70", "80", "90", "95"),
    "medium": ("70", "70b", "80", "90", "95"),
    "large": ("70", "70b", "80", "90", "95"),
}

_CODES = {
    "preset": "int4-weights",
    "rounding": "codes",
    "override": (".*:group_size=null",),
    "dynamic": True,
    "calibration_tokens": 30_000,
}
_WaysToBits = Mapping[str, tuple[dict[str, Any] | None, dict[str, Any]]]
_BITS: _WaysToBits = {
    "int8": ({"preset": "int8-best"}, {}),
    "4 bits": (None, {"weights": "int4"}),
    "3 bits": ({**_CODES, "bits_parameters": 3}, {}),
    "2 bits": ({**_CODES, "bits_parameters": 2}, {}),
}
"""How a model gets so many bits: what quantizes it, where packing alone does not, and what packs
it."""
_PRUNED_BITS: _WaysToBits = {**_BITS, "4 bits": ({**_CODES, "bits_parameters": 4}, {})}
"""The same beside zeros, where a file has codes and no 4 bits to nearest."""
_TRAINED_BITS = {"4 bits": "code4", "3 bits": "code3", "2 bits": "code2"}
"""The schedules under which a model trains on with so many bits."""
_TRAIN_ON = {"epochs": 1, "lr": 10.0, "lr_schedule": "cosine"}

_OTHER_MODEL = "of 2x1500 over 40 epochs: compare the changes"
_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


@dataclass(frozen=True)
class Row:
    """A row of a table, the run that makes ours, and the published figures beside it."""

    name: str
    published: Figures
    step: Step
    figure: str = "test_ppl"
    """Which of the run's results is the row's perplexity on test."""
    shown: bool = True
    """False for a run that another row's starts from, and that is no row of the table itself."""


@dataclass(frozen=True)
class Reproduction:
    """A table to reproduce; the first that is shown is what the other rows are measured against."""

    table: TableName
    scale: Scale
    rows: tuple[Row, ...]
    data: str = CORPUS

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows of the table itself."""
        return tuple(row for row in self.rows if row.shown)

    @property
    def relative(self) -> bool:
        """Do the rows say how much worse they are than the first?"""
        return self.table != "training"

    @property
    def sized(self) -> bool:
        """Is the table about bytes, too?"""
        return self.table in ("bits", "structure")

    @property
    def footnotes(self) -> tuple[str, ...]:
        """What must be said of published figures, in the order of the rows."""
        return tuple(dict.fromkeys(row.published.note for row in self.rows if row.published.note))

    def mark(self, row: Row) -> str:
        """The mark of the row's footnote; "" where it has none."""
        note = row.published.note
        return _MARKS[self.footnotes.index(note)] if note else ""

    @property
    def note(self) -> str:
        """What must be said under the table; "" where nothing must."""
        lines = [f"{mark} {note}" for mark, note in zip(_MARKS, self.footnotes, strict=False)]
        known = any(row.published.valid or row.published.test for row in self.rows)
        if known and self.data != CORPUS:
            lines.append(f"published: of {CORPUS}; ours: of {self.data}")
        if not known:
            lines.append("nothing is published of these rows on this corpus")
        return "\n".join(lines)


def plan(table: TableName, scale: Scale, changes: Mapping[str, Any] | None = None) -> Reproduction:
    """The rows of a table and the runs that they need, each after its parent.

    Args:
        changes: settings of the trainings that are to differ (corpus, device, threads, seed).
    """
    given = dict(changes or {})
    rows = _ROWS[table](scale, given)
    return Reproduction(table, scale, tuple(rows), given.get("data", CORPUS))


def _training_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    return [_trained(name, given) for name in _TRAININGS[scale]]


def _pruning_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    # What was pruned is a 2x1500 model, at every scale.
    dense = _of_large(TRAINED[_DENSE["large"]], scale)
    pruned = [
        _pruned(scale, _schedule(scale, level), given, _of_large(PRUNED[level], scale))
        for level in _LEVELS[scale]
    ]
    return [Row("dense", dense, _dense(scale, given)), *pruned]


def _quantization_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    rows = [Row("fp32", _of_large(QUANTIZED_DENSE, scale), _dense(scale, given))]
    for preset, figures in QUANTIZED.items():
        published = {"calibrate_on": "valid", "calibration_tokens": _VALID_TOKENS}
        step = _quantize(preset, {"preset": preset, **published}, given, 0)
        rows.append(Row(preset, _of_large(figures, scale), step))
    return rows


def _cache_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    dense = _dense(scale, given)
    assert isinstance(dense.config, TrainConfig)
    config = dense.config
    fits = config.title == f"LSTM 2x{config.nhid} tied"
    nothing = Figures(), Figures()
    plain, cached = CACHED.get(config.nhid, nothing) if fits else nothing
    both = {**_CACHE, **_DYNAMIC}
    return [
        Row("plain", plain, dense),
        _adapted("cache", cached, "test_cache_ppl", _CACHE, given),
        _adapted("dynamic", DYNAMIC, "test_dynamic_ppl", _DYNAMIC, given),
        _adapted("cache and dynamic", Figures(), "test_cache_dynamic_ppl", both, given),
    ]


def _bits_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    """The dense model and the one of 80%, each in fewer and fewer bits, packed and scored so: by
    rounding alone, and at the longer scales trained on in those bits, beside floats that train on
    for as long."""
    dense, pruned = _dense(scale, given), _pruned(scale, _schedule(scale, "80"), given, Figures())
    rows = [Row("fp32", Figures(), dense)]
    rows += _in_bits("", _BITS, 0, 1, given)
    place = len(rows)
    rows.append(pruned)
    rows += _in_bits("80% ", _PRUNED_BITS, place, place + 1, given)
    if scale == "small":
        # Eight trainings more would nearly double the time of this table.
        return rows
    begun = _settings(_DENSE[scale], given)
    rows += _trained_bits("", begun, 0, len(rows), given)
    return rows + _trained_bits("80% ", begun, place, len(rows), given)


def _in_bits(
    prefix: str, ways: _WaysToBits, model: int, first: int, given: Mapping[str, Any]
) -> list[Row]:
    """The rows of a model in fewer bits; `model` is its place, `first` that of the first row."""
    rows: list[Row] = []
    for bits, (quantizing, packing) in ways.items():
        name, parent = f"{prefix}{bits}", model
        if quantizing is not None:
            parent = first + len(rows)
            step = _quantize(f"{name} simulated", quantizing, given, model)
            rows.append(Row(name, Figures(), step, shown=False))
        rows.append(_packed(name, packing, given, parent))
    return rows


def _trained_bits(
    prefix: str, begun: Mapping[str, Any], model: int, first: int, given: Mapping[str, Any]
) -> list[Row]:
    """The rows of a model that trains on, as it is and in few bits; places as of `_in_bits`."""

    def further(name: str, schedule: str) -> Step:
        config = validate(PruneConfig, {**begun, **_TRAIN_ON, "compress": schedule})
        return Step("prune", name, config, model)

    rows = [Row(f"{prefix}one more epoch", Figures(), further(f"{prefix}one more epoch", "hold"))]
    for bits, schedule in _TRAINED_BITS.items():
        name, parent = f"{prefix}one more epoch in {bits}", first + len(rows)
        rows.append(Row(name, Figures(), further(name, schedule), shown=False))
        rows.append(_packed(name, {}, given, parent))
    return rows


def _structure_rows(scale: Scale, given: Mapping[str, Any]) -> list[Row]:
    """A dense model that trains on, one that loses a part of its hidden units meanwhile, and both
    packed."""
    begun = _settings(_DENSE[scale], given)
    longer, int8 = {**begun, "lr_schedule": "cosine"}, {"weights": "int8"}
    dense, units = (
        Step("prune", name, validate(PruneConfig, {**longer, "compress": schedule}), 0)
        for name, schedule in (("dense", "none"), (_UNITS, _UNITS))
    )
    return [
        Row("begun", Figures(), _dense(scale, given), shown=False),
        Row(dense.name, Figures(), dense),
        _packed("dense, int8", int8, given, 1),
        Row(units.name, Figures(), units),
        _packed("fewer units, packed", {}, given, 3),
        _packed("fewer units, int8", int8, given, 3),
    ]


_ROWS: Mapping[TableName, Callable[[Any, Mapping[str, Any]], list[Row]]] = {
    "training": _training_rows,
    "pruning": _pruning_rows,
    "quantization": _quantization_rows,
    "cache": _cache_rows,
    "bits": _bits_rows,
    "structure": _structure_rows,
}


def _of_large(figures: Figures, scale: Scale) -> Figures:
    """Figures of the large model as they stand beside one of another scale."""
    if scale == "large":
        return figures
    note = f"{figures.note}; {_OTHER_MODEL}" if figures.note else _OTHER_MODEL
    return figures._replace(note=note)


def _settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    training = next(published for published in PUBLISHED if published.name == name)
    return {**training.settings, **given}


def _trained(name: str, given: Mapping[str, Any]) -> Row:
    config = validate(TrainConfig, _settings(name, given))
    return Row(name, TRAINED[name], Step("train", name, config))


def _dense(scale: Scale, given: Mapping[str, Any]) -> Step:
    return _trained(_DENSE[scale], given).step


def _pruned(scale: Scale, schedule: str, given: Mapping[str, Any], published: Figures) -> Row:
    """From scratch, over as many epochs as the dense model, as published."""
    config = validate(PruneConfig, {**_settings(_DENSE[scale], given), "compress": schedule})
    return Row(schedule, published, Step("prune", schedule, config))


def _adapted(
    name: str,
    published: Figures,
    figure: str,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Row:
    """The trained model on test, its settings found on the start of valid."""
    config = validate(EvaluateConfig, {**_machine(given), **settings, **_TUNE})
    return Row(name, published, Step("evaluate", name, config, 0), figure)


def _machine(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in ("device", "threads")}


def _quantize(
    name: str, settings: Mapping[str, Any], given: Mapping[str, Any], parent: int
) -> Step:
    config = validate(QuantizeConfig, {**_machine(given), **settings})
    return Step("quantize", name, config, parent)


def _packed(name: str, settings: Mapping[str, Any], given: Mapping[str, Any], parent: int) -> Row:
    # Packed on the CPU; the device is that in whose queue it stands, behind its parent.
    config = validate(PackConfig, {**_machine(given), **settings})
    return Row(name, Figures(), Step("pack", name, config, parent))
