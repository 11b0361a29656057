"""What a sweep would ask for, judged before anything is made: corpora, schedules, quantizations,
and then hours and disk."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from lmbench.config import Config, QuantizeConfig, TrainConfig
from lmbench.corpus import Corpus, open_corpus
from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import seconds_of
from lmbench.jobs.input_files import settings_file, stats_file
from lmbench.jobs.prepare import check_training
from lmbench.jobs.queue import queue_device
from lmbench.jobs.run_schedule import check_building, check_schedule
from lmbench.jobs.sweeps.early_stopping import SizeClass, size_class
from lmbench.jobs.sweeps.halving import rungs_of
from lmbench.jobs.sweeps.plan import Plan, PlannedRun
from lmbench.report.estimate import estimate
from lmbench.report.training_speed import known_trial, measured_speeds
from lmbench.session.store import Home

__all__ = ["Forecast", "check_runs", "forecast", "stage_rungs"]

_JUDGED = (
    *("data", "vocab", "batch_size", "bptt", "eval_batch_size", "compress", "teacher", "model"),
    *("emsize", "nhid", "nlayers", "tied", "projection", "momentum", "gpus", "nodes"),
    "optimizer",
    *("lr_schedule", "decay", "warmup", "warmup_steps"),
)
"""The settings of a training that its corpus, schedule and teacher have to fit."""
_FLOAT = 4


@dataclass(frozen=True)
class Forecast:
    """What a stage will take: `seconds` is None where nothing was measured here to judge by, or for
    a search; `bytes` are about those of its checkpoints."""

    stage: str
    kind: str
    runs: int
    seconds: float | None
    bytes: int


def check_runs(
    plan: Plan,
    runs: list[PlannedRun],
    home: Home,
    session: str,
    progress: Progress | None = None,
) -> None:
    """See that the settings of all runs fit what they name.

    Args:
        session: where a teacher's bare number is looked for.

    Raises:
        LmbenchError: a line for each thing that is wrong.
    """
    found: list[str] = []
    _check_devices(plan, runs)
    for one, model in _different(runs):
        where = ["stages", one.point.stage]
        try:
            if isinstance(one.step.config, TrainConfig):
                check_training(
                    one.step.config, home, progress, has_parent=one.has_parent, session=session,
                    parent=one.source,
                )  # fmt: skip
                schedule = check_schedule(one.step.config, home)
                if schedule is not None:
                    check_building(one.step.config, schedule)
            else:
                assert isinstance(one.step.config, QuantizeConfig)
                _check_quantization(one.step.config, model, home)
        except LmbenchError as error:
            found += [plan.sweep.problem(where, line) for line in error.message.split("\n")]
    if found:
        raise LmbenchError(*dict.fromkeys(found))
    if any(model.nodes > 1 for _, model in _different(runs)):
        line = "nodes of more than 1 is for single runs, which other machines join; take it away"
        raise LmbenchError(plan.sweep.problem(["stages"], line))
    halving = plan.sweep.early_stopping
    if halving is not None and any(model.processes > 1 for _, model in _different(runs)):
        line = "a training with gpus of more than 1 has no rungs; take one of the two away"
        raise LmbenchError(plan.sweep.problem(["early_stopping"], line))
    if halving is not None and not any(stage_rungs(plan, runs, home).values()):
        line = (
            f"stops nothing: no training goes on past {halving.first_rung} epochs after the end of "
            "its pruning; give more epochs, or take it away"
        )
        raise LmbenchError(plan.sweep.problem(["early_stopping"], line))


def stage_rungs(plan: Plan, runs: list[PlannedRun], home: Home) -> dict[str, list[int]]:
    """For each stage that trains the epochs after which its runs have a rung of early stopping."""
    halving = plan.sweep.early_stopping
    if halving is None:
        return {}
    ramps: dict[SizeClass, int] = {}
    for one, model in _different(runs, lambda config: repr(config.model_copy(update={"seed": 0}))):
        if one.step.config is model:
            # How many types there are says which targets are equal, not how long a ramp is.
            size, ramp = size_class(one.point.stage, model, check_schedule(model, home), 1000)
            ramps[size] = max(ramp, ramps.get(size, 0))
    found: dict[int, set[int]] = {size.stage: set() for size in ramps}
    for size, ramp in ramps.items():
        found[size.stage].update(rungs_of(halving.first_rung, halving.eta, ramp, size.epochs))
    return {plan.sweep.stages[stage].name: sorted(rungs) for stage, rungs in found.items()}


def _check_devices(plan: Plan, runs: list[PlannedRun]) -> None:
    """All must wait in one queue: a run that its parent's queue does not know would not begin."""
    devices: dict[str, PlannedRun] = {}
    for one in runs:
        devices.setdefault(queue_device(one.step.config), one)
    if len(devices) > 1:
        first, other = list(devices.items())[:2]
        line = f"computes on {other[0]}, another on {first[0]}; give all stages one device:"
        raise LmbenchError(plan.sweep.problem(["stages", other[1].point.stage], line))


