"""A run's compression schedule: found and checked before it starts, kept in its folder.

The text that a run was started with is copied to ``RUN/schedule.yaml``, so that editing the file
it came from changes nothing about a run that is resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lmbench.config import ModelConfig, TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.presets import find_schedule
from lmbench.distiller.schedule import Schedule, check_parameters, load_schedule
from lmbench.errors import LmbenchError
from lmbench.session.files import write_atomic
from lmbench.session.store import Home, Run

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lmbench.distiller import CompressionScheduler

__all__ = ["attach_schedule", "build_scheduler", "check_schedule", "parameter_shapes"]

SCHEDULE_FILE = "schedule.yaml"

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def check_schedule(config: TrainConfig, home: Home) -> Schedule | None:
    """Read and check the schedule that the settings name, against the model that they describe.

    A relative path is looked for in the current folder, then in the working folder.

    Raises:
        LmbenchError: a line for each mistake.
    """
    if config.compress is None:
        return None
    try:
        schedule = load_schedule(_file(config.compress, home.path))
        shapes = parameter_shapes(config, 1)
        names = {name: name for name in shapes}
        if config.tied:
            names["decoder.weight"] = "encoder.weight"
        check_parameters(schedule, names, f"this {config.model}")
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
    return schedule


def _file(name_or_path: str, home: Path) -> Path:
    beside = home / name_or_path
    if not Path(name_or_path).is_file() and beside.is_file():
        return beside
    return find_schedule(name_or_path)


def parameter_shapes(config: ModelConfig, ntoken: int) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of the model that the settings describe; tied ones once."""
    gates, e, h = _GATES[config.model], config.emsize, config.nhid
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (ntoken, e)}
    for layer in range(config.nlayers):
        width = e if layer == 0 else h
        shapes[f"rnn.weight_ih_l{layer}"] = (gates * h, width)
        shapes[f"rnn.weight_hh_l{layer}"] = (gates * h, h)
        shapes[f"rnn.bias_ih_l{layer}"] = (gates * h,)
        shapes[f"rnn.bias_hh_l{layer}"] = (gates * h,)
    if not config.tied:
        shapes["decoder.weight"] = (ntoken, h)
    shapes["decoder.bias"] = (ntoken,)
    return shapes


def attach_schedule(run: Run, config: TrainConfig) -> None:
    """Copy the schedule's text into the run's folder."""
    if config.compress is not None:
        text = _file(config.compress, run.home.path).read_bytes()
        write_atomic(run.path / SCHEDULE_FILE, text)


def build_scheduler(
    run: Run, config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer
) -> CompressionScheduler | None:
    """The scheduler of the run's own copy of its schedule, or None where it has none.

    Raises:
        LmbenchError: the schedule is wrong for this model, a line for each mistake.
    """
    if config.compress is None:
        return None
    from lmbench.distiller import file_config

    if not (run.path / SCHEDULE_FILE).is_file():
        attach_schedule(run, config)
    try:
        return file_config(model, optimizer, run.path / SCHEDULE_FILE)
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
