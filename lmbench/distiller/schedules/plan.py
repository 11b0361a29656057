"""What a schedule will do to a model, computed before anything runs. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lmbench.distiller.schedules.arguments import PruningPolicyArgs
from lmbench.distiller.schedules.checking import PolicyEntry, Schedule, check_parameters
from lmbench.distiller.schedules.prediction import Kept, ModelLayout, Shape, WeightsView
from lmbench.distiller.schedules.pruner_arguments import LevelArgs, PrunerArgs
from lmbench.distiller.schedules.quantizer_arguments import LinearQuantizerArgs, QuantizerArgs

__all__ = ["SchedulePlan", "TensorPlan", "predict_sparsity"]

# Curves of more epochs than this are drawn by as many of them.
MOST_POINTS = 500


@dataclass(frozen=True)
class TensorPlan:
    """One parameter that a schedule prunes.

    Attributes:
        name: its first name.
        shape: its shape.
        estimated: its sparsity is judged by today's weights, or depends on how masks overlap.
    """

    name: str
    shape: Shape
    estimated: bool


class SchedulePlan:
    """The sparsity of every weight that a schedule prunes, and of the model.

    What is asked for is computed when it is asked for, so that the end of a schedule costs the
    same however many epochs it has. Made by `predict_sparsity`.

    Attributes:
        epochs: of the training.
        total: the weights of the model (two dimensions or more), ties once, biases apart.
        cut_short: what is lost where the training ends before the schedule; "" where it does not.
        notes: what a user should know before the start.
        tensors: the parameters that the schedule prunes.
    """

    def __init__(self, schedule: Schedule, layout: ModelLayout, epochs: int) -> None:
        self.epochs = epochs
        self.total = sum(math.prod(shape) for shape in layout.shapes.values() if len(shape) > 1)
        self._layout = layout
        self._pruners = [
            (policy, _pruner_arguments(schedule, policy))
            for policy in schedule.policies
            if policy.kind == "pruner" and policy.run[0] < epochs
        ]
        self.tensors = tuple(
            TensorPlan(name, tuple(layout.shapes[name]), estimated)
            for name, estimated in self._touched().items()
        )
        self.cut_short = self._cut_short(schedule) if epochs <= schedule.last_epoch else ""
        self.notes = (*((self.cut_short,) if self.cut_short else ()), *_notes(schedule))

    def _cut_short(self, schedule: Schedule) -> str:
        whole = SchedulePlan(schedule, self._layout, schedule.last_epoch + 1)
        end = f"the schedule takes {whole.epochs} epochs and the training ends after {self.epochs}"
        for name, start, args in _quantizers(schedule):
            have, want = args.bits_at(self.epochs - 1), args.bits_at(schedule.last_epoch)
            if self.epochs <= start:
                end += f": quantizer {name} will not have begun"
            elif have != want:
                end += f": quantizer {name} will end at {have} bits where it asks for {want}"
        reached, asked = self.final_sparsity, whole.final_sparsity
        if reached is not None and asked is not None and reached < asked:
            end += f": {reached:.1%} of the weights will be zero where it asks for {asked:.1%}"
        return f"{end}; --epochs {whole.epochs} completes it"

    def _touched(self) -> dict[str, bool]:
        """Each parameter that is pruned, and whether its sparsity is ever an estimate."""
        turns = {epoch for policy, _ in self._pruners for epoch in (policy.run[0], policy.run[-1])}
        touched: dict[str, bool] = {}
        for epoch in sorted({min(turn, self.epochs - 1) for turn in turns}):
            for name, kept in self._kept_during(epoch).items():
                touched[name] = touched.get(name, False) or kept.estimated
        return touched

    def _kept_during(self, epoch: int, at_end: bool = False) -> dict[str, Kept]:
        """What all pruners together leave of each parameter in an epoch, or at its end."""
        latest = [
            (step, policy, args)
            for policy, args in self._pruners
            if (step := policy.latest_step(epoch)) is not None
        ]
        # The same pruner may have pruned other parameters in an earlier policy.
        parts: dict[tuple[str, str], Kept] = {}
        for step, policy, args in sorted(latest, key=lambda entry: entry[0]):
            ended = step == policy.run[-1] and (at_end or step < epoch)
            gone = not _lasts(policy) if ended else at_end and _masks_forward_alone(policy)
            for name, part in args.predict(self._layout, policy.meta(step)).items():
                parts[policy.instance_name, name] = Kept() if gone else part
        kept: dict[str, Kept] = {}
        for (_, name), part in parts.items():
            kept[name] = kept[name] & part if name in kept else part
        return kept

    def sparsity_at(self, epoch: int) -> dict[str, float | None]:
        """The sparsity of each parameter that was pruned so far, at the end of an epoch."""
        kept = self._kept_during(epoch, at_end=True)
        return {name: part.sparsity for name, part in kept.items()}

    def _total(self, sparsity: Mapping[str, float | None]) -> float | None:
        zeros = 0
        for name, share in sparsity.items():
            if share is None:
                return None
            shape = self._layout.shapes[name]
            if len(shape) > 1:
                zeros += round(share * math.prod(shape))
        return zeros / self.total if self.total else 0.0

    @cached_property
    def curves(self) -> dict[str, tuple[float | None, ...]]:
        """The sparsity of each parameter at the end of each epoch."""
        return self._curves_at(range(self.epochs))

    def _curves_at(self, epochs: Sequence[int]) -> dict[str, tuple[float | None, ...]]:
        states = [self.sparsity_at(epoch) for epoch in epochs]
        names = [tensor.name for tensor in self.tensors]
        return {name: tuple(state.get(name, 0.0) for state in states) for name in names}

    def _totals_of(
        self, curves: Mapping[str, tuple[float | None, ...]], count: int
    ) -> tuple[float | None, ...]:
        states = ({name: curve[i] for name, curve in curves.items()} for i in range(count))
        return tuple(self._total(state) for state in states)

    def drawn(
        self,
    ) -> tuple[Sequence[int], dict[str, tuple[float | None, ...]], tuple[float | None, ...]]:
        """What a drawing shows: epochs, the sparsity of each parameter there, and of the model.

        All epochs, or `MOST_POINTS` evenly spread ones from the first to the last.
        """
        if self.epochs <= MOST_POINTS:
            return range(self.epochs), self.curves, self.totals
        step = (self.epochs - 1) / (MOST_POINTS - 1)
        epochs = [round(step * point) for point in range(MOST_POINTS)]
        curves = self._curves_at(epochs)
        return epochs, curves, self._totals_of(curves, MOST_POINTS)

    @property
    def estimated(self) -> bool:
        """Whether any tensor's plan is an estimate."""
        return any(tensor.estimated for tensor in self.tensors)

    @property
    def totals(self) -> tuple[float | None, ...]:
        """The sparsity of the whole model at the end of each epoch; None when unknown."""
        return self._totals_of(self.curves, self.epochs)

    @property
    def final_sparsity(self) -> float | None:
        """The sparsity of the whole model at the end; None when unknown."""
        return self._total(self.sparsity_at(self.epochs - 1)) if self.epochs else 0.0

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
    check_parameters(schedule, names, shapes=shapes)
    epochs = schedule.last_epoch + 1 if epochs is None else epochs
    return SchedulePlan(schedule, ModelLayout(shapes, names, weights), epochs)


