"""Early stopping of a sweep's trainings: what its records say of each rung, and what follows.

A worker whose training comes to a rung notes its figure in the record and ends there, unless it is
certain already that its setting goes on (`watch_rungs`). Whoever works through the queue then looks
at all of them (`settle`): what is promoted is queued again and goes on from its checkpoint, what is
not is stopped for good, and so is all that would have started from it. All of it follows from the
records, so whoever dies on the way, the next to look ends in the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from lmbench.config import TrainConfig, parse_config
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.schedules.checking import Schedule, load_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import SCHEDULE_FILE
from lmbench.jobs.job import Halt, Job
from lmbench.jobs.run_schedule import plan_on_shape
from lmbench.jobs.sweeps.halving import Entrant, Verdict, rungs_of, verdicts
from lmbench.jobs.sweeps.kept_file import Made, has_sweep, made_records, sweep_of
from lmbench.jobs.sweeps.plan import Plan, plan_of
from lmbench.jobs.sweeps.sweep_file import Halving
from lmbench.report.numbers import plural
from lmbench.report.seeds import one_setting
from lmbench.session.store import Run, RunRecord, Session

__all__ = ["Classes", "settle", "size_class", "watch_rungs"]

_SHAPE = ("model", "emsize", "nhid", "nlayers", "tied", "projection")


@dataclass(frozen=True)
class SizeClass:
    """What must be equal for two trainings of a stage to be compared: `target` is the sparsity that
    the schedule ends with, to a tenth of a per cent, or the schedule itself where that is not
    known; `bits` the quantizer that it trains with."""

    stage: int
    text: tuple[str | None, str]
    shape: tuple[Any, ...]
    epochs: int
    target: float | str
    bits: str


def size_class(
    stage: int, config: TrainConfig, schedule: Schedule | None, types: int
) -> tuple[SizeClass, int]:
    """The class of a training, and after how many epochs its pruning is no longer ramping.

    Args:
        types: of its corpus.
    """
    target, ramp, bits = 0.0, 0, ""
    if schedule is not None:
        final = plan_on_shape(schedule, config, types, config.epochs).final_sparsity
        target = str(config.compress) if final is None else round(final, 3)
        acting = [policy.run[-1] for policy in schedule.policies if policy.kind != "lr_scheduler"]
        ramp = max(acting, default=0)
        quantizers = schedule.components.get("quantizer", {})
        bits = repr([(q.class_name, q.arguments()) for q in quantizers.values()])
    shape = tuple(getattr(config, name) for name in _SHAPE)
    text = (config.data, config.vocab)
    return SizeClass(stage, text, shape, config.epochs, target, bits), ramp


@dataclass(frozen=True)
class _Class:
    """The trainings of one size class, each list the seeds of one setting."""

    rungs: list[int]
    settings: list[list[Run]]
    verdicts: list[dict[int, Verdict]]


class Classes:
    """Where a sweep's trainings stand at their rungs, as its records had it."""

    def __init__(self, plan: Plan, made: Made, halving: Halving) -> None:
        # What is of no point of the plan is no run of this sweep.
        self.made = {point: run for point, run in made.items() if point in plan.keys}
        self._plan, self._halving = plan, halving
        self._records = {run.ref: record for run, record in made.values()}
        self._schedules: dict[str, Schedule] = {}
        self._sizes: dict[tuple[int, TrainConfig], tuple[SizeClass, int]] = {}

    @property
    def whole(self) -> bool:
        """Are all runs made? Until then no class is known."""
        return len(self.made) == len(self._plan.points)

    def rungs(self, run: Run) -> list[int]:
        """The epochs after which a training has a rung; none for what does not train."""
        found = self._of_run.get(run.ref)
        return found[0].rungs if found else []

    def verdict(self, run: Run, epochs: int) -> Verdict | None:
        """What becomes of a run at the rung after so many epochs; None where it has no part in
        that."""
        found = self._of_run.get(run.ref)
        return found[0].verdicts[found[1]].get(epochs) if found else None

    @cached_property
    def _of_run(self) -> dict[str, tuple[_Class, int]]:
        """For each training its class, and the number of its setting there."""
        members: dict[SizeClass, list[Run]] = {}
        ramps: dict[SizeClass, int] = {}
        for run, record in self.made.values():
            if record.kind != "quantize":
                size, ramp = self._size(run, record)
                members.setdefault(size, []).append(run)
                ramps[size] = max(ramp, ramps.get(size, 0))
        found = {}
        for size, runs in members.items():
            one = self._class(size, runs, ramps[size])
            for number, setting in enumerate(one.settings):
                found |= {run.ref: (one, number) for run in setting}
        return found

    def _class(self, size: SizeClass, runs: list[Run], ramp: int) -> _Class:
        halving = self._halving
        rungs = rungs_of(halving.first_rung, halving.eta, ramp, size.epochs)
        settings = one_setting(runs, self._records)
        entrants = [self._entrant(setting, rungs) for setting in settings]
        known = verdicts(entrants, rungs, halving.eta) if self.whole else [{} for _ in entrants]
        return _Class(rungs, settings, known)

    def _entrant(self, setting: Sequence[Run], rungs: Sequence[int]) -> Entrant:
        records = [self._records[run.ref] for run in setting]
        figures = {}
        for epochs in rungs:
            there = [_figure(record, epochs) for record in records]
            here = [figure for figure in there if figure is not None]
            waited = any(
                figure is None and _is_open(record)
                for figure, record in zip(there, records, strict=True)
            )
            if here and not waited:
                figures[epochs] = fmean(here)
        return Entrant(figures, any(map(_is_open, records)))

    def _size(self, run: Run, record: RunRecord) -> tuple[SizeClass, int]:
        config = parse_config(record.kind, record.config)
        assert isinstance(config, TrainConfig)
        stage = self._plan.points[self._plan.keys[record.point]].stage
        key = (stage, config.model_copy(update={"seed": 0}))
        if key not in self._sizes:
            schedule = self._schedule(run, config) if config.compress is not None else None
            types = self._types.get((config.data, config.vocab), 1)
            self._sizes[key] = size_class(stage, config, schedule, types)
        return self._sizes[key]

    def _schedule(self, run: Run, config: TrainConfig) -> Schedule:
        assert config.compress is not None
        if config.compress not in self._schedules:
            try:
                self._schedules[config.compress] = load_schedule(run.path / SCHEDULE_FILE)
            except ScheduleError as error:
                raise LmbenchError(*error.problems) from None
        return self._schedules[config.compress]

    @cached_property
    def _types(self) -> dict[tuple[str | None, str], int]:
        """The types of each corpus that a run has begun with."""
        return {
            (record.config.get("data"), record.corpus.vocab): record.corpus.ntokens
            for record in self._records.values()
            if record.corpus is not None
        }


