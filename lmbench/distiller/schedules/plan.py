"""What a schedule will do to a model, told before anything runs. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lmbench.distiller.schedules.agp import AgpPruningRate, BaiduPruningRate, structures_to_prune
from lmbench.distiller.schedules.arguments import (
    BaiduArgs,
    GlobalArgs,
    GradualArgs,
    LevelArgs,
    MagnitudeArgs,
    NMArgs,
    PruningPolicyArgs,
    RankedAgpArgs,
    RankedArgs,
    SensitivityArgs,
    SplicingArgs,
)
from lmbench.distiller.schedules.checking import PolicyEntry, Schedule, check_parameters

Shape = tuple[int, ...]
_RECURRENT = re.compile(r"(?P<prefix>(?:.+\.)?)weight_(?:ih|hh)_l(?P<layer>\d+)")


class WeightsView(Protocol):
    """What is known of the weights that a threshold will meet."""

    def fraction_below(self, name: str, threshold: float) -> float:
        """The share of a parameter's magnitudes that are at most ``threshold``."""
        ...

    def deviation(self, name: str) -> float:
        """The standard deviation of a parameter."""
        ...


@dataclass(frozen=True)
class TensorPlan:
    """The sparsity of one parameter at the end of each epoch.

    ``sparsity`` holds None where a threshold decides and the weights are not known. ``estimated``
    says that it judges by today's weights, or shares out a count of several tensors.
    """

    name: str
    shape: Shape
    sparsity: tuple[float | None, ...]
    estimated: bool

    @property
    def numel(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)

    @property
    def final(self) -> float | None:
        """The sparsity that it ends with."""
        return self.sparsity[-1] if self.sparsity else 0.0


@dataclass(frozen=True)
class SchedulePlan:
    """The plan of every weight that a schedule prunes, and of the model.

    ``total`` counts the weights of the model (two dimensions or more), ties once, biases apart.
    """

    epochs: int
    tensors: tuple[TensorPlan, ...]
    total: int
    notes: tuple[str, ...]

    @property
    def estimated(self) -> bool:
        """Whether any tensor's plan is an estimate."""
        return any(tensor.estimated for tensor in self.tensors)

    @property
    def totals(self) -> tuple[float | None, ...]:
        """The sparsity of the whole model at the end of each epoch; None when unknown."""
        return tuple(self._total(epoch) for epoch in range(self.epochs))

    def _total(self, epoch: int) -> float | None:
        zeros = 0
        for tensor in self.tensors:
            sparsity = tensor.sparsity[epoch]
            if sparsity is None:
                return None
            if len(tensor.shape) > 1:
                zeros += round(sparsity * tensor.numel)
        return zeros / self.total if self.total else 0.0

    @property
    def final_sparsity(self) -> float | None:
        """The sparsity of the whole model at the end; None when unknown."""
        return self.totals[-1] if self.epochs else 0.0

    @property
    def final_nonzero(self) -> int | None:
        """How many weights stay in the end; None when unknown."""
        final = self.final_sparsity
        return None if final is None else self.total - round(final * self.total)


