"""How fast this machine has trained so far, and what that says of a training yet to start.

The figures are those that earlier runs of this machine wrote down while they trained; before there
is one, those of a trial (`jobs.speed_trial`). A model of another size is scaled by its arithmetic:
six operations for each weight of the recurrent layers and of the decoder, forwards and backwards,
for each token. Beside that stands what tokens, steps and batches cost whatever the size. No torch
here.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session.events import Step, parse_event
from lmbench.session.log_lines import last_lines
from lmbench.session.remembered import recall, remember
from lmbench.session.store import Home, Run, RunRecord

__all__ = [
    "Measured",
    "Speed",
    "expect",
    "known_trial",
    "measured_speeds",
    "operations",
    "remember_trial",
]

# What a training costs beside the arithmetic of its tokens, fitted to 24 short ones on CPUs: 21 on
# a Zen 4, of 32 to 650 units, 5,300 to 33,278 words, batches of 1 to 200 texts and 10 to 140 steps,
# and three of a 2x200 model on another machine. None is further off than by a factor of 1.5.
# In the time that a token's arithmetic takes: reading the weights at each step, and updating and
# clipping them at each batch.
_READING, _UPDATING = 3.6, 90.0
# Whatever the size, in operations: of each token, of each layer at each step, and of each batch.
_TOKEN, _LAYER_STEP, _BATCH = 3.1e6, 2.7e6, 790e6
# The last so many bytes of a log hold enough steps for a median.
_TAIL_BYTES = 64 * 1024
_RUNS = 40


@dataclass(frozen=True)
class Measured:
    """What one training of this machine reached: tokens a second at `operations` a token."""

    ref: str
    device: str
    precision: str
    operations: float
    tokens_per_s: float
    created: float
    batch_size: int = TrainConfig().batch_size
    bptt: int = TrainConfig().bptt
    nlayers: int = TrainConfig().nlayers
    sampled: bool = False

    @property
    def cost(self) -> float:
        """Of a token, in operations: its own, and its share of what else a batch costs."""
        return _cost(self.operations, self.batch_size, self.bptt, self.nlayers)


@dataclass(frozen=True)
class Speed:
    """Tokens a second to expect; `of` is the run that it is judged by, `scaled` tells whether
    that run's model or batches are of another size."""

    tokens_per_s: float
    of: Measured
    scaled: bool


def operations(config: TrainConfig, ntoken: int) -> float:
    """Floating point operations of training on one token, dropout and the loss left out."""
    shapes = config.parameter_shapes(ntoken)
    inner = ("rnn.weight_", "projection.")
    recurrent = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(inner))
    return 6.0 * (recurrent + ntoken * (config.emsize if config.projection else config.nhid))


def _cost(operations: float, batch_size: int, bptt: int, nlayers: int) -> float:
    tokens = batch_size * bptt
    arithmetic = operations * (1 + _READING / batch_size + _UPDATING / tokens)
    return arithmetic + _TOKEN + _LAYER_STEP * nlayers / batch_size + _BATCH / tokens


def measured_speeds(home: Home) -> list[Measured]:
    """What the newest trainings of this machine reached, newest first. Damaged runs are passed
    over: this is about speed, and others tell of damage."""
    found = [
        (run, record)
        for run in home.all_runs()
        if (record := run.read_if_readable())
        and record.kind in ("train", "prune")
        and record.host == platform.node()
    ]
    found.sort(key=lambda pair: pair[1].created, reverse=True)
    speeds = (_measured(run, record) for run, record in found[:_RUNS])
    return [speed for speed in speeds if speed is not None]


def _measured(run: Run, record: RunRecord) -> Measured | None:
    ntoken = record.shape.get("ntoken")
    try:
        config = run.config()
    except LmbenchError:
        return None
    if not isinstance(config, TrainConfig) or not isinstance(ntoken, int) or not record.device:
        return None
    if config.processes > 1:
        # Nothing here says how much of that speed one of them has.
        return None
    rates = [step.tokens_per_s for step in _last_steps(run.events_path)]
    rates = [rate for rate in rates if math.isfinite(rate) and rate > 0]
    if not rates:
        return None
    rate = statistics.median(rates)
    cost = operations(config, ntoken)
    return Measured(
        run.ref, record.device, config.precision, cost, rate, record.created, config.batch_size,
        config.bptt, config.nlayers, config.gradient_samples > 0,
    )  # fmt: skip


def known_trial() -> Measured | None:
    """What a trial with this torch found on this machine; None where there was none."""
    try:
        found = Measured(**recall("trial", _made_by()))
        return found if found.tokens_per_s > 0 and found.operations > 0 else None
    except TypeError:
        return None


def remember_trial(measured: Measured) -> None:
    """Keep it in the user's cache folder; where that is not allowed, it is measured again."""
    remember("trial", _made_by(), asdict(measured))


def _made_by() -> str:
    """What the speed depends on, as far as it can be told without torch."""
    return f"{platform.node()}, {os.cpu_count()} cores, torch {version('torch')}"


def _last_steps(path: Path) -> list[Step]:
    events = (parse_event(line) for line in last_lines(path, _TAIL_BYTES))
    return [event for event in events if isinstance(event, Step)]


def expect(config: TrainConfig, ntoken: int, measured: Iterable[Measured]) -> Speed | None:
    """The speed that a training with these settings will about have, or None where nothing like
    it has been measured on this machine.

    The run whose model and batches are nearest in size, on the same kind of device, and where there
    is one with a sampled gradient or without and at the same precision, is taken for the measure.
    ``auto`` is whatever device was used last.
    """
    known = list(measured)
    device = config.device.partition(":")[0]
    if device == "auto" and known:
        device = max(known, key=lambda m: m.created).device.partition(":")[0]
    fitting = [m for m in known if m.device.partition(":")[0] == device]
    if not fitting:
        return None
    cost = _cost(operations(config, ntoken), config.batch_size, config.bptt, config.nlayers)

    def distance(one: Measured) -> tuple[bool, bool, float, float]:
        sampled = one.sampled == (config.gradient_samples > 0)
        same = one.precision == config.precision
        return not sampled, not same, abs(math.log(one.cost / cost)), -one.created

    nearest = min(fitting, key=distance)
    factor = nearest.cost / cost
    return Speed(nearest.tokens_per_s * factor, nearest, abs(factor - 1) > 0.01)
