"""What the schedule of a run that is not started yet will leave of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from lmbench.config import TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import schedule_file
from lmbench.jobs.run_schedule import check_schedule, plan_on_shape
from lmbench.session.files import file_stamp
from lmbench.session.store import Home

__all__ = ["ScheduleOutlook", "schedule_outlook", "schedule_stamp"]


@dataclass(frozen=True)
class ScheduleOutlook:
    """`reached` is the sparsity in the end, None where thresholds decide; `warning` what is wrong
    with the schedule, or what a training of so few epochs loses of it."""

    reached: float | None = None
    warning: str = ""


def schedule_outlook(config: TrainConfig, ntoken: int, home: Home) -> ScheduleOutlook | None:
    """In a thread: of the schedule that the settings name; None where they name none."""
    try:
        schedule = check_schedule(config, home)
        if schedule is None:
            return None
        plan = plan_on_shape(schedule, config, ntoken, config.epochs)
    except LmbenchError as error:
        return ScheduleOutlook(warning=error.message.partition("\n")[0])
    return ScheduleOutlook(plan.final_sparsity, plan.cut_short)


def schedule_stamp(config: TrainConfig, home: Home) -> object:
    """What tells whether the file of a schedule is still the one that it was."""
    try:
        return file_stamp(schedule_file(config.compress, home)) if config.compress else None
    except (LmbenchError, ScheduleError):
        return None
