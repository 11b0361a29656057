"""What each pruner of a schedule takes, and the sparsity that its steps will give. No torch here.

The names are those of the constructors in `pruning`; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from lmbench.distiller.schedules.agp import (
    AgpPruningRate,
    BaiduPruningRate,
    epoch_target,
    structures_to_prune,
)
from lmbench.distiller.schedules.arguments import (
    RECURRENT,
    Args,
    Criteria,
    Name,
    Names,
    NonNegative,
    Number,
    Sparsity,
    Whole,
    check_recurrent,
    group_of_matrix,
)
from lmbench.distiller.schedules.prediction import Kept, ModelLayout, WeightsView

GroupType = Annotated[
    Literal["Rows", "Cols", "Channels", "Blocks", "HiddenUnits"], BeforeValidator(group_of_matrix)
]
LineGroup = Annotated[Literal["Rows", "Cols", "Channels"], BeforeValidator(group_of_matrix)]
Meta = Mapping[str, Any]
Share = Annotated[Number, Field(ge=0, le=1)]
Side = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class PrunerArgs(Args):
    """The arguments of a pruner."""

    def values(self) -> Mapping[str, Any]:
        """Each parameter that is listed, with its number if it has one; ``'*'`` for all others."""
        raise NotImplementedError

    def predict(self, layout: ModelLayout, meta: Meta) -> dict[str, Kept]:
        """What a step leaves of each parameter that it prunes.

        Args:
            layout: of the model.
            meta: `PolicyEntry.meta` of the step's epoch.
        """
        predicted = {
            name: self.kept(layout, name, value, meta)
            for name, value in layout.expand(self.values())
        }
        return {name: kept for name, kept in predicted.items() if kept is not None}

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        """What a step leaves of one parameter; None where it does not touch it."""
        if layout.weights is None:
            return Kept(weights=None)
        below = self.share_below(layout.weights, name, value, meta)
        return Kept(None if below is None else 1.0 - below, estimated=True)

    def share_below(self, weights: WeightsView, name: str, value: Any, meta: Meta) -> float | None:
        """The share of weights under the step's threshold; None where that cannot be known."""
        return None


class ListedArgs(PrunerArgs):
    """Of a pruner of the parameters in ``weights``."""

    weights: Names

    def values(self) -> Mapping[str, Any]:
        return dict.fromkeys(self.weights)


class GradualArgs(ListedArgs):
    """A sparsity that rises from one level to another."""

    initial_sparsity: Sparsity
    final_sparsity: Sparsity

    @model_validator(mode="after")
    def _rises(self) -> GradualArgs:
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"sparsity falls from initial_sparsity {self.initial_sparsity:g} to "
                f"final_sparsity {self.final_sparsity:g}; make final_sparsity the larger one"
            )
        return self

    def target(self, meta: Meta) -> float:
        """The sparsity that a step aims at."""
        return epoch_target(AgpPruningRate(self.initial_sparsity, self.final_sparsity), meta)

    def check_epochs(self, meta: Meta) -> None:
        self.target(meta)

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        return _level(self.target(meta), layout, name)


class AgpArgs(GradualArgs):
    """`GradualArgs` of single weights."""

    bias_exponent: NonNegative = 0.0


class GlobalArgs(GradualArgs):
    """`GradualArgs` over several tensors together."""

    normalize: bool = False

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        return _level(self.target(meta), layout, name, estimated=True)


class BaiduArgs(ListedArgs):
    """The two-slope threshold."""

    q: Annotated[Number, Field(gt=0)]
    ramp_epoch_offset: Whole
    ramp_slope_mult: Annotated[Number, Field(gt=0)]

    def threshold(self, meta: Meta) -> float:
        """The magnitude up to which a step prunes."""
        rate = BaiduPruningRate(self.q, self.ramp_epoch_offset, self.ramp_slope_mult)
        return epoch_target(rate, meta)

    def check_epochs(self, meta: Meta) -> None:
        self.threshold(meta)

    def share_below(self, weights: WeightsView, name: str, value: Any, meta: Meta) -> float | None:
        return weights.fraction_below(name, self.threshold(meta))


class LevelArgs(PrunerArgs):
    """A level for each parameter."""

    levels: Annotated[dict[Name, Sparsity], Field(min_length=1)]
    bias_exponent: NonNegative = 0.0

    def values(self) -> Mapping[str, Any]:
        return self.levels

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        return _level(value, layout, name) if value else None


