"""Asking the laboratory for prices: the messages both sides speak (see `talk`). No torch here.

The laboratory (`hosts.laboratory`) is a process of its own that holds one run's model, a
sample of text and the activation ranges, and tells what a setting costs within seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmbench.config import QuantizeConfig
from lmbench.distiller.quantization.settings import Role
from lmbench.jobs.hosts.messages import Client, Died, Language, Message, Refused
from lmbench.jobs.supervisor import python
from lmbench.training.thread_environment import worker_environment

__all__ = [
    "LANGUAGE",
    "SAMPLE_TOKENS",
    "Died",
    "LaboratoryClient",
    "Message",
    "Module",
    "Preset",
    "Price",
    "Priced",
    "Probe",
    "Prune",
    "Ready",
    "Refused",
    "Working",
]

SAMPLE_TOKENS = 20_480
"""Of the validation set what a price is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Message):
    """Asked: load this run's model and all that pricing it needs. `run` is a run's folder."""

    kind: ClassVar[str] = "probe"
    run: str
    split: str = "valid"
    tokens: int = SAMPLE_TOKENS
    calibrate_on: str = QuantizeConfig().calibrate_on
    calibration_tokens: int = QuantizeConfig().calibration_tokens
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Message):
    """Asked: quantize with these settings (`QuantSettings.to_dict`) and score; {} for the model as
    it is."""

    kind: ClassVar[str] = "price"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Message):
    """Asked: prune `target` (a tensor, or ``model`` for each matrix) to `level` in [0, 1) by
    magnitude, at once, and score."""

    kind: ClassVar[str] = "prune"
    target: str
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Working(Message):
    """Told: how far the request is."""

    kind: ClassVar[str] = "working"
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
    low: float
    high: float
    mean: float
    std: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings by name, whole; `published` tells the rows of the published table."""

    name: str
    about: str
    published: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Message):
    """Told: the laboratory is set up. `loss` and `bytes` are the model's as it is; `targets` are
    what can be pruned."""

    kind: ClassVar[str] = "ready"
    loss: float
    bytes: int
    tokens: int
    device: str
    modules: tuple[Module, ...]
    presets: tuple[Preset, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced(Message):
    """Told: the price. `loss` in nats a token over `tokens`; `bytes` of the packed model (of a
    pruned one in fp32, about); of `weights`, tied ones once, `nonzero` are left."""

    kind: ClassVar[str] = "priced"
    loss: float
    ppl: float
    tokens: int
    bytes: int
    weights: int
    nonzero: int
    seconds: float


LANGUAGE = Language((Probe, Price, Prune, Working, Ready, Priced, Refused, Died), (Module, Preset))


class LaboratoryClient(Client):
    """The laboratory as its user's event loop sees it."""

    name = "laboratory"
    language = LANGUAGE

    def command(self) -> list[str]:
        return python("lmbench.jobs.hosts.laboratory")

    def environment(self) -> Mapping[str, str]:
        """A worker's: a run that is kept is scored on the same cores."""
        return worker_environment()
