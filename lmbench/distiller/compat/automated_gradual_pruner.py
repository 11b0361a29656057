"""``distiller.pruning.automated_gradual_pruner``."""

from lmbench.distiller.pruning.elementwise import AutomatedGradualPruner
from lmbench.distiller.pruning.structured import (
    L1RankedStructureParameterPruner_AGP,
    L2RankedStructureParameterPruner_AGP,
)
from lmbench.distiller.schedules.agp import AgpPruningRate
