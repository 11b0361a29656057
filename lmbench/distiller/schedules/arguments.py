"""What each class of a schedule takes: one pydantic model a class. No torch here.

The names are those of the constructors in `pruning.regularization`; a test compares them. Pruners
are in `pruner_arguments`, learning rates in `lr_arguments`, quantizers in `quantizer_arguments`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmbench.distiller.errors import DistillerError

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

# A weight of a recurrent layer, which names the layer's hidden units.
RECURRENT = re.compile(r"(?P<prefix>(?:.+\.)?)weight_(?:ih|hh)_l(?P<layer>\d+)")


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


def group_of_matrix(value: Any) -> Any:
    if value in CONVOLUTION_GROUPS:
        raise ValueError(
            f"'{value}' is of convolutions only; choose Rows, Cols, Blocks or HiddenUnits"
        )
    return value


def bias_beside(weight: str) -> str:
    """What the biases of a weight's rows are called, where its layer has them: a decoder, say."""
    return weight.removesuffix("weight") + "bias" if weight.endswith(".weight") else ""


def check_recurrent(argument: str, weights: Iterable[str]) -> None:
    """Raise DistillerError where a weight that is to name hidden units is no recurrent layer's."""
    for weight in weights:
        if not RECURRENT.fullmatch(weight):
            raise DistillerError(
                f"{argument}: '{weight}' is not a recurrent weight; HiddenUnits takes names such "
                "as rnn.weight_hh_l0"
            )


def two_of_one_layer(one: str, other: str) -> str:
    """Why a group lasso of hidden units refuses two weights."""
    return (
        f"'{one}' and '{other}' are weights of one layer, whose units would count twice; name one "
        "of them"
    )


Number = Annotated[float, BeforeValidator(_as_number), Field(allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0)]
Sparsity = Annotated[Number, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Criteria = Literal["Max", "Mean_Abs", "Mean_L1", "Mean_L2", "L1", "L2"]
Names = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]


# Arguments in which ``'*'`` is every parameter that is not named.
_WITH_A_DEFAULT = ("levels", "thresholds", "sensitivities")


class Args(BaseModel):
    """The arguments of one class; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Whether the named parameters must have two dimensions.
    needs_matrices: ClassVar[bool] = False

    def check_epochs(self, meta: Mapping[str, Any]) -> None:
        """Raise ScheduleError where the epochs of a policy do not suit these arguments."""

    def mismatch(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why these arguments do not suit parameters of these shapes; "" where they do."""
        return ""

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Each parameter name with the argument that holds it, less ``'*'`` where that stands for
        all others."""
        for field in ("weights", "levels", "thresholds", "sensitivities", "reg_regims"):
            for name in getattr(self, field, None) or ():
                if name != "*" or field not in _WITH_A_DEFAULT:
                    yield field, name


class L1Args(Args):
    """A strength for each parameter."""

    reg_regims: Annotated[dict[Name, NonNegative], Field(min_length=1)]
    threshold_criteria: Criteria | None = None


Lines = Annotated[
    Literal["Rows", "Cols", "Rows+Cols", "Cols+Rows"], BeforeValidator(group_of_matrix)
]
LinesOrUnits = Annotated[
    Literal["Rows", "Cols", "Rows+Cols", "Cols+Rows", "HiddenUnits"],
    BeforeValidator(group_of_matrix),
]


class GroupVarianceArgs(Args):
    """A strength and the groups for each parameter."""

    needs_matrices: ClassVar[bool] = True

    reg_regims: Annotated[dict[Name, tuple[NonNegative, Lines]], Field(min_length=1)]


class GroupLassoArgs(Args):
    """With a threshold, too, and of hidden units, which have none."""

    needs_matrices: ClassVar[bool] = True

    reg_regims: Annotated[dict[Name, tuple[NonNegative, LinesOrUnits]], Field(min_length=1)]
    threshold_criteria: Criteria | None = None

    @model_validator(mode="after")
    def _units(self) -> GroupLassoArgs:
        units = [name for name, (_, group) in self.reg_regims.items() if group == "HiddenUnits"]
        check_recurrent("reg_regims", units)
        layers: dict[tuple[str, ...], str] = {}
        for name in units:
            match = RECURRENT.fullmatch(name)
            assert match is not None
            if (other := layers.setdefault(match.groups(), name)) != name:
                raise DistillerError(two_of_one_layer(other, name))
        if units and self.threshold_criteria is not None:
            raise ValueError(
                "threshold_criteria is of rows and columns; leave it out, and let a pruner of "
                "HiddenUnits remove what the regularizer makes small"
            )
        return self


REGULARIZERS: dict[str, type[Args]] = {
    "GroupLassoRegularizer": GroupLassoArgs,
    "GroupVarianceRegularizer": GroupVarianceArgs,
    "L1Regularizer": L1Args,
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
