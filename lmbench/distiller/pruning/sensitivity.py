"""How much a model's score suffers when a tensor, a gate or the whole model is pruned once."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError, did_you_mean
from lmbench.distiller.pruning.criteria import keep_largest, level_count
from lmbench.distiller.pruning.hidden_units import recurrent_layers
from lmbench.distiller.pruning.structures import Structures
from lmbench.distiller.reports.sparsity_tables import WEIGHT_DIMS, weights_of
from lmbench.distiller.reports.table import Column, Table, decimal, percent
from lmbench.distiller.schedules.agp import structures_to_prune

GROUPS = ("element", "rows", "cols", "blocks")
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_GATE_NAMES = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new"), 1: ("all",)}
WHOLE_MODEL = "model"


@dataclass(frozen=True)
class Part:
    """A parameter, or the rows ``start`` to before ``stop`` of it."""

    parameter: str
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Target:
    """What is pruned for one curve; ``kind`` is ``tensor``, ``gate`` or ``model``."""

    name: str
    kind: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class SensitivityPoint:
    """A score at a level of sparsity; level 0 is the dense model."""

    target: str
    kind: str
    group: str
    level: float
    score: float

    @property
    def key(self) -> str:
        """What identifies the point in a store."""
        return point_key(self.target, self.group, self.level)


def point_key(target: str, group: str, level: float) -> str:
    """The key of a point in a store."""
    return f"{group}|{target}|{level:g}"


@dataclass(frozen=True)
class Sensitivity:
    """All points of an analysis, and how many weights each tensor has."""

    points: tuple[SensitivityPoint, ...]
    sizes: Mapping[str, int]

    @property
    def dense(self) -> float:
        """The score of the dense model."""
        return next(point.score for point in self.points if point.level == 0)

    def curves(self, kind: str | None = None) -> dict[str, list[tuple[float, float]]]:
        """``(level, score)`` of each target, from level 0 on."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for point in self.points:
            if point.level > 0 and kind in (None, point.kind):
                curves.setdefault(point.target, [(0.0, self.dense)]).append(
                    (point.level, point.score)
                )
        return {name: sorted(curve) for name, curve in curves.items()}

    def table(self, score: str = "perplexity") -> Table:
        """Every point, with the score's change against the dense model in percent."""
        return Table(
            "Sensitivity to pruning",
            (
                Column("target", "Target"),
                Column("kind", "Kind"),
                Column("group", "Group"),
                Column("sparsity", "Sparsity (%)", percent),
                Column("score", score.capitalize(), decimal),
                Column("change", "Change (%)", percent),
            ),
            tuple(self._row(point) for point in self.points),
        )

    def _row(self, point: SensitivityPoint) -> tuple[str | float | None, ...]:
        change = 100 * (point.score / self.dense - 1) if self.dense else None
        return (point.target, point.kind, point.group, 100 * point.level, point.score, change)


def tensor_targets(model: nn.Module, names: Iterable[str] | None = None) -> list[Target]:
    """One target for each weight matrix, or for the named ones.

    Raises:
        DistillerError: for a name that the model has not.
    """
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    chosen = list(names) if names is not None else [name for name, _ in weights_of(model)]
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known)
            raise DistillerError(f"sensitivity: '{name}' is not a parameter of this model {hint}")
    return [Target(name, "tensor", (Part(name),)) for name in chosen]


def gate_targets(model: nn.Module) -> list[Target]:
    """One target for each gate of each recurrent layer: its rows in both weights."""
    targets = []
    for layer in recurrent_layers(model).values():
        for index, gate in enumerate(_GATE_NAMES[layer.gates]):
            rows = (index * layer.hidden, (index + 1) * layer.hidden)
            parts = (Part(layer.weight_ih, *rows), Part(layer.weight_hh, *rows))
            targets.append(Target(f"{layer.name}.{gate}", "gate", parts))
    return targets


def model_target(model: nn.Module) -> Target:
    """All weight matrices, each pruned to the level."""
    return Target(WHOLE_MODEL, "model", tuple(Part(name) for name, _ in weights_of(model)))


def all_targets(model: nn.Module) -> list[Target]:
    """The whole model, every tensor and every gate."""
    return [model_target(model), *tensor_targets(model), *gate_targets(model)]


