"""What each class of a schedule takes: one pydantic model a class. No torch here.

The same words as the constructors in `pruning`, `regularization` and `lr_schedulers`; a test holds
them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

CONVOLUTION_GROUPS = ("2D", "3D", "4D", "Filters")
ONLY_FOR_CONVOLUTIONS = frozenset(
    {
        "ActivationAPoZRankedFilterPruner",
        "ActivationAPoZRankedFilterPruner_AGP",
        "ActivationMeanRankedFilterPruner",
        "ActivationMeanRankedFilterPruner_AGP",
        "ActivationRankedFilterPruner",
        "BernoulliFilterPruner",
        "BernoulliFilterPruner_AGP",
        "ChannelRemover",
        "FMReconstructionChannelPruner",
        "FilterRemover",
        "GradientRankedFilterPruner",
        "GradientRankedFilterPruner_AGP",
        "GreedyFilterPruner",
        "RandomRankedFilterPruner",
        "RandomRankedFilterPruner_AGP",
        "StructureRemover",
    }
)


def _as_number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4, without a point, as a word.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("must be a number") from None
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _group_of_matrix(value: Any) -> Any:
    if value in CONVOLUTION_GROUPS:
        raise ValueError(
            f"'{value}' is of convolutions only; choose Rows, Cols, Blocks or HiddenUnits"
        )
    return value


Number = Annotated[float, BeforeValidator(_as_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(ge=0)]
Sparsity = Annotated[Number, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Names = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]
GroupType = Annotated[
    Literal["Rows", "Cols", "Channels", "Blocks", "HiddenUnits"], BeforeValidator(_group_of_matrix)
]
LineGroup = Annotated[
    Literal["Rows", "Cols", "Channels"],
    BeforeValidator(_group_of_matrix),
]


class Args(BaseModel):
    """The arguments of one class; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Each parameter name with the argument that holds it; ``'*'`` is not one."""
        for field in ("weights", "levels", "thresholds", "sensitivities", "reg_regims"):
            for name in getattr(self, field, None) or ():
                if name != "*":
                    yield field, name


class GradualArgs(Args):
    """A sparsity that rises from one level to another."""

    initial_sparsity: Sparsity
    final_sparsity: Sparsity
    weights: Names

    @model_validator(mode="after")
    def _rises(self) -> GradualArgs:
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"sparsity falls from initial_sparsity {self.initial_sparsity:g} to "
                f"final_sparsity {self.final_sparsity:g}; make final_sparsity the larger one"
            )
        return self


class GlobalArgs(GradualArgs):
    """`GradualArgs` over several tensors together."""

    normalize: bool = False


class BaiduArgs(Args):
    """The two-slope threshold."""

    q: Annotated[Number, Field(gt=0)]
    ramp_epoch_offset: Whole
    ramp_slope_mult: Annotated[Number, Field(gt=0)]
    weights: Names


class LevelArgs(Args):
    """A level for each parameter."""

    levels: Annotated[dict[Name, Sparsity], Field(min_length=1)]


class MagnitudeArgs(Args):
    """A threshold for each parameter and for all others."""

    thresholds: Annotated[dict[Name, Positive], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_default(self) -> MagnitudeArgs:
        if "*" not in self.thresholds:
            raise ValueError("thresholds lacks '*'; add '*': 0.0 to leave the others alone")
        return self


class SensitivityArgs(Args):
    """A multiple of the standard deviation for each parameter."""

    sensitivities: Annotated[dict[Name, Positive], Field(min_length=1)]


class SplicingArgs(SensitivityArgs):
    """The two thresholds of network surgery."""

    low_thresh_mult: Positive
    hi_thresh_mult: Positive
    sensitivity_multiplier: Positive = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> SplicingArgs:
        if self.low_thresh_mult > self.hi_thresh_mult:
            raise ValueError(
                f"low_thresh_mult {self.low_thresh_mult:g} is above hi_thresh_mult "
                f"{self.hi_thresh_mult:g}; swap them"
            )
        return self


class StructureArgs(Args):
    """A threshold for the rows or columns of each parameter."""

    reg_regims: Annotated[dict[Name, tuple[Positive, LineGroup]], Field(min_length=1)]
    threshold_criteria: Literal["Max", "Mean_Abs"]


class StructureKwargs(Args):
    """The ``kwargs`` of a ranked pruner."""

    block_shape: list[Annotated[int, Field(strict=True, ge=1, le=1_000_000)]] | None = None
    consumers: Names | None = None


class _Ranked(Args):
    group_type: GroupType
    weights: Names
    group_dependency: Literal["Leader"] | None = None
    kwargs: StructureKwargs | None = None

    @model_validator(mode="after")
    def _shape_of_blocks(self) -> _Ranked:
        shape = self.kwargs.block_shape if self.kwargs else None
        if self.group_type == "Blocks" and shape is None:
            raise ValueError("group_type Blocks lacks its size; add kwargs: {block_shape: [8, 8]}")
        if shape is not None and len(shape) != 2 and not (len(shape) == 4 and shape[2:] == [1, 1]):
            raise ValueError(f"block_shape {shape} must be two sizes, such as [8, 8]")
        return self

    def parameters(self) -> Iterator[tuple[str, str]]:
        yield from super().parameters()
        for name in (self.kwargs.consumers if self.kwargs else None) or ():
            yield "kwargs: consumers", name


class RankedArgs(_Ranked):
    """A share of structures, at once."""

    desired_sparsity: Sparsity
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    group_size: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 1
    rounding_fn: Literal["floor", "ceil"] = "floor"
    seed: Whole = 0


class RankedAgpArgs(_Ranked, GradualArgs):
    """A share of structures that rises."""


class NMArgs(Args):
    """``n`` of every ``m`` weights stay."""

    weights: Names
    n: Annotated[int, Field(strict=True, ge=1, le=1024)] = 2
    m: Annotated[int, Field(strict=True, ge=2, le=1024)] = 4

    @model_validator(mode="after")
    def _prunes(self) -> NMArgs:
        if self.n >= self.m:
            raise ValueError(f"n {self.n} of m {self.m} prunes nothing; make n smaller")
        return self


class L1Args(Args):
    """A strength for each parameter."""

    reg_regims: Annotated[dict[Name, Positive], Field(min_length=1)]
    threshold_criteria: Literal["Max", "Mean_Abs"] | None = None


class GroupLassoArgs(Args):
    """A strength and the groups for each parameter."""

    reg_regims: Annotated[
        dict[
            Name,
            tuple[
                Positive,
                Annotated[
                    Literal["Rows", "Cols", "Rows+Cols", "Cols+Rows"],
                    BeforeValidator(_group_of_matrix),
                ],
            ],
        ],
        Field(min_length=1),
    ]
    threshold_criteria: Literal["Max", "Mean_Abs"] | None = None


class FreeArgs(BaseModel):
    """Arguments that only the class itself can judge, when it is built."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def parameters(self) -> Iterator[tuple[str, str]]:
        """None: no argument is known to be a parameter's name."""
        return iter(())


