"""The original's module of policies."""

from __future__ import annotations

from lmbench.distiller.schedules.policies import (
    LossComponent,
    LRPolicy,
    PolicyLoss,
    PruningPolicy,
    QuantizationPolicy,
    RegularizationPolicy,
    ScheduledTrainingPolicy,
)

__all__ = [
    "LRPolicy",
    "LossComponent",
    "PolicyLoss",
    "PruningPolicy",
    "QuantizationPolicy",
    "RegularizationPolicy",
    "ScheduledTrainingPolicy",
]
