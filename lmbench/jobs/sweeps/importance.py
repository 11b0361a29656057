"""How much each axis of a sweep matters to the perplexity. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lmbench.errors import LmbenchError

__all__ = ["FEWEST", "Observation", "level_means", "level_spreads", "levels_of", "ped_anova"]

Observation = tuple[Mapping[str, Any], float]
"""The value of each axis of a setting, and its perplexity. A setting may have none of an axis."""

FEWEST = 10
"""Settings that PED-ANOVA needs: half of them are its best ones, and it wants five of those."""

_BEST = 5
_LEAST_SHARE = 0.1


def levels_of(axis: str, values: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The different values of an axis: numbers by their size, others as they come."""
    levels: list[Any] = list({repr(one.get(axis)): one.get(axis) for one in values}.values())
    return sorted(levels) if _are_numbers(levels) else levels


def _are_numbers(levels: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in levels)


def level_means(axis: str, observations: Sequence[Observation]) -> list[tuple[Any, float]]:
    """Each value of an axis with the mean perplexity of its settings."""
    levels = levels_of(axis, [values for values, _ in observations])
    return [
        (level, fmean(ppl for values, ppl in observations if values.get(axis) == level))
        for level in levels
    ]


def level_spreads(axes: Sequence[str], observations: Sequence[Observation]) -> dict[str, float]:
    """For each axis how far the mean perplexities of its values lie apart."""
    found = {}
    for axis in axes:
        means = [mean for _, mean in level_means(axis, observations)]
        found[axis] = max(means) - min(means) if means else 0.0
    return found


def ped_anova(axes: Sequence[str], observations: Sequence[Observation]) -> dict[str, float]:
    """For each axis how much it decides on being among the best settings, a tenth of them or five;
    the shares add up to 1 (PED-ANOVA, Watanabe et al. 2023, https://arxiv.org/abs/2304.10255).

    Raises:
        LmbenchError: Optuna is not installed, or there are fewer than `FEWEST` settings.
    """
    if len(observations) < FEWEST:
        raise LmbenchError(
            f"PED-ANOVA needs {FEWEST} settings with a perplexity; {len(observations)} have one"
        )
    try:
        import optuna
    except ImportError as error:
        line = f"PED-ANOVA needs Optuna ({error}): pip install 'lmbench[optuna]'"
        raise LmbenchError(line) from None
    levels = {axis: levels_of(axis, [values for values, _ in observations]) for axis in axes}
    distributions: dict[str, Any] = {
        axis: optuna.distributions.IntDistribution(0, len(of) - 1)
        if _are_numbers(of)
        else optuna.distributions.CategoricalDistribution(range(len(of)))
        for axis, of in levels.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for values, ppl in observations:
        params = {axis: of.index(values.get(axis)) for axis, of in levels.items()}
        trial = optuna.trial.create_trial(params=params, distributions=distributions, value=ppl)
        study.add_trial(trial)
    share = max(_LEAST_SHARE, _BEST / len(observations))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