def analyse_sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    targets: Sequence[Target] | None = None,
    levels: Sequence[float] = LEVELS,
    group: str = "element",
    block_shape: tuple[int, int] | None = None,
    store: MutableMapping[str, float] | None = None,
    on_point: Callable[[SensitivityPoint, int, int], None] | None = None,
) -> Sensitivity:
    """Score the model with each target pruned to each level.

    The model is copied once; each target's weights are pruned in the copy, scored and put back,
    so nothing is loaded again and ``model`` is not touched.

    Args:
        model: the trained model.
        evaluate: from a model to its score, such as a perplexity.
        targets: what to prune; `all_targets` when left out.
        levels: in (0, 1); the dense model is scored once besides.
        group: ``element``, ``rows``, ``cols`` or ``blocks``.
        block_shape: rows and columns of a block.
        store: where points are kept by `point_key`; those that it holds are not scored again, so
            that an analysis can go on where it stopped.
        on_point: called with each point, how many are done and how many there are.

    Raises:
        DistillerError: for an unknown group or a level out of range.
    """
    structures = _structures(group, block_shape)
    for level in levels:
        if not 0 < level < 1:
            raise DistillerError(f"sensitivity: level {level} is out of (0, 1)")
    store = {} if store is None else store
    clone = copy.deepcopy(model).eval()
    targets = all_targets(clone) if targets is None else list(targets)
    jobs: list[tuple[Target, float]] = [(Target("dense", "model", ()), 0.0)]
    jobs += [(target, float(level)) for target in targets for level in levels]
    parameters = dict(clone.named_parameters(remove_duplicate=False))
    points = []
    for number, (target, level) in enumerate(jobs, start=1):
        key = point_key(target.name, group, level)
        if key not in store:
            score = _score(clone, parameters, target, level, structures, evaluate)
            store[key] = float(score)
        points.append(SensitivityPoint(target.name, target.kind, group, level, store[key]))
        if on_point is not None:
            on_point(points[-1], number, len(jobs))
    sizes = {name: param.numel() for name, param in weights_of(clone)}
    return Sensitivity(tuple(points), sizes)


def _structures(group: str, block_shape: tuple[int, int] | None) -> Structures | None:
    if group in ("filter", "channel"):
        raise DistillerError(
            f"sensitivity: group {group!r} is of convolutions only; choose {', '.join(GROUPS)}"
        )
    if group not in GROUPS:
        raise DistillerError(f"sensitivity: unknown group {group!r}; choose {', '.join(GROUPS)}")
    if group == "element":
        return None
    if group == "blocks":
        return Structures("Blocks", block_shape or (8, 8))
    return Structures(group.capitalize())


@torch.no_grad()
def _score(
    clone: nn.Module,
    parameters: Mapping[str, Tensor],
    target: Target,
    level: float,
    structures: Structures | None,
    evaluate: Callable[[nn.Module], Any],
) -> Any:
    # Ties appear under each name: each storage is pruned and put back once.
    views = {
        (id(parameters[part.parameter]), part.start): parameters[part.parameter][
            part.start : part.stop
        ]
        for part in target.parts
    }
    saved = [(view, view.clone()) for view in views.values()]
    try:
        for view, _ in saved:
            view.mul_(_keep(view, level, structures))
        return evaluate(clone)
    finally:
        for view, before in saved:
            view.copy_(before)


def _keep(weight: Tensor, level: float, structures: Structures | None) -> Tensor:
    if structures is None:
        return keep_largest(weight.abs(), level_count(weight.numel(), level))
    norms = structures.norms(weight, "L1")
    return structures.expand(keep_largest(norms, structures_to_prune(norms.numel(), level)), weight)


def perform_sensitivity_analysis(
    model: nn.Module,
    net_params: Sequence[str],
    sparsities: Sequence[float],
    test_func: Callable[..., Any],
    group: str = "element",
) -> dict[str, dict[float, Any]]:
    """The original's interface: score each named parameter at each sparsity.

    Args:
        model: the trained model.
        net_params: parameter names; those that are not matrices are left out.
        sparsities: the levels; 0 is allowed and scores the dense model.
        test_func: called as ``test_func(model=pruned)``; its answer is kept as it is.
        group: ``element``, ``rows``, ``cols`` or ``blocks`` (8 by 8).

    Returns:
        For each parameter a dictionary from sparsity to the answer.
    """
    structures = _structures(group, None)
    clone = copy.deepcopy(model)
    parameters = dict(clone.named_parameters(remove_duplicate=False))
    answers: dict[str, dict[float, Any]] = {}
    for target in tensor_targets(clone, net_params):
        if parameters[target.name].dim() not in WEIGHT_DIMS:
            continue
        for level in map(float, sparsities):
            answer = _score(
                clone, parameters, target, level, structures, lambda m: test_func(model=m)
            )
            answers.setdefault(target.name, {})[level] = answer
    return answers


def sensitivities_to_csv(sensitivities: Mapping[str, Mapping[float, Any]], fname: str) -> None:
    """Write what `perform_sensitivity_analysis` returned as ``parameter, sparsity, answers``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = next((v for curve in sensitivities.values() for v in curve.values()), ())
    width = len(first) if isinstance(first, (tuple, list)) else 1
    heads = ["top1", "top5", "loss"] if width == 3 else [f"value{i}" for i in range(width)]
    writer.writerow(["parameter", "sparsity", *heads])
    for name, curve in sensitivities.items():
        for level, value in curve.items():
            values = value if isinstance(value, (tuple, list)) else (value,)
            writer.writerow([name, level, *values])
    with open(fname, "w", newline="") as file:  # noqa: PTH123 - the original takes any name
        file.write(text.getvalue())
