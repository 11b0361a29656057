"""What happens in a run, as typed events, and the lines that hold them.

One event is one line of strict JSON: ``{"v": 1, "kind": "step", "t": 1763…, …}``. A reader skips
kinds that it does not know, lines that it cannot read and a last line that is torn off, so a log
is never fatal. Numbers that JSON has no word for are written as ``"nan"``, ``"inf"``, ``"-inf"``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = [
    "EVENT_VERSION",
    "Calibration",
    "Checkpoint",
    "Epoch",
    "Event",
    "Failed",
    "Finished",
    "Progress",
    "PruneStep",
    "QuantResult",
    "RunResumed",
    "RunStarted",
    "Sample",
    "Score",
    "SensitivityPoint",
    "Sparsity",
    "StatusChanged",
    "Step",
    "Try",
    "Warned",
    "event_line",
    "parse_event",
]

EVENT_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. `t` is seconds since the epoch."""

    kind: ClassVar[str]
    t: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The worker has built everything and begins; `total_steps` is 0 where it is unknown."""

    kind: ClassVar[str] = "run_started"
    device: str
    precision: str = "fp32"
    threads: int = 0
    parameters: int = 0
    epochs: int = 0
    steps_per_epoch: int = 0
    total_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """The run goes on from a checkpoint: events at or after `offset` no longer count."""

    kind: ClassVar[str] = "run_resumed"
    offset: int
    step: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """A point of the training curves: means over the batches since the last one.

    `step` counts batches from 1 over the whole run, `epoch` from 1, `batch` from 1 within the
    epoch; `loss` is in nats a token; `memory` in bytes (resident, or allocated on the GPU).
    """

    kind: ClassVar[str] = "step"
    step: int
    epoch: int
    batch: int
    loss: float
    ppl: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    memory: int = 0
    utilisation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch(Event):
    """The end of an epoch, after validation. `seconds` is the epoch's time, validation included."""

    kind: ClassVar[str] = "epoch"
    epoch: int
    step: int
    train_loss: float
    valid_loss: float
    valid_ppl: float
    best_valid_loss: float
    best_epoch: int
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity(Event):
    """The sparsity of each tensor; `tensors` are rows of the table (name, shape, nnz, …).

    A row has at least: name, shape, dense (elements), nnz, fine (% of zeros), rows, cols (% of
    zero rows and columns), std, mean, abs_mean. Tied tensors stand once. `parameters` and
    `nonzero` count weights without biases; `total` is the sparsity in [0, 1].
    """

    kind: ClassVar[str] = "sparsity"
    step: int
    epoch: int
    tensors: tuple[Row, ...]
    parameters: int
    nonzero: int
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep(Event):
    """One tensor's mask was renewed; `target` and `reached` are sparsities in [0, 1].

    `target` is None where a threshold, and no level, decides what is pruned.
    """

    kind: ClassVar[str] = "prune_step"
    step: int
    epoch: int
    param: str
    target: float | None
    reached: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Event):
    """The activation ranges found for one module; `stats` as in the YAML file."""

    kind: ClassVar[str] = "calibration"
    module: str
    stats: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantResult(Event):
    """How one module was quantized; `settings` has bits, scale, zero point, clip, …; SQNR in dB."""

    kind: ClassVar[str] = "quant_result"
    module: str
    settings: Row
    sqnr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try(Event):
    """One setting that a search tried, and its price; `accepted` if it is within the budget."""

    kind: ClassVar[str] = "try"
    number: int
    settings: Row
    loss: float
    ppl: float
    bytes: int
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityPoint(Event):
    """One tensor (or gate, or the whole model) pruned alone to `level`, and what it costs.

    `part` is tensor, gate or model (for the dense model, at level 0, too); `granularity` is
    element, rows or blocks.
    """

    kind: ClassVar[str] = "sensitivity_point"
    tensor: str
    part: str
    granularity: str
    level: float
    ppl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Event):
    """Text that the run's model wrote."""

    kind: ClassVar[str] = "sample"
    prompt: str
    text: str
    settings: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Event):
    """A split scored: `loss` in nats a token over `tokens` predicted tokens."""

    kind: ClassVar[str] = "score"
    split: str
    loss: float
    ppl: float
    tokens: int
    tokens_per_s: float
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """How far a part of the run is that has no steps of its own."""

    kind: ClassVar[str] = "progress"
    what: str
    done: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint is on disk: `which` is last or best."""

    kind: ClassVar[str] = "checkpoint"
    which: str
    step: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged(Event):
    """The run was paused or went on."""

    kind: ClassVar[str] = "status"
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something that the user should know and that stops nothing."""

    kind: ClassVar[str] = "warning"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The run ended by an error; `reason` is one line in words."""

    kind: ClassVar[str] = "failed"
    reason: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run came to its end (`status` finished or stopped); `results` as in run.json."""

    kind: ClassVar[str] = "finished"
    status: str
    seconds: float
    test_loss: float | None = None
    test_ppl: float | None = None
    results: Row = field(default_factory=dict)


# Not `Event.__subclasses__()`: that still holds the classes from which `slots` made these.
_KINDS: dict[str, type[Event]] = {
    found.kind: found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, Event) and found is not Event
}
_FIELDS = {kind: {f.name: f for f in dataclasses.fields(cls)} for kind, cls in _KINDS.items()}
_NUMBERS = ("float", "float | None")
_NON_FINITE = {"nan", "inf", "-inf"}


def event_line(event: Event) -> bytes:
    """The event as one line of strict JSON."""
    document: Row = {"v": EVENT_VERSION, "kind": event.kind}
    for name in _FIELDS[event.kind]:
        document[name] = _strict(getattr(event, name))
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair (a file name that is no UTF-8) can stand only as an escape.
        return json.dumps(document, allow_nan=False).encode() + b"\n"


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def parse_event(line: bytes | str) -> Event | None:
    """The event of one line; None if the line is torn, damaged, or of a kind not known here."""
    try:
        document = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("v") != EVENT_VERSION:
        return None
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    known = _FIELDS[kind]
    values: Row = {}
    for name, value in document.items():
        if name not in known:
            continue
        if isinstance(value, str) and value in _NON_FINITE and known[name].type in _NUMBERS:
            value = float(value)
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        event = _KINDS[kind](**values)
    except TypeError:
        return None
    return event if all(_fits(event, spec) for spec in known.values()) else None


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


_TYPES: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "Row": (dict,),
    "tuple[Row, ...]": (tuple,),
}


def _fits(event: Event, spec: dataclasses.Field[Any]) -> bool:
    value = getattr(event, spec.name)
    types = _TYPES[str(spec.type)]
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, tuple):
        return tuple in types and all(isinstance(row, dict) for row in value)
    return isinstance(value, types)
