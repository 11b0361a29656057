"""What happens in a run, as typed events, and the lines that hold them.

One event is one line of strict JSON: ``{"v":1,"kind":"step","t":1763…,…}``. A reader skips
kinds that it does not know, lines that it cannot read and a last line that is torn off, so a log
is never fatal. Numbers that JSON has no word for are written as ``"nan"``, ``"inf"``, ``"-inf"``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from lmbench.session.tagged_lines import Number, TaggedLines

__all__ = [
    "Calibration",
    "Candidate",
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
    "Score",
    "SensitivityPoint",
    "Sparsity",
    "StatusChanged",
    "Step",
    "Warned",
    "event_line",
    "parse_event",
]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. `t` is seconds since the epoch."""

    v: Literal[1] = 1
    kind: str
    t: Number = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The worker has built everything and begins; `total_steps` is 0 where it is unknown."""

    kind: Literal["run_started"] = "run_started"
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

    kind: Literal["run_resumed"] = "run_resumed"
    offset: int
    step: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """A point of the training curves: means over the batches since the last one.

    `step` counts batches from 1 over the whole run, `epoch` from 1, `batch` from 1 within the
    epoch; `loss` is in nats a token; `memory` in bytes (resident, or allocated on the GPU).
    """

    kind: Literal["step"] = "step"
    step: int
    epoch: int
    batch: int
    loss: Number
    ppl: Number
    lr: Number
    grad_norm: Number
    tokens_per_s: Number
    memory: int = 0
    utilisation: Number = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch(Event):
    """The end of an epoch, after validation. `seconds` is the epoch's time, validation included."""

    kind: Literal["epoch"] = "epoch"
    epoch: int
    step: int
    train_loss: Number
    valid_loss: Number
    valid_ppl: Number
    best_valid_loss: Number
    best_epoch: int
    lr: Number
    seconds: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity(Event):
    """The sparsity of each tensor; `tensors` are rows of the table (name, shape, nnz, …).

    A row has at least: name, shape, dense (elements), nnz, fine (% of zeros), rows, cols (% of
    zero rows and columns), std, mean, abs_mean. Tied tensors stand once. `parameters` and
    `nonzero` count weights without biases; `total` is the sparsity in [0, 1].
    """

    kind: Literal["sparsity"] = "sparsity"
    step: int
    epoch: int
    tensors: tuple[Row, ...]
    parameters: int
    nonzero: int
    total: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep(Event):
    """One tensor's mask was renewed; `target` and `reached` are sparsities in [0, 1].

    `target` is None where a threshold, and no level, decides what is pruned.
    """

    kind: Literal["prune_step"] = "prune_step"
    step: int
    epoch: int
    param: str
    target: Number | None
    reached: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Event):
    """The activation ranges found for one module; `stats` as in the YAML file."""

    kind: Literal["calibration"] = "calibration"
    module: str
    stats: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantResult(Event):
    """How one module was quantized; `settings` has bits, scale, zero point, clip, …; SQNR in dB."""

    kind: Literal["quant_result"] = "quant_result"
    module: str
    settings: Row
    sqnr: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Event):
    """One setting that a search evaluated; `accepted` if it is within the budget."""

    kind: Literal["try"] = "try"
    number: int
    settings: Row
    loss: Number
    ppl: Number
    bytes: int
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPass(Event):
    """One pass of `evaluate --tune` over its text of `tokens` predicted tokens: the summed negative
    log-likelihoods in nats, without a cache and then with each setting of it, in a fixed order."""

    kind: Literal["tuning_pass"] = "tuning_pass"
    tokens: int
    nlls: tuple[Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityPoint(Event):
    """One tensor (or gate, or the whole model) pruned alone to `level`, and what it costs.

    `part` is tensor, gate or model (for the dense model, at level 0, too); `granularity` is
    element, rows or blocks.
    """

    kind: Literal["sensitivity_point"] = "sensitivity_point"
    tensor: str
    part: str
    granularity: str
    level: Number
    ppl: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Event):
    """A split scored: `loss` in nats a token over `tokens` predicted tokens. `name` tells the ways
    of scoring apart as the run's results do: ``cache_``, ``dynamic_``, ``cache_dynamic_``, or ""
    for the model's own."""

    kind: Literal["score"] = "score"
    split: str
    loss: Number
    ppl: Number
    tokens: int
    tokens_per_s: Number
    what: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """How far a part of the run is that has no steps of its own."""

    kind: Literal["progress"] = "progress"
    what: str
    done: Number
    total: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint is on disk: `which` is last or best."""

    kind: Literal["checkpoint"] = "checkpoint"
    which: str
    step: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged(Event):
    """The run was paused or went on."""

    kind: Literal["status"] = "status"
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something that the user should know and that stops nothing."""

    kind: Literal["warning"] = "warning"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The run ended by an error; `reason` is one line in words."""

    kind: Literal["failed"] = "failed"
    reason: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run came to its end (`status` finished or stopped); `results` as in run.json."""

    kind: Literal["finished"] = "finished"
    status: str
    seconds: Number
    test_loss: Number | None = None
    test_ppl: Number | None = None
    results: Row = field(default_factory=dict)


_AnyEvent = Annotated[
    RunStarted
    | RunResumed
    | Step
    | Epoch
    | Sparsity
    | PruneStep
    | Calibration
    | QuantResult
    | Candidate
    | TuningPass
    | SensitivityPoint
    | Score
    | Progress
    | Checkpoint
    | StatusChanged
    | Warned
    | Failed
    | Finished,
    Field(discriminator="kind"),
]
_lines: TaggedLines[Event] = TaggedLines(_AnyEvent, extra="ignore")


def event_line(event: Event) -> bytes:
    """The event as one line of strict JSON."""
    return _lines.line(event)


def parse_event(line: bytes | str) -> Event | None:
    """The event of one line; None if the line is torn, damaged, or of a kind not known here."""
    try:
        return _lines.parse(line)
    except ValueError:
        return None
