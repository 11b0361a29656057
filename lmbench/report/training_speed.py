"""How fast this machine has trained so far, and what that says of a training yet to start.

The figures are those that earlier runs of this machine wrote down while they trained; before there
is one, those of a trial (`jobs.speed_trial`). A model of another size is scaled by its arithmetic:
six operations for each weight of the recurrent layers and of the decoder, forwards and backwards,
for each token. Batches of another shape are scaled by what a batch costs beside its arithmetic. No
torch here.
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
from lmbench.corpus.files import user_cache
from lmbench.errors import LmbenchError
from lmbench.model_shapes import GATES
from lmbench.session.events import Step, parse_event
from lmbench.session.files import read_json, write_json
from lmbench.session.log_lines import last_lines
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

# What each step in time and each batch costs beside the arithmetic of its tokens (weights are read,
# updated and clipped), in the time that a token's arithmetic takes: fitted to a 2x200 model on a
# CPU, which trained at 1,172, 8,347 and 13,170 tokens/s in batches of 1, 20 and 200 texts.
_STEP_COST, _BATCH_COST = 3.8, 200.0
# The last so many bytes of a log hold enough steps for a median.
_TAIL_BYTES = 64 * 1024
_RUNS = 40
_TRIAL_VERSION = 1


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

    @property
    def cost(self) -> float:
        """Of a token: its operations, and its share of what a batch costs beside them."""
        return self.operations * _overhead(self.batch_size, self.bptt)


@dataclass(frozen=True)
class Speed:
    """Tokens a second to expect; `of` is the run that it is judged by, `scaled` tells whether
    that run's model or batches are of another size."""

    tokens_per_s: float
    of: Measured
    scaled: bool


def operations(config: TrainConfig, ntoken: int) -> float:
    """Floating point operations of training on one token, dropout and the loss left out."""
    gates, e, h = GATES[config.model], config.emsize, config.nhid
    weights = ntoken * h
    for layer in range(config.nlayers):
        weights += gates * h * ((e if layer == 0 else h) + h)
    return 6.0 * weights


def _overhead(batch_size: int, bptt: int) -> float:
    return 1 + _STEP_COST / batch_size + _BATCH_COST / (batch_size * bptt)


def measured_speeds(home: Home) -> list[Measured]:
    """What the newest trainings of this machine reached, newest first. Damaged runs are passed
    over: this is about speed, and others tell of damage."""
    found: list[tuple[Run, RunRecord]] = []
    for run in home.all_runs():
        try:
            record = run.read()
        except LmbenchError:
            continue
        if record.kind in ("train", "prune") and record.host == platform.node():
            found.append((run, record))
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
        config.bptt,
    )  # fmt: skip


def known_trial() -> Measured | None:
    """What a trial with this torch found on this machine; None where there was none."""
    try:
        document = read_json(_trial_path(), version=_TRIAL_VERSION)
        if document.get("made_by") != _made_by():
            return None
        found = Measured(**document["measured"])
        return found if found.tokens_per_s > 0 and found.operations > 0 else None
    except (LmbenchError, KeyError, TypeError):
        return None


def remember_trial(measured: Measured) -> None:
    """Keep it in the user's cache folder; where that is not allowed, it is measured again."""
    path = _trial_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            {"version": _TRIAL_VERSION, "made_by": _made_by(), "measured": asdict(measured)},
        )
    except OSError:
        return


def _trial_path() -> Path:
    return user_cache() / "trial.json"


def _made_by() -> dict[str, str | int | None]:
    """What the speed depends on, as far as it can be told without torch."""
    return {"host": platform.node(), "cores": os.cpu_count(), "torch": version("torch")}


def _last_steps(path: Path) -> list[Step]:
    events = (parse_event(line) for line in last_lines(path, _TAIL_BYTES))
    return [event for event in events if isinstance(event, Step)]


def expect(config: TrainConfig, ntoken: int, measured: Iterable[Measured]) -> Speed | None:
    """The speed that a training with these settings will about have, or None where nothing like
    it has been measured on this machine.

    The run whose model and batches are nearest in size, on the same kind of device and at the same
    precision where there is one, is taken for the measure. ``auto`` is whatever device was used
    last.
    """
    known = list(measured)
    device = config.device.partition(":")[0]
    if device == "auto" and known:
        device = max(known, key=lambda m: m.created).device.partition(":")[0]
    fitting = [m for m in known if m.device.partition(":")[0] == device]
    alike = [m for m in fitting if m.precision == config.precision] or fitting
    if not alike:
        return None
    cost = operations(config, ntoken) * _overhead(config.batch_size, config.bptt)
    nearest = min(alike, key=lambda m: (abs(math.log(m.cost / cost)), -m.created))
    factor = nearest.cost / cost
    return Speed(nearest.tokens_per_s * factor, nearest, abs(factor - 1) > 0.01)
