"""The laboratory's messages: requests to evaluate settings, and the results. No torch here.

The laboratory (`hosts.laboratory`) is a process of its own that holds one run's model, a sample of
text and the activation ranges, and evaluates a setting on them within seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from lmbench.config import QuantizeConfig, SplitName
from lmbench.distiller.quantization.settings import Role
from lmbench.jobs.hosts.messages import Client, Died, Message, Messages, Refused
from lmbench.session import Run
from lmbench.session.tagged_lines import Number, TaggedLines
from lmbench.training.thread_environment import worker_environment

__all__ = [
    "MESSAGES",
    "SAMPLE_TOKENS",
    "Died",
    "Evaluate",
    "Evaluated",
    "LaboratoryClient",
    "Message",
    "Module",
    "OpenModel",
    "Preset",
    "Progress",
    "Prune",
    "Ready",
    "Refused",
    "stamp_of",
]

SAMPLE_TOKENS = 20_480
"""How much of the validation set candidates are evaluated on."""


def stamp_of(run: Run, checkpoint: str = "best") -> int:
    """What tells whether a run's model is still the one that it was: when its file was written, in
    nanoseconds; 0 where there is none."""
    folder = run.checkpoint(checkpoint)
    try:
        return (folder / "model.safetensors").stat().st_mtime_ns if folder else 0
    except OSError:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel(Message):
    """Request: load the model of a run (its folder) and all that evaluating it needs."""

    kind: Literal["open_model"] = "open_model"
    run: str
    tokens: int = SAMPLE_TOKENS
    calibrate_on: SplitName = QuantizeConfig().calibrate_on
    calibration_tokens: int = QuantizeConfig().calibration_tokens
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Message):
    """Request: quantize with these settings (`QuantSettings.to_dict`) and score; {} for the model
    as it is."""

    kind: Literal["evaluate"] = "evaluate"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Message):
    """Request: prune `target` (a tensor, or ``model`` for each matrix) to `level` in [0, 1) by
    magnitude, at once, and score."""

    kind: Literal["prune"] = "prune"
    target: str
    level: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """Answer: how far the request is."""

    kind: Literal["progress"] = "progress"
    what: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module that can be quantized: its weights (0 for none) in rows of so many columns, its role
    in a cell, and its output's range, with a histogram of `counts` between `low` and `high`."""

    name: str
    type: str
    role: Role
    weights: int
    columns: int
    low: Number
    high: Number
    std: Number
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings by name, whole; `published` marks the rows of the published table."""

    name: str
    about: str
    published: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """Answer: the laboratory is set up. `loss` and `bytes` are the model's as it is, `stamp` is its
    `stamp_of`; `targets` are what can be pruned."""

    kind: Literal["ready"] = "ready"
    stamp: int
    loss: Number
    bytes: int
    tokens: int
    modules: tuple[Module, ...]
    presets: tuple[Preset, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Message):
    """Answer: `loss` in nats a token over `tokens`; `bytes` of the packed model (of a pruned one
    about, nothing rounded); of `weights`, tied ones once, `nonzero` are left."""

    kind: Literal["evaluated"] = "evaluated"
    loss: Number
    ppl: Number
    tokens: int
    bytes: int
    weights: int
    nonzero: int
    seconds: Number


MESSAGES: Messages = TaggedLines(
    Annotated[
        OpenModel | Evaluate | Prune | Progress | Ready | Evaluated | Refused | Died,
        Field(discriminator="kind"),
    ],
    extra="forbid",
)


class LaboratoryClient(Client):
    """The laboratory as its user's event loop sees it."""

    name = "laboratory"
    messages = MESSAGES

    def environment(self) -> Mapping[str, str]:
        """A worker's: a run that is kept is scored on the same cores."""
        return worker_environment()
