"""``distiller.scheduler``."""

from lmbench.distiller.pruning.masks import ParameterMasker, create_model_masks_dict
from lmbench.distiller.schedules.scheduler import CompressionScheduler