PRUNERS: dict[str, type[Args]] = {
    "AutomatedGradualPruner": GradualArgs,
    "BaiduRNNPruner": BaiduArgs,
    "GlobalMagnitudePruner": GlobalArgs,
    "L1RankedStructureParameterPruner": RankedArgs,
    "L1RankedStructureParameterPruner_AGP": RankedAgpArgs,
    "L2RankedStructureParameterPruner": RankedArgs,
    "L2RankedStructureParameterPruner_AGP": RankedAgpArgs,
    "MagnitudeParameterPruner": MagnitudeArgs,
    "NMSparsityPruner": NMArgs,
    "RandomLevelStructureParameterPruner": RankedArgs,
    "SensitivityPruner": SensitivityArgs,
    "SparsityLevelParameterPruner": LevelArgs,
    "SplicingPruner": SplicingArgs,
    "StructureParameterPruner": StructureArgs,
}
REGULARIZERS: dict[str, type[Args]] = {
    "GroupLassoRegularizer": GroupLassoArgs,
    "L1Regularizer": L1Args,
}

# Of each learning rate scheduler: the arguments it needs, and those it may have.
LR_SCHEDULERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ConstantLR": ((), ("factor", "total_iters", "last_epoch")),
    "CosineAnnealingLR": (("T_max",), ("eta_min", "last_epoch")),
    "CosineAnnealingWarmRestarts": (("T_0",), ("T_mult", "eta_min", "last_epoch")),
    "CyclicLR": (
        ("base_lr", "max_lr"),
        (
            "step_size_up",
            "step_size_down",
            "mode",
            "gamma",
            "scale_mode",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
            "last_epoch",
        ),
    ),
    "ExponentialLR": (("gamma",), ("last_epoch",)),
    "LinearLR": ((), ("start_factor", "end_factor", "total_iters", "last_epoch")),
    "MultiStepLR": (("milestones",), ("gamma", "last_epoch")),
    "MultiStepMultiGammaLR": (("milestones", "gammas"), ("last_epoch",)),
    "OneCycleLR": (
        ("max_lr",),
        (
            "total_steps",
            "epochs",
            "steps_per_epoch",
            "pct_start",
            "anneal_strategy",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
            "div_factor",
            "final_div_factor",
            "three_phase",
            "last_epoch",
        ),
    ),
    "PolynomialLR": (("T_max", "power"), ("last_epoch",)),
    "ReduceLROnPlateau": (
        (),
        ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"),
    ),
    "StepLR": (("step_size",), ("gamma", "last_epoch")),
}


class PruningPolicyArgs(Args):
    """The ``args`` of a pruner in a policy."""

    levels: dict[Name, Sparsity] | None = None
    keep_mask: bool = False
    mini_batch_pruning_frequency: Whole = 0
    mask_on_forward_only: bool = False
    mask_gradients: bool = False
    use_double_copies: bool = False
    discard_masks_at_minibatch_end: bool = False
    skip_first_minibatch: bool = False
    fold_batchnorm: Literal[False] = False


class RegularizationPolicyArgs(Args):
    """The ``args`` of a regularizer in a policy."""

    keep_mask: bool = False