def _pruner_arguments(schedule: Schedule, policy: PolicyEntry) -> PrunerArgs:
    """A pruner's arguments, with the levels that a policy puts in their place."""
    args = schedule.component(policy).args
    assert isinstance(args, PrunerArgs)
    levels = policy.args.levels if isinstance(policy.args, PruningPolicyArgs) else None
    if levels and isinstance(args, LevelArgs):
        return args.model_copy(update={"levels": levels})
    return args


def _lasts(policy: PolicyEntry) -> bool:
    """Whether the weights are still masked when the policy has ended."""
    if not isinstance(policy.args, PruningPolicyArgs):
        return True
    if policy.args.discard_masks_at_minibatch_end:
        return False
    return policy.args.keep_mask or not _masks_forward_alone(policy)


def _masks_forward_alone(policy: PolicyEntry) -> bool:
    """Whether the weights are dense between the minibatches, in which they are scored."""
    args = policy.args
    if not isinstance(args, PruningPolicyArgs):
        return False
    forward_only = args.mask_on_forward_only and not args.use_double_copies
    return args.discard_masks_at_minibatch_end or forward_only


def _quantizers(schedule: Schedule) -> Iterator[tuple[str, int, QuantizerArgs]]:
    """Their names, the epoch from which each quantizes, and their arguments."""
    for policy in schedule.policies:
        args = schedule.component(policy).args
        if isinstance(args, QuantizerArgs):
            yield policy.instance_name, policy.run[0], args


def _notes(schedule: Schedule) -> Iterator[str]:
    yield from schedule.warnings
    for name, start, args in _quantizers(schedule):
        if start:
            yield f"quantizer {name}: nothing is quantized before epoch {start}"
        if isinstance(args, LinearQuantizerArgs) and args.bits_schedule:
            steps = sorted(args.bits_schedule.items())
            later = ", ".join(f"{bits} from epoch {epoch}" for epoch, bits in steps)
            yield f"quantizer {name}: {args.bits_weights} bits a weight, {later} on"
    for policy in schedule.policies:
        if policy.kind == "pruner" and not _lasts(policy):
            discards = getattr(policy.args, "discard_masks_at_minibatch_end", False)
            fix = "leave discard_masks_at_minibatch_end out" if discards else "add keep_mask"
            yield f"pruner {policy.instance_name}: its weights end dense; {fix}"
        args = schedule.component(policy).args
        if policy.kind == "regularizer" and getattr(args, "threshold_criteria", None):
            yield f"regularizer {policy.instance_name}: what it prunes cannot be predicted"
