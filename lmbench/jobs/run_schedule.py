"""A run's compression schedule: checked before it starts, built from the run's own copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmbench.config import TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.schedules.checking import Schedule, check_parameters, load_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import SCHEDULE_FILE, attach, own_files, schedule_file
from lmbench.session.store import Home, Run

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lmbench.distiller import CompressionScheduler
    from lmbench.distiller.schedules.plan import SchedulePlan

__all__ = [
    "build_scheduler",
    "check_building",
    "check_schedule",
    "plan_on_run",
    "plan_on_shape",
    "read_schedule",
]


def check_schedule(config: TrainConfig, home: Home) -> Schedule | None:
    """Read and check the schedule that the settings name, against the model that they describe.

    A relative path is looked for in the current folder, then in the working folder.

    Raises:
        LmbenchError: a line for each mistake.
    """
    if config.compress is None:
        return None
    try:
        schedule = read_schedule(config.compress, home)
        names, shapes = config.parameter_names(), config.parameter_shapes(1)
        check_parameters(schedule, names, f"this {config.model}", shapes)
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
    if config.processes > 1 and schedule.components["quantizer"]:
        raise LmbenchError(
            f"{config.processes_flags}: schedule {config.compress} quantizes while it trains, and "
            "the ranges that it finds would be others on each GPU; train on one"
        )
    if any(policy.kind == "lr_scheduler" for policy in schedule.policies):
        _refuse_another_rate(config)
    return schedule


def _refuse_another_rate(config: TrainConfig) -> None:
    """Raises LmbenchError where the settings move the learning rate, as the schedule does."""
    if config.warmup:
        given = f"--warmup {config.warmup:g}"
    elif config.warmup_steps:
        given = f"--warmup-steps {config.warmup_steps}"
    elif config.rate_schedule in ("cosine", "onecycle", "linear"):
        given = f"--lr-schedule {config.rate_schedule}"
    elif config.rate_schedule == "decay" and config.decay not in (None, 1):
        given = f"--decay {config.decay:g}"
    else:
        return
    raise LmbenchError(
        f"{given}: schedule {config.compress} sets the learning rate itself (lr_schedulers); take "
        "that out of the schedule, or give --lr-schedule plateau, no --decay and no warm-up"
    )


def check_building(config: TrainConfig, schedule: Schedule) -> None:
    """Build a schedule's policies as the start of its run will, for a model without weights.

    Only where that can show a mistake that `check_schedule` does not: it imports torch.

    Raises:
        LmbenchError: a line for each mistake.
    """
    if not schedule.needs_model:
        return
    import torch

    from lmbench.distiller import build_scheduler
    from lmbench.model.rnn import build_model
    from lmbench.training.optimizer import build_optimizer

    with torch.device("meta"):
        model = build_model(config, 2)
    try:
        build_scheduler(schedule, model, build_optimizer(model, config))
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None


def read_schedule(name: str, home: Home) -> Schedule:
    """Read and check a schedule, whatever the model: a path as in `check_schedule`, or a preset.

    Raises:
        LmbenchError: a line for each mistake.
    """
    try:
        return load_schedule(schedule_file(name, home))
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None


def plan_on_run(
    schedule: Schedule, run: Run, epochs: int | None = None, *, projection: bool = False
) -> SchedulePlan:
    """What a schedule will leave of the weights of a trained run.

    Args:
        projection: rotate them first, as a pruning by `--projection` does, where there is none yet.

    Raises:
        LmbenchError: the run has no plain model, or the schedule names what the model has not.
    """
    from lmbench.deploy.load_model import load_run
    from lmbench.distiller.schedules.model_plan import plan_for_model
    from lmbench.model.rotation import rotated

    model = load_run(run).recurrent
    if projection and model.projection is None:
        model = rotated(model)
    try:
        return plan_for_model(schedule, model, epochs)
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None


def plan_on_shape(
    schedule: Schedule, config: TrainConfig, ntoken: int, epochs: int | None = None
) -> SchedulePlan:
    """What a schedule will leave of the model that the settings describe."""
    from lmbench.distiller.schedules.plan import predict_sparsity

    names, shapes = config.parameter_names(), config.parameter_shapes(ntoken)
    return predict_sparsity(schedule, shapes, names, epochs)


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
        attach(run, own_files(config, run.home))
    try:
        return file_config(model, optimizer, run.path / SCHEDULE_FILE)
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
