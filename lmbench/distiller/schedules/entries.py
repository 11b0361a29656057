"""What a checked schedule holds. No torch here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lmbench.distiller.schedules.agp import scheduled_epochs
from lmbench.distiller.schedules.arguments import Args, PruningPolicyArgs

Kind = Literal["pruner", "regularizer", "lr_scheduler", "quantizer"]


@dataclass(frozen=True)
class Component:
    """A pruner, regularizer, learning rate scheduler or quantizer that a schedule defines."""

    name: str
    class_name: str
    args: Args

    def arguments(self) -> dict[str, Any]:
        """The arguments that the file gave, as the constructor takes them."""
        return self.args.model_dump(exclude_unset=True)


@dataclass(frozen=True)
class PolicyEntry:
    """When one component acts.

    ``epochs`` is what the file listed, or None for a range with an exclusive ``ending_epoch``.
    """

    kind: Kind
    instance_name: str
    args: Args | None
    epochs: tuple[int, ...] | None
    starting_epoch: int
    ending_epoch: int
    frequency: int | None

    @property
    def run(self) -> Sequence[int]:
        """The epochs at which it acts, in order."""
        if self.epochs is not None:
            return sorted(set(self.epochs))
        return scheduled_epochs(self.starting_epoch, self.ending_epoch, self.frequency or 1)

    @property
    def skips_first_epoch(self) -> bool:
        """Whether a pruner takes its first step at the second of its epochs."""
        args = self.args
        return (
            isinstance(args, PruningPolicyArgs)
            and args.skip_first_minibatch
            and not args.mini_batch_pruning_frequency
            and self.run[0] > 0
        )

    def latest_step(self, epoch: int) -> int | None:
        """The last epoch up to ``epoch`` at which it takes a step; None before its first."""
        count = bisect_right(self.run, epoch)
        return self.run[count - 1] if count > self.skips_first_epoch else None

    def meta(self, epoch: int) -> dict[str, Any]:
        """What the scheduler passes to a pruner at an epoch."""
        return {
            "starting_epoch": self.starting_epoch,
            "ending_epoch": self.ending_epoch,
            "frequency": self.frequency,
            "scheduled_epochs": self.run,
            "current_epoch": epoch,
        }


@dataclass(frozen=True)
class Schedule:
    """A checked schedule.

    ``warnings`` are lines about what is allowed and probably not meant.
    """

    source: str
    components: dict[Kind, dict[str, Component]]
    policies: tuple[PolicyEntry, ...]
    warnings: tuple[str, ...] = ()

    def component(self, policy: PolicyEntry) -> Component:
        """What a policy runs."""
        return self.components[policy.kind][policy.instance_name]

    @property
    def needs_model(self) -> bool:
        """Whether some mistakes show only when its policies are built for a model."""
        return any(
            kind in ("quantizer", "lr_scheduler")
            or getattr(component.args, "group_type", None) == "HiddenUnits"
            for kind, components in self.components.items()
            for component in components.values()
        )

    @property
    def last_epoch(self) -> int:
        """The last epoch at which anything is scheduled, -1 for an empty schedule."""
        return max((policy.run[-1] for policy in self.policies), default=-1)