def _judged(config: TrainConfig) -> Hashable:
    return tuple(getattr(config, name) for name in _JUDGED)


def _different(
    runs: list[PlannedRun], judged: Callable[[TrainConfig], Hashable] = _judged
) -> Iterator[tuple[PlannedRun, TrainConfig]]:
    """Of the runs that are alike in what is `judged` of a training one each, and the training of
    its model."""
    seen: set[Hashable] = set()
    for one, model in zip(runs, _trainings(runs), strict=True):
        own = one.step.config
        if isinstance(own, QuantizeConfig):
            shape = ("model", "nlayers", "tied", "projection")
            key = (own, *(getattr(model, name) for name in shape))
        else:
            assert isinstance(own, TrainConfig)
            key = (one.step.kind, one.has_parent, one.source, judged(own))
        if key not in seen:
            seen.add(key)
            yield one, model


def _trainings(runs: list[PlannedRun]) -> list[TrainConfig]:
    """For each run the settings of the training that its model is of."""
    found: list[TrainConfig] = []
    for one in runs:
        config: Config = one.step.config
        if isinstance(config, QuantizeConfig):
            before = one.point.parent
            config = found[before] if before is not None else _config_of(one)
        assert isinstance(config, TrainConfig)
        found.append(config)
    return found


def _config_of(one: PlannedRun) -> Config:
    assert one.source is not None
    return one.source.config()


def _check_quantization(config: QuantizeConfig, model: TrainConfig, home: Home) -> None:
    from lmbench.distiller.quantization.calibration import load_stats
    from lmbench.distiller.quantization.errors import QuantizationError
    from lmbench.jobs.quantization import check_fit, settings_of

    settings = settings_of(config, settings_file(config.config, home) if config.config else None)
    try:
        stats = load_stats(stats_file(config.stats, home)) if config.stats else None
    except QuantizationError as error:
        raise LmbenchError(str(error)) from None
    # Which modules there are does not depend on how many words there are.
    check_fit(settings, stats, {**model.model_dump(), "ntoken": 2})


def forecast(plan: Plan, runs: list[PlannedRun], home: Home) -> list[Forecast]:
    """What each stage will take on this machine, one run after the other."""
    trial = known_trial()
    measured = measured_speeds(home) or ([trial] if trial is not None else [])
    corpora: dict[tuple[str | None, str], Corpus] = {}
    seconds: list[list[float | None]] = [[] for _ in plan.sweep.stages]
    sizes = [0] * len(plan.sweep.stages)
    for one, model in zip(runs, _trainings(runs), strict=True):
        text = (model.data, model.vocab)
        if text not in corpora:
            corpora[text] = open_corpus(model.data, home.path, vocab=model.vocab)
        corpus = corpora[text]
        # What quantizes computes where it is told to, not where its model was trained.
        there = model.model_copy(update={"device": getattr(one.step.config, "device", "auto")})
        stage = one.point.stage
        seconds[stage].append(seconds_of(one.step, corpus.ntokens, corpus.counts, measured, there))
        sizes[stage] += _bytes(one.step.config, model, corpus.ntokens)
    return [
        Forecast(stage.name, stage.kind, len(each), _sum(each), size)
        for stage, each, size in zip(plan.sweep.stages, seconds, sizes, strict=True)
    ]


def _sum(seconds: list[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None


def _bytes(config: Config, model: TrainConfig, ntoken: int) -> int:
    """About those of a run's checkpoints: the best and the last, with what the optimizer and the
    masks need to go on; a quantized model once, as floats."""
    weights = _FLOAT * estimate(model, ntoken).parameters
    if not isinstance(config, TrainConfig):
        return weights
    # Beside the averages that it keeps, the last one has the weights as they train.
    raw = config.nonmono is not None
    return weights * (2 + config.state_copies + raw + (config.compress is not None))