class MagnitudeArgs(PrunerArgs):
    """A threshold for each parameter and for all others."""

    thresholds: Annotated[dict[Name, NonNegative], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_default(self) -> MagnitudeArgs:
        if "*" not in self.thresholds:
            raise ValueError("thresholds lacks '*'; add '*': 0.0 to leave the others alone")
        return self

    def values(self) -> Mapping[str, Any]:
        return self.thresholds

    def share_below(self, weights: WeightsView, name: str, value: Any, meta: Meta) -> float | None:
        return weights.fraction_below(name, value)


class SensitivityArgs(PrunerArgs):
    """A multiple of the standard deviation for each parameter."""

    sensitivities: Annotated[dict[Name, NonNegative], Field(min_length=1)]

    def values(self) -> Mapping[str, Any]:
        return self.sensitivities

    def share_below(self, weights: WeightsView, name: str, value: Any, meta: Meta) -> float | None:
        return weights.fraction_below(name, value * weights.deviation(name))


class SplicingArgs(SensitivityArgs):
    """The two thresholds of network surgery."""

    low_thresh_mult: NonNegative
    hi_thresh_mult: NonNegative
    sensitivity_multiplier: NonNegative = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> SplicingArgs:
        if self.low_thresh_mult > self.hi_thresh_mult:
            raise ValueError(
                f"low_thresh_mult {self.low_thresh_mult:g} is above hi_thresh_mult "
                f"{self.hi_thresh_mult:g}; swap them"
            )
        return self

    def share_below(self, weights: WeightsView, name: str, value: Any, meta: Meta) -> float | None:
        return None


class StructureArgs(PrunerArgs):
    """A threshold for the rows or columns of each parameter."""

    needs_matrices: ClassVar[bool] = True

    reg_regims: Annotated[dict[Name, tuple[NonNegative, LineGroup]], Field(min_length=1)]
    threshold_criteria: Criteria

    def values(self) -> Mapping[str, Any]:
        return self.reg_regims


class StructureKwargs(Args):
    """The ``kwargs`` of a ranked pruner."""

    block_shape: list[Side] | None = None
    consumers: Names | None = None
    rank_by: Literal["rows", "group"] | None = None


class _Ranked(ListedArgs):
    """Of a pruner of whole structures."""

    needs_matrices: ClassVar[bool] = True

    group_type: GroupType
    group_dependency: Literal["Leader"] | None = None
    kwargs: Annotated[StructureKwargs, BeforeValidator(lambda value: value or {})] = (
        StructureKwargs()
    )

    @model_validator(mode="after")
    def _shape_of_blocks(self) -> _Ranked:
        shape = self.kwargs.block_shape
        if self.group_type == "Blocks" and shape is None:
            raise ValueError("group_type Blocks lacks its size; add kwargs: {block_shape: [8, 8]}")
        if shape is not None and len(shape) != 2 and not (len(shape) == 4 and shape[2:] == [1, 1]):
            raise ValueError(f"block_shape {shape} must be two sizes, such as [8, 8]")
        return self

    @model_validator(mode="after")
    def _recurrent_weights(self) -> _Ranked:
        if self.kwargs.rank_by is not None and self.group_type != "HiddenUnits":
            raise ValueError(f"rank_by is of HiddenUnits, and not of {self.group_type}")
        if self.group_type == "HiddenUnits":
            check_recurrent("weights", self.weights)
        return self

    def parameters(self) -> Iterator[tuple[str, str]]:
        yield from super().parameters()
        for name in self.kwargs.consumers or ():
            yield "kwargs: consumers", name

    def structures(self, count: int, meta: Meta) -> int:
        """How many of ``count`` structures a step prunes."""
        raise NotImplementedError

    def predict(self, layout: ModelLayout, meta: Meta) -> dict[str, Kept]:
        if self.group_type == "HiddenUnits":
            return self._hidden_units(layout, meta)
        return super().predict(layout, meta)

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        shape = layout.shapes[name]
        count = self._count(shape)
        kept = 1.0 - self.structures(count, meta) / count
        if self.kwargs.block_shape is not None and self.group_type == "Blocks":
            height, width = self.kwargs.block_shape[:2]
            odd = bool(shape[0] % height or math.prod(shape[1:]) % width)
            pattern = frozenset({f"blocks {height}x{width}"})
            return Kept(kept, estimated=odd, patterns=pattern)
        if self.group_type == "Rows":
            return Kept(rows=kept, patterns=frozenset({"rows"}))
        return Kept(columns=kept, patterns=frozenset({"columns"}))

    def _count(self, shape: Sequence[int]) -> int:
        """How many structures a parameter of this shape has."""
        rows, columns = shape[0], math.prod(shape[1:])
        if self.kwargs.block_shape is not None and self.group_type == "Blocks":
            height, width = self.kwargs.block_shape[:2]
            return math.ceil(rows / height) * math.ceil(columns / width)
        return rows if self.group_type == "Rows" else columns

    def mismatch(self, shapes: Mapping[str, Sequence[int]]) -> str:
        if self.group_dependency is None or self.group_type == "HiddenUnits":
            return ""
        counts = {name: self._count(shapes[name]) for name in self.weights if name in shapes}
        for name, count in counts.items():
            # No numbers: the rows of an embedding are not known before the corpus is.
            if count != next(iter(counts.values())):
                return (
                    f"'{name}' has not as many {self.group_type} as '{next(iter(counts))}', whose "
                    "mask it takes: leave out group_dependency, or one of them"
                )
        return ""

    def _hidden_units(self, layout: ModelLayout, meta: Meta) -> dict[str, Kept]:
        predicted: dict[str, Kept] = {}
        units = frozenset({"units"})

        def keep(name: str, kept: Kept) -> None:
            first = layout.names.get(name)
            if first is not None:
                predicted[first] = predicted.get(first, Kept()) & kept

        matches = (RECURRENT.fullmatch(weight) for weight in self.weights)
        for prefix, layer in dict.fromkeys((m["prefix"], int(m["layer"])) for m in matches if m):
            recurrent = f"{prefix}weight_hh_l{layer}"
            if recurrent not in layout.names:
                continue
            hidden = layout.shapes[layout.names[recurrent]][1]
            share = 1.0 - self.structures(hidden, meta) / hidden
            following = f"{prefix}weight_ih_l{layer + 1}"
            projected = "projection.weight" in layout.names
            by_default = ["projection.weight" if projected else "decoder.weight"]
            last_readers = self.kwargs.consumers or by_default
            readers = [following] if following in layout.names else last_readers
            for name in (recurrent, f"{prefix}weight_ih_l{layer}"):
                keep(name, Kept(rows=share, patterns=units))
            for name in (recurrent, *readers):
                keep(name, Kept(columns=share, patterns=units))
        return predicted


class RankedArgs(_Ranked):
    """A share of structures, at once."""

    desired_sparsity: Sparsity
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    group_size: Side = 1
    rounding_fn: Literal["floor", "ceil"] = "floor"
    seed: Whole = 0

    def structures(self, count: int, meta: Meta) -> int:
        up = self.rounding_fn == "ceil"
        return structures_to_prune(count, self.desired_sparsity, self.group_size, up)


class RankedAgpArgs(_Ranked, GradualArgs):
    """A share of structures that rises."""

    def structures(self, count: int, meta: Meta) -> int:
        return structures_to_prune(count, self.target(meta))


class RandomLevelArgs(_Ranked):
    """A share of structures that each step draws anew."""

    sparsity_range: tuple[Share, Share]

    @model_validator(mode="after")
    def _rises(self) -> RandomLevelArgs:
        if self.sparsity_range[0] >= self.sparsity_range[1]:
            raise ValueError(f"sparsity_range {list(self.sparsity_range)} must rise")
        return self

    def structures(self, count: int, meta: Meta) -> int:
        return structures_to_prune(count, sum(self.sparsity_range) / 2)

    def predict(self, layout: ModelLayout, meta: Meta) -> dict[str, Kept]:
        predicted = super().predict(layout, meta)
        return {name: replace(kept, estimated=True) for name, kept in predicted.items()}


class NMArgs(ListedArgs):
    """``n`` of every ``m`` weights stay."""

    n: Annotated[int, Field(strict=True, ge=1, le=1024)] = 2
    m: Annotated[int, Field(strict=True, ge=2, le=1024)] = 4

    @model_validator(mode="after")
    def _prunes(self) -> NMArgs:
        if self.n >= self.m:
            raise ValueError(f"n {self.n} of m {self.m} prunes nothing; make n smaller")
        return self

    def kept(self, layout: ModelLayout, name: str, value: Any, meta: Meta) -> Kept | None:
        width = layout.shapes[name][-1]
        kept = (width // self.m * self.n + min(width % self.m, self.n)) / width
        return Kept(kept, patterns=frozenset({f"{self.n} of {self.m}"}))


def _level(target: float, layout: ModelLayout, name: str, estimated: bool = False) -> Kept:
    numel = math.prod(layout.shapes[name])
    pruned = max(0, min(numel, int(target * numel)))
    return Kept(1.0 - pruned / numel if numel else 1.0, estimated=estimated)


PRUNERS: dict[str, type[PrunerArgs]] = {
    "AutomatedGradualPruner": AgpArgs,
    "BaiduRNNPruner": BaiduArgs,
    "GlobalMagnitudePruner": GlobalArgs,
    "L1RankedStructureParameterPruner": RankedArgs,
    "L1RankedStructureParameterPruner_AGP": RankedAgpArgs,
    "L2RankedStructureParameterPruner": RankedArgs,
    "L2RankedStructureParameterPruner_AGP": RankedAgpArgs,
    "MagnitudeParameterPruner": MagnitudeArgs,
    "NMSparsityPruner": NMArgs,
    "RandomLevelStructureParameterPruner": RandomLevelArgs,
    "RandomStructureParameterPruner": RankedArgs,
    "SensitivityPruner": SensitivityArgs,
    "SparsityLevelParameterPruner": LevelArgs,
    "SplicingPruner": SplicingArgs,
    "StructureParameterPruner": StructureArgs,
}
