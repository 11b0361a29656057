"""Pruners, and the criteria by which they choose weights."""

from __future__ import annotations

from ..rates import AgpPruningRate, BaiduPruningRate
from .criteria import (
    create_mask_level_criterion,
    create_mask_sensitivity_criterion,
    create_mask_threshold_criterion,
    mask_tensor,
)
from .elementwise import (
    AutomatedGradualPruner,
    BaiduRNNPruner,
    GlobalMagnitudePruner,
    MagnitudeParameterPruner,
    SensitivityPruner,
    SparsityLevelParameterPruner,
    SplicingPruner,
)
from .hidden_units import HiddenUnits, RecurrentLayer, recurrent_layers
from .pruner import ParameterPruner
from .structured import (
    L1RankedStructureParameterPruner,
    L1RankedStructureParameterPruner_AGP,
    L2RankedStructureParameterPruner,
    L2RankedStructureParameterPruner_AGP,
    NMSparsityPruner,
    RandomLevelStructureParameterPruner,
    StructureParameterPruner,
)
from .structures import Structures
from .thinning import removable_units, thin

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