def predict_sparsity(
    schedule: Schedule,
    shapes: Mapping[str, Shape],
    names: Mapping[str, str] | None = None,
    epochs: int | None = None,
    weights: WeightsView | None = None,
) -> SchedulePlan:
    """The sparsity of each tensor over the epochs of a schedule.

    Args:
        schedule: a checked schedule.
        shapes: of each parameter, by first name; biases too.
        names: every name of every parameter to its first; when left out there are no ties.
        epochs: how long the training is; up to the schedule's last epoch when left out.
        weights: to estimate what thresholds will leave; without it that is unknown.

    Raises:
        ScheduleError: when the schedule names a parameter that is not there.
    """
    names = names or {name: name for name in shapes}
    check_parameters(schedule, names)
    epochs = schedule.last_epoch + 1 if epochs is None else epochs
    planner = _Planner(schedule, shapes, names, weights)
    now: dict[str, float | None] = {}
    curves: dict[str, list[float | None]] = {}
    for epoch in range(epochs):
        for policy in schedule.policies:
            if policy.kind == "pruner" and epoch in policy.run:
                now.update(planner.step(policy, epoch))
        for name, value in now.items():
            curves.setdefault(name, [0.0] * epoch).append(value)
        for policy in schedule.policies:
            if policy.kind == "pruner" and epoch == policy.run[-1] and not _lasts(policy):
                now.update(dict.fromkeys(planner.touched(policy), 0.0))
                for name in planner.touched(policy):
                    curves[name][-1] = 0.0
    tensors = tuple(
        TensorPlan(name, tuple(shapes[name]), tuple(curve), name in planner.estimated)
        for name, curve in curves.items()
    )
    total = sum(math.prod(shape) for shape in shapes.values() if len(shape) > 1)
    return SchedulePlan(epochs, tensors, total, tuple(_notes(schedule, epochs)))


def _lasts(policy: PolicyEntry) -> bool:
    """Whether the weights are still masked when the policy has ended."""
    if not isinstance(policy.args, PruningPolicyArgs):
        return True
    if policy.args.discard_masks_at_minibatch_end:
        return False
    return policy.args.keep_mask or not policy.args.mask_on_forward_only


def _notes(schedule: Schedule, epochs: int) -> list[str]:
    notes = []
    if schedule.last_epoch >= epochs:
        notes.append(
            f"the schedule goes on to epoch {schedule.last_epoch}, the training ends after epoch "
            f"{epochs - 1}: its targets will not be reached"
        )
    for policy in schedule.policies:
        if policy.kind == "pruner" and not _lasts(policy):
            notes.append(f"pruner {policy.instance_name}: its weights end dense; add keep_mask")
        if policy.kind == "regularizer":
            notes.append(f"regularizer {policy.instance_name}: what it prunes is not foretold")
    return notes