def _figure(record: RunRecord, epochs: int) -> float | None:
    noted = record.results.get("rungs", {})
    if str(epochs) not in noted:
        return None
    figure = noted[str(epochs)]
    # A perplexity that is not finite is kept as null.
    return math.inf if figure is None else figure


def _is_open(record: RunRecord) -> bool:
    """May it come to a rung that it has not reached?"""
    return record.status not in ("finished", "failed") and record.early_stopping != "stopped"


def classes_of(session: Session) -> Classes | None:
    """None where the session's sweep has no early stopping."""
    sweep = sweep_of(session)
    if sweep.early_stopping is None:
        return None
    return Classes(plan_of(sweep), made_records(session), sweep.early_stopping)


# -- the worker's part ----------------------------------------------------------------------------


def watch_rungs(job: Job) -> Callable[[int, float], bool]:
    """For the trainer to ask, between two epochs, whether the training ends here: how many epochs
    were trained, and the best validation perplexity so far. Where it does, `job.halt` says why."""
    of_sweep = job.record.point and has_sweep(job.session)
    classes = classes_of(job.session) if of_sweep else None
    rungs = frozenset(classes.rungs(job.run)) if classes else frozenset()

    def halts(epochs: int, valid_ppl: float) -> bool:
        if epochs not in rungs:
            return False
        noted = {**job.record.results.get("rungs", {}), str(epochs): valid_ppl}
        job.add_results(rungs=noted)
        if job.record.early_stopping == "off":
            return False
        now = classes_of(job.session)
        verdict = now.verdict(job.run, epochs) if now else None
        goes_on = verdict.goes_on if verdict else None
        if not goes_on:
            kind = "waits" if goes_on is None else "stopped"
            whole = now is not None and now.whole
            job.halt = Halt(kind, _reason(verdict, epochs, valid_ppl, whole))
        return job.halt is not None

    return halts


def _reason(verdict: Verdict | None, epochs: int, valid_ppl: float, whole: bool = True) -> str:
    if verdict is None:
        there = f"the rung after epoch {epochs} with valid ppl {valid_ppl:.2f}"
        resume = "runs of the sweep are missing, and lmbench sweep resume makes them"
        return f"waits at {there}: {'other seeds of it are not there' if whole else resume}"
    where = f"rung {verdict.number} (epoch {epochs})"
    own = f"valid ppl {verdict.figure or valid_ppl:.2f}"
    if verdict.goes_on is None:
        settings = plural(verdict.expected, "setting")
        return f"waits at {where} with {own}: {verdict.there} of {settings} are there"
    return f"stopped early at {where}: {own}, had to beat {verdict.to_beat:.2f}"


# -- the queue's part -----------------------------------------------------------------------------


def settle(session: Session) -> None:
    """Queue again what is promoted at its rung, and stop for good what is not, with all that would
    start from it.

    Raises:
        LmbenchError: the sweep cannot be read.
    """
    classes = classes_of(session)
    if classes is None:
        return
    stopped: set[str] = set()
    for run, record in classes.made.values():
        if record.early_stopping == "stopped":
            stopped.add(run.ref)
        if record.status == "queued" and record.parent in stopped:
            _stop_descendant(run, record.parent)
            stopped.add(run.ref)
        if record.early_stopping != "waits":
            continue
        noted = record.results.get("rungs", {})
        epochs = max(map(int, noted), default=0)
        verdict = classes.verdict(run, epochs)
        # Where its class turned out to have no rung there, it goes on to the next.
        if epochs not in classes.rungs(run) or (verdict and verdict.goes_on):
            run.transition("queued", only_if=_waits, early_stopping="")
        elif verdict and verdict.goes_on is False:
            reason = _reason(verdict, epochs, noted[str(epochs)] or math.inf)
            run.transition(
                "stopped",
                only_if=_waits,
                early_stopping="stopped",
                reason=reason,
                ended=record.ended,
            )
            stopped.add(run.ref)


def _waits(record: RunRecord) -> bool:
    return record.status == "stopped" and record.early_stopping == "waits"


def _stop_descendant(run: Run, parent: str) -> None:
    """Take out of the queue what would start from a run that was stopped early."""
    run.transition(
        "stopped",
        only_if=lambda now: now.status == "queued",
        early_stopping="stopped",
        reason=f"not begun: {parent} was stopped early",
    )
