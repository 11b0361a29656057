"""Which combination a search by TPE tries next (Bergstra et al. 2011), by Optuna. No torch here.

A proposal follows from the sweep's seed and the results so far alone: each is asked of a fresh
study, in memory, that is told all of them. So whoever asks, after whatever deaths, is proposed the
same, and there is no storage to share.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.axes import MOST_VALUES
from lmbench.jobs.sweeps.plan import Combination, numbered
from lmbench.jobs.sweeps.sweep_file import Sweep

__all__ = ["propose", "refuse_without_optuna"]

# How often TPE is asked before a combination that is new is drawn at random.
_ATTEMPTS = 20


def refuse_without_optuna(sweep: Sweep) -> None:
    """Raises LmbenchError where the sweep needs Optuna and it is not installed."""
    if sweep.search == "tpe" and importlib.util.find_spec("optuna") is None:
        line = "tpe needs Optuna: pip install 'lmbench[optuna]', or write search: random"
        raise LmbenchError(sweep.problem(["search"], line))


def propose(
    axes: Sequence[Sequence[Any]],
    results: Sequence[tuple[Combination, tuple[float, ...] | None]],
    seed: int,
    fits: Callable[[Combination], bool],
) -> Combination | None:
    """The next combination to try, one that was not tried; None where there is none left.

    Args:
        axes: the values of each.
        results: what was tried, in its order, each with its objectives, of which less is better;
            None for a combination that failed.
        fits: are its settings possible together?

    Raises:
        LmbenchError: Optuna is not installed.
    """
    tried = {combination for combination, _ in results}
    wide = seed * 1_000_003 + len(results) * _ATTEMPTS
    for attempt in range(_ATTEMPTS):
        asked = _ask(axes, results, (wide + attempt) % 2**32)
        if asked not in tried and fits(asked):
            return asked
    lengths = [len(values) for values in axes]
    total = prod(lengths)
    start = random.Random(wide).randrange(total)
    for number in range(start, start + min(total, MOST_VALUES)):
        drawn = numbered(number % total, lengths)
        if drawn not in tried and fits(drawn):
            return drawn
    return None


def _ask(
    axes: Sequence[Sequence[Any]],
    results: Sequence[tuple[Combination, tuple[float, ...] | None]],
    seed: int,
) -> Combination:
    try:
        import optuna
    except ImportError as error:
        line = f"search: tpe needs Optuna ({error}): pip install 'lmbench[optuna]'"
        raise LmbenchError(line) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    orders = [_order(values) for values in axes]
    distributions: dict[str, Any] = {
        str(axis): optuna.distributions.IntDistribution(0, len(order) - 1)
        if order is not None
        else optuna.distributions.CategoricalDistribution(range(len(values)))
        for axis, (values, order) in enumerate(zip(axes, orders, strict=True))
    }
    objectives = max((len(values) for _, values in results if values), default=1)
    study = optuna.create_study(
        directions=[optuna.study.StudyDirection.MINIMIZE] * objectives,
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    state = optuna.trial.TrialState
    for combination, values in results:
        params = {
            str(axis): place if order is None else order.index(place)
            for axis, (place, order) in enumerate(zip(combination, orders, strict=True))
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=state.FAIL if values is None else state.COMPLETE,
                params=params,
                distributions=distributions,
                values=values,
            )
        )
    asked = study.ask(distributions).params
    return tuple(
        asked[str(axis)] if order is None else order[asked[str(axis)]]
        for axis, order in enumerate(orders)
    )


def _order(values: Sequence[Any]) -> list[int] | None:
    """The places of an axis of numbers by their size; None where its values have no order."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    return sorted(range(len(values)), key=lambda place: values[place])