class _Planner:
    def __init__(
        self,
        schedule: Schedule,
        shapes: Mapping[str, Shape],
        names: Mapping[str, str],
        weights: WeightsView | None,
    ) -> None:
        self.schedule = schedule
        self.shapes = shapes
        self.names = names
        self.weights = weights
        self.estimated: set[str] = set()
        self._touched: dict[str, set[str]] = {}

    def touched(self, policy: PolicyEntry) -> set[str]:
        """The parameters that a policy has pruned so far."""
        return self._touched.get(policy.instance_name, set())

    def step(self, policy: PolicyEntry, epoch: int) -> dict[str, float | None]:
        """The sparsity that a policy gives each of its parameters at an epoch."""
        args = self.schedule.component(policy).args
        meta = policy.meta(epoch)
        if isinstance(args, (RankedArgs, RankedAgpArgs)) and args.group_type == "HiddenUnits":
            found: dict[str, float | None] = dict(self._hidden_units(args, meta))
        else:
            found = {}
            for name in self._listed(policy):
                value = self._sparsity(policy, name, meta)
                if value is not None or not isinstance(args, LevelArgs):
                    found[self.names[name]] = value
        self._touched.setdefault(policy.instance_name, set()).update(found)
        return found

    def _listed(self, policy: PolicyEntry) -> list[str]:
        args = self.schedule.component(policy).args
        values = _values(policy, args)
        listed = [name for _, name in args.parameters()]
        if values is not None:
            listed = list(values)
        if "*" in listed:
            covered = {self.names[name] for name in listed if name != "*"}
            listed = [name for name in listed if name != "*"]
            listed += [name for name in self.shapes if name not in covered]
        return listed

    def _sparsity(self, policy: PolicyEntry, name: str, meta: dict[str, object]) -> float | None:
        args = self.schedule.component(policy).args
        first = self.names[name]
        shape = self.shapes[first]
        numel = math.prod(shape)
        values = _values(policy, args)
        value = None if values is None else values.get(name, values.get("*"))
        if isinstance(args, (RankedArgs, RankedAgpArgs)):
            return self._ranked(args, first, meta)
        if isinstance(args, GradualArgs):
            if isinstance(args, GlobalArgs):
                self.estimated.add(first)
            return _level(_target(args, meta), numel)
        if isinstance(args, LevelArgs):
            return _level(value, numel) if value else None
        if isinstance(args, NMArgs):
            width = shape[-1]
            kept = width // args.m * args.n + min(width % args.m, args.n)
            return 1.0 - kept / width
        if self.weights is None or isinstance(args, SplicingArgs):
            return None
        self.estimated.add(first)
        if isinstance(args, BaiduArgs):
            rate = BaiduPruningRate(args.q, args.ramp_epoch_offset, args.ramp_slope_mult)
            return self.weights.fraction_below(first, rate.threshold(meta))
        if isinstance(args, SensitivityArgs) and value is not None:
            return self.weights.fraction_below(first, value * self.weights.deviation(first))
        if isinstance(args, MagnitudeArgs) and value is not None:
            return self.weights.fraction_below(first, value)
        return None

    def _ranked(
        self, args: RankedArgs | RankedAgpArgs, name: str, meta: dict[str, object]
    ) -> float | None:
        shape = self.shapes[name]
        if len(shape) < 2:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        if args.group_type == "Blocks":
            assert args.kwargs is not None
            assert args.kwargs.block_shape is not None
            height, width = args.kwargs.block_shape[:2]
            count = math.ceil(rows / height) * math.ceil(columns / width)
            pruned = _structures(args, count, meta)
            if rows % height or columns % width:
                self.estimated.add(name)
            return min(pruned / count, 1.0)
        count = rows if args.group_type == "Rows" else columns
        return _structures(args, count, meta) / count

    def _hidden_units(
        self, args: RankedArgs | RankedAgpArgs, meta: dict[str, object]
    ) -> dict[str, float]:
        kept: dict[str, list[float]] = {}
        layers: dict[tuple[str, int], None] = {}
        for weight in args.weights:
            match = _RECURRENT.fullmatch(weight)
            if match is not None:
                layers[match["prefix"], int(match["layer"])] = None
        consumers = (args.kwargs.consumers if args.kwargs else None) or ["decoder.weight"]
        for prefix, layer in layers:
            recurrent = f"{prefix}weight_hh_l{layer}"
            hidden = self.shapes[self.names[recurrent]][1]
            share = 1.0 - _structures(args, hidden, meta) / hidden
            following = f"{prefix}weight_ih_l{layer + 1}"
            readers = [following] if following in self.names else consumers
            for name in (recurrent, f"{prefix}weight_ih_l{layer}"):
                kept.setdefault(self.names[name], [1.0, 1.0])[0] = share
            for name in (recurrent, *readers):
                if name in self.names:
                    kept.setdefault(self.names[name], [1.0, 1.0])[1] = share
        return {name: 1.0 - rows * columns for name, (rows, columns) in kept.items()}


def _values(policy: PolicyEntry, args: object) -> Mapping[str, float] | None:
    if isinstance(args, LevelArgs):
        replaced = policy.args.levels if isinstance(policy.args, PruningPolicyArgs) else None
        return replaced or args.levels
    if isinstance(args, SensitivityArgs):
        return args.sensitivities
    return args.thresholds if isinstance(args, MagnitudeArgs) else None


def _target(args: GradualArgs, meta: dict[str, object]) -> float:
    return AgpPruningRate(args.initial_sparsity, args.final_sparsity).target(meta)


def _level(target: float, numel: int) -> float:
    return max(0, min(numel, int(target * numel))) / numel if numel else 0.0


def _structures(args: RankedArgs | RankedAgpArgs, count: int, meta: dict[str, object]) -> int:
    if isinstance(args, RankedAgpArgs):
        return structures_to_prune(count, _target(args, meta))
    return structures_to_prune(
        count, args.desired_sparsity, args.group_size, args.rounding_fn == "ceil"
    )
