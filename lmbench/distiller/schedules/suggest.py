"""From sensitivity curves to a schedule: the targets at which a total sparsity costs least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from lmbench.distiller.errors import DistillerError

Curve = Sequence[tuple[float, float]]
# The logarithm that stands for a score that is not finite; exp of more is no float.
_NOT_FINITE = 700.0
_INITIAL_SPARSITY = 0.05


@dataclass(frozen=True)
class Suggestion:
    """A target for each tensor, and the score that the curves predict.

    ``sparsity`` is what the targets give in all. The prediction adds the logarithms of the single
    tensors' losses, so it holds best for small ones, and for pruning without retraining.
    """

    targets: Mapping[str, float]
    sparsity: float
    predicted: float
    dense: float


def suggest_targets(
    curves: Mapping[str, Curve], sizes: Mapping[str, int], total_sparsity: float
) -> Suggestion:
    """Choose a sparsity for each tensor so that the predicted score is least.

    The score of pruned tensors together is predicted as the product of their ratios to the dense
    score. Each curve is replaced by its lower convex hull, on which a cheapest-first choice of
    segments is the exact minimum.

    Args:
        curves: of each tensor ``(sparsity, score)`` from level 0 on; lower scores are better.
        sizes: the weights of every tensor of the model, also of those without a curve.
        total_sparsity: the share of all those weights to prune, in [0, 1).

    Raises:
        DistillerError: when the curves do not reach that far, or are not finite there.
    """
    if not 0 <= total_sparsity < 1:
        raise DistillerError(f"suggest: {total_sparsity} is out of [0, 1)")
    if not curves:
        raise DistillerError("suggest: no tensor was analysed; analyse some first")
    wanted = total_sparsity * sum(sizes.values())
    dense = next(iter(curves.values()))[0][1]
    if not 0 < dense < math.inf:
        raise DistillerError(
            f"suggest: the dense model scores {dense}; analyse one that has learned"
        )
    if unknown := sorted(curves.keys() - sizes.keys()):
        raise DistillerError(f"suggest: {unknown[0]} is no weight by its first name; leave it out")
    segments = []
    for name, curve in curves.items():
        for (low, cost), (high, more) in _hull_steps(curve, dense):
            slope = (more - cost) / ((high - low) * sizes[name])
            segments.append((slope, name, low, high))
    # The hulls are convex, so the cheapest remaining segment of a tensor is always its next one.
    segments.sort(key=lambda segment: (segment[0], segment[1], segment[2]))
    targets = dict.fromkeys(curves, 0.0)
    pruned, logarithm = 0.0, 0.0
    for slope, name, low, high in segments:
        take = min((high - low) * sizes[name], wanted - pruned)
        if take <= 0:
            break
        targets[name] = low + take / sizes[name]
        pruned += take
        logarithm += slope * take
    if wanted - pruned > 0.5:
        reach = pruned / sum(sizes.values())
        raise DistillerError(
            f"suggest: the analysis reaches a total sparsity of {reach:.3f}, not {total_sparsity}; "
            "analyse higher levels or more tensors"
        )
    if not logarithm < _NOT_FINITE:
        raise DistillerError(
            f"suggest: at a total sparsity of {total_sparsity} scores are not finite; ask for less"
        )
    return Suggestion(targets, pruned / sum(sizes.values()), dense * math.exp(logarithm), dense)


def _hull_steps(
    curve: Curve, dense: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The segments of the lower convex hull of ``(sparsity, log of score ratio)``.

    A score below the dense one, or below that of a lower level, counts as no cheaper than it.
    """
    points: list[tuple[float, float]] = []
    worst = 0.0
    for level, score in sorted(curve):
        finite = math.isfinite(score) and score > 0
        worst = max(worst, math.log(score / dense) if finite else _NOT_FINITE)
        points.append((level, worst if level else 0.0))
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return list(itertools.pairwise(hull))


def _turns_down(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def suggestion_to_schedule(
    suggestion: Suggestion,
    starting_epoch: int = 1,
    ending_epoch: int = 25,
    group: str = "element",
) -> str:
    """The YAML text of an AGP schedule with the suggested targets, from 5% on.

    Tensors whose target is 0 are left out; one with a target below 5% starts at 0.

    Args:
        suggestion: the targets.
        starting_epoch, ending_epoch: of every policy; the end is exclusive.
        group: what the curves were measured on and so is pruned: ``element``, ``rows``, ``cols``
            or ``blocks`` of 8 by 8.
    """
    head = (
        f"# Suggested by a sensitivity analysis: {100 * suggestion.sparsity:.1f}% in all; pruned\n"
        f"# at once, without retraining, the score is predicted to go from "
        f"{suggestion.dense:.2f} to {suggestion.predicted:.2f}.\n"
    )
    return head + gradual_schedule(suggestion.targets, starting_epoch, ending_epoch, group)


def gradual_schedule(
    targets: Mapping[str, float],
    starting_epoch: int,
    ending_epoch: int,
    group: str = "element",
) -> str:
    """The YAML text of an AGP schedule for tensors with a target each; arguments as
    `suggestion_to_schedule`."""
    pruners, policies = {}, []
    for name, target in targets.items():
        level = round(target, 6)
        if level <= 0:
            continue
        key = f"{name}_pruner"
        pruners[key] = {
            **_pruned(group),
            "initial_sparsity": _INITIAL_SPARSITY if level > _INITIAL_SPARSITY else 0.0,
            "final_sparsity": level,
            "weights": [name],
        }
        policies.append(
            {
                "pruner": {"instance_name": key},
                "starting_epoch": starting_epoch,
                "ending_epoch": ending_epoch,
                "frequency": 1,
            }
        )
    if not policies:
        raise DistillerError("suggest: nothing is to be pruned; ask for a higher sparsity")
    body = {"version": 1, "pruners": pruners, "policies": policies}
    return yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=96)


def pruning_epochs(epochs: int) -> tuple[int, int]:
    """The first epoch of the pruning and the one after its last, in a training of `epochs`: a third
    of them is left to recover."""
    return 0, max(1, epochs - max(1, epochs // 3))


def _pruned(group: str) -> dict[str, object]:
    """The class of a pruner of such groups, and what names them."""
    if group == "element":
        return {"class": "AutomatedGradualPruner"}
    ranked: dict[str, object] = {
        "class": "L1RankedStructureParameterPruner_AGP",
        "group_type": group.capitalize(),
    }
    return {**ranked, "kwargs": {"block_shape": [8, 8]}} if group == "blocks" else ranked
