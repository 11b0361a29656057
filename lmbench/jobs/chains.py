"""Published commands one after the other: train, prune at four levels, quantize each. No torch.

A chain is queued whole. The queue takes the oldest run first, so each finds its parent done. Where
a parent was stopped or failed, its children begin with the best model that it has, or say in a line
that it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmbench.config import (
    Config,
    Kind,
    PruneConfig,
    QuantizeConfig,
    TrainConfig,
    changed_settings,
    validate,
)
from lmbench.corpus.files import Progress
from lmbench.jobs.prepare import check_training, command_for, make_run
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED, Published
from lmbench.report.training_speed import Measured, expect
from lmbench.session.store import Run, Session

__all__ = [
    "CHAINS",
    "Chain",
    "Step",
    "chain_steps",
    "make_step",
    "quantized_tokens",
    "queue_chain",
    "seconds_of",
]

_QUANTIZATION = "int8-best"
# Going forwards only is a third of the arithmetic of a training step.
_FORWARD = 3.0
# How much longer than the float model a simulated one takes, at most.
_SIMULATION = 1.5


@dataclass(frozen=True)
class Chain:
    """A published training, the schedules that its model is pruned by, and how all of them are
    quantized."""

    name: str
    about: str
    training: Published
    schedules: tuple[str, ...]
    quantization: str = _QUANTIZATION


@dataclass(frozen=True)
class Step:
    """One run of a chain; `parent` is the place of the step it starts from, None for none."""

    kind: Kind
    name: str
    config: Config
    parent: int | None = None
    given: Mapping[str, Any] | None = None
    """What its command line says; None for all that differs from the defaults."""


def _chain(training: Published, scale: str) -> Chain:
    about = f"{training.about}; pruned to 70, 80, 90 and 95%; each to {_QUANTIZATION}"
    schedules = tuple(f"{scale}-{level}" for level in (70, 80, 90, 95))
    return Chain(training.name, about, training, schedules)


CHAINS: tuple[Chain, ...] = (
    _chain(FIRST_STEPS, "small"),
    *(_chain(p, "small" if p.settings.get("epochs") == 6 else "large") for p in PUBLISHED),
)
"""Of each published training one; the schedules of six epochs or of forty, as it is long."""


def chain_steps(chain: Chain, changes: Mapping[str, Any] | None = None) -> tuple[Step, ...]:
    """The runs of a chain, each after the one that it starts from.

    Args:
        changes: settings of the training and the prunings that are to differ (corpus, device).
    """
    given = {**chain.training.settings, **(changes or {})}
    dense = validate(TrainConfig, given)
    machine = {k: v for k, v in given.items() if k in ("device", "threads")}
    steps = [Step("train", chain.name, dense)]
    for schedule in chain.schedules:
        config = validate(PruneConfig, {**given, "compress": schedule})
        steps.append(Step("prune", schedule, config, 0, {"compress": schedule}))
    for place, step in enumerate(steps[:]):
        config = validate(QuantizeConfig, {**machine, "preset": chain.quantization})
        steps.append(Step("quantize", f"{step.name} {chain.quantization}", config, place))
    return tuple(steps)


def queue_chain(
    session: Session,
    chain: Chain,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Make every run of a chain and have the first worked on; the rest wait for the device.

    Args:
        check: called when all is seen to be right and nothing is made yet; what it raises ends it.

    Raises:
        LmbenchError: the corpus or a schedule is wrong, or no process can be started; nothing is
            made then.
    """
    from lmbench.jobs import launch

    steps, home = chain_steps(chain, changes), session.home
    for step in steps:
        if isinstance(step.config, TrainConfig):
            has_parent, name = step.parent is not None, session.name
            check_training(step.config, home, progress, has_parent=has_parent, session=name)
    check()
    with launch.all_or_none() as runs:
        for step in steps:
            parent = None if step.parent is None else runs[step.parent]
            runs.append(make_step(session, step, parent))
        # Its supervisor goes on with whatever waits, the oldest first.
        launch.start(runs[0])
    return runs


def make_step(
    session: Session, step: Step, parent: Run | None, *, point: str = "", place: str = "local"
) -> Run:
    """The queued run of a step whose parent has been made. `point` and `place` as in `make_run`."""
    given = changed_settings(step.config) if step.given is None else step.given
    command = command_for(
        step.kind,
        given,
        parent=parent.ref if parent else None,
        name=step.name,
        session=session.name,
    )
    return make_run(
        session,
        step.kind,
        step.config,
        parent=parent,
        name=step.name,
        command=command,
        point=point,
        place=place,
    )


def seconds_of(
    step: Step,
    ntoken: int,
    tokens: Mapping[str, int],
    measured: list[Measured],
    training: TrainConfig,
) -> float | None:
    """About how long a step takes on this machine; None where nothing was measured to judge by,
    and for a search, which takes as long as its budget lets it.

    Args:
        ntoken: types of the corpus.
        tokens: of each split.
        training: the settings of the model that the step is about.
    """
    search = isinstance(step.config, QuantizeConfig) and step.config.auto
    speed = expect(training, ntoken, measured)
    if speed is None or search:
        return None
    forward = speed.tokens_per_s * _FORWARD
    if isinstance(step.config, TrainConfig):
        epoch = tokens["train"] / speed.tokens_per_s + tokens["valid"] / forward
        return step.config.epochs * epoch + tokens["test"] / forward
    assert isinstance(step.config, QuantizeConfig)
    return sum(quantized_tokens(step.config, tokens)) * _SIMULATION / forward


def quantized_tokens(config: QuantizeConfig, tokens: Mapping[str, int]) -> tuple[int, int]:
    """How many tokens a quantization calibrates on, and how many it scores."""
    most = config.eval_tokens or max(tokens.values())
    scored = min(tokens["valid"], most) + min(tokens["test"], most)
    ranges_known = config.dynamic or config.stats is not None
    return 0 if ranges_known else config.calibration_tokens, scored
