"""Pruners, and the criteria by which they choose weights."""

from __future__ import annotations

from types import ModuleType

from lmbench.distiller.compat import aliased_submodule
from lmbench.distiller.pruning.criteria import (
    create_mask_level_criterion,
    create_mask_sensitivity_criterion,
    create_mask_threshold_criterion,
    mask_tensor,
)
from lmbench.distiller.pruning.elementwise import (
    AutomatedGradualPruner,
    BaiduRNNPruner,
    GlobalMagnitudePruner,
    MagnitudeParameterPruner,
    SensitivityPruner,
    SparsityLevelParameterPruner,
    SplicingPruner,
)
from lmbench.distiller.pruning.hidden_units import HiddenUnits, RecurrentLayer, recurrent_layers
from lmbench.distiller.pruning.pruner import ParameterPruner
from lmbench.distiller.pruning.structured import (
    L1RankedStructureParameterPruner,
    L1RankedStructureParameterPruner_AGP,
    L2RankedStructureParameterPruner,
    L2RankedStructureParameterPruner_AGP,
    NMSparsityPruner,
    RandomLevelStructureParameterPruner,
    RandomStructureParameterPruner,
    StructureParameterPruner,
)
from lmbench.distiller.pruning.structures import Structures
from lmbench.distiller.pruning.thinning import removable_units, thin
from lmbench.distiller.schedules.agp import AgpPruningRate, BaiduPruningRate

__all__ = [
    "AgpPruningRate",
    "AutomatedGradualPruner",
    "BaiduPruningRate",
    "BaiduRNNPruner",
    "GlobalMagnitudePruner",
    "HiddenUnits",
    "L1RankedStructureParameterPruner",
    "L1RankedStructureParameterPruner_AGP",
    "L2RankedStructureParameterPruner",
    "L2RankedStructureParameterPruner_AGP",
    "MagnitudeParameterPruner",
    "NMSparsityPruner",
    "ParameterPruner",
    "RandomLevelStructureParameterPruner",
    "RandomStructureParameterPruner",
    "RecurrentLayer",
    "SensitivityPruner",
    "SparsityLevelParameterPruner",
    "SplicingPruner",
    "StructureParameterPruner",
    "Structures",
    "create_mask_level_criterion",
    "create_mask_sensitivity_criterion",
    "create_mask_threshold_criterion",
    "mask_tensor",
    "recurrent_layers",
    "removable_units",
    "thin",
]


def __getattr__(name: str) -> ModuleType:
    return aliased_submodule(__name__, name)
