"""What each learning rate scheduler of a schedule takes. No torch here.

The names are those of the constructors in `torch.optim.lr_scheduler` and `lr_schedulers`; a test
compares them. Bounds are those outside of which a constructor or a later step fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.schedules.arguments import Args, NonNegative, Number, Whole

Steps = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Milestones = Annotated[list[Whole], Field(min_length=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
PerGroup = NonNegative | list[NonNegative]


class LRArgs(Args):
    """What every one of them takes; a resumed run restores its state by itself."""

    last_epoch: Annotated[int, Field(strict=True, ge=-1, le=-1)] = -1


class ConstantLRArgs(LRArgs):
    """A factor for some epochs."""

    factor: Annotated[Number, Field(gt=0, le=1)] = 1 / 3
    total_iters: Whole = 5


class CosineAnnealingLRArgs(LRArgs):
    """Half a period of a cosine."""

    T_max: Steps
    eta_min: NonNegative = 0.0


class CosineAnnealingWarmRestartsArgs(LRArgs):
    """A cosine that begins anew."""

    T_0: Steps
    T_mult: Steps = 1
    eta_min: NonNegative = 0.0


class _MomentumArgs(LRArgs):
    """Of those that move the momentum against the learning rate."""

    cycle_momentum: bool = True
    base_momentum: PerGroup | None = None
    max_momentum: PerGroup | None = None


class CyclicLRArgs(_MomentumArgs):
    """Up and down between two bounds."""

    base_lr: PerGroup
    max_lr: PerGroup
    step_size_up: Steps = 2000
    step_size_down: Steps | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: NonNegative = 1.0
    scale_mode: Literal["cycle", "iterations"] = "cycle"


class ExponentialLRArgs(LRArgs):
    """A factor at each epoch."""

    gamma: NonNegative


class LinearLRArgs(LRArgs):
    """A factor that moves along a line."""

    start_factor: Annotated[Number, Field(gt=0, le=1)] = 1 / 3
    end_factor: Share = 1.0
    total_iters: Steps = 5


class MultiStepLRArgs(LRArgs):
    """A factor at each milestone."""

    milestones: Milestones
    gamma: NonNegative = 0.1


class MultiStepMultiGammaLRArgs(LRArgs):
    """A factor of its own at each milestone."""

    milestones: Milestones
    gammas: list[NonNegative]

    @model_validator(mode="after")
    def _one_each(self) -> MultiStepMultiGammaLRArgs:
        if len(self.milestones) != len(self.gammas):
            raise ValueError(
                f"{len(self.milestones)} milestones but {len(self.gammas)} gammas; give one gamma "
                "for each milestone"
            )
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        return self


class OneCycleLRArgs(_MomentumArgs):
    """One rise and one fall."""

    max_lr: PerGroup
    total_steps: Steps | None = None
    epochs: Steps | None = None
    steps_per_epoch: Steps | None = None
    pct_start: Share = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: Annotated[Number, Field(gt=0)] = 25.0
    final_div_factor: Annotated[Number, Field(gt=0)] = 1e4
    three_phase: bool = False

    @model_validator(mode="after")
    def _has_a_length(self) -> OneCycleLRArgs:
        if self.total_steps is None and (self.epochs is None or self.steps_per_epoch is None):
            raise ValueError("give total_steps, or epochs and steps_per_epoch")
        return self

    def check_epochs(self, meta: Mapping[str, Any]) -> None:
        length = self.total_steps or (self.epochs or 0) * (self.steps_per_epoch or 0)
        needed = meta["scheduled_epochs"][-1] + 1
        if length < needed:
            raise ScheduleError(
                f"a cycle of {length} steps ends before the policy's last epoch {needed - 1}; "
                f"make it at least {needed}"
            )


class PolynomialLRArgs(LRArgs):
    """A power of what is left of the epochs."""

    T_max: Steps
    power: NonNegative


class ReduceLROnPlateauArgs(Args):
    """A factor when the validation loss no longer falls."""

    mode: Literal["min", "max"] = "min"
    factor: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    patience: Whole = 10
    threshold: NonNegative = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Whole = 0
    min_lr: PerGroup = 0.0
    eps: NonNegative = 1e-8


class StepLRArgs(LRArgs):
    """A factor every so many epochs."""

    step_size: Steps
    gamma: NonNegative = 0.1


LR_SCHEDULERS: dict[str, type[Args]] = {
    "ConstantLR": ConstantLRArgs,
    "CosineAnnealingLR": CosineAnnealingLRArgs,
    "CosineAnnealingWarmRestarts": CosineAnnealingWarmRestartsArgs,
    "CyclicLR": CyclicLRArgs,
    "ExponentialLR": ExponentialLRArgs,
    "LinearLR": LinearLRArgs,
    "MultiStepLR": MultiStepLRArgs,
    "MultiStepMultiGammaLR": MultiStepMultiGammaLRArgs,
    "OneCycleLR": OneCycleLRArgs,
    "PolynomialLR": PolynomialLRArgs,
    "ReduceLROnPlateau": ReduceLROnPlateauArgs,
    "StepLR": StepLRArgs,
}
