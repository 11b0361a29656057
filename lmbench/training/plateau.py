"""When to anneal the learning rate, and which epoch is the best, while pruning goes on or not."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Plateau"]

# An improvement counts from this relative size on, as in torch's ReduceLROnPlateau.
_THRESHOLD = 1e-4


@dataclass
class Plateau:
    """Anneals by `factor` after more than `patience` epochs without improvement.

    Losses are compared only among epochs whose models have the same masks and bits: an epoch in
    which pruning took weights away, or that began with fewer bits, starts the comparison anew, so
    that the dip that follows neither anneals the rate nor leaves an earlier, larger model as the
    best one.
    """

    factor: float
    patience: int
    reference: float = math.inf
    bad_epochs: int = 0
    best: float = math.inf
    best_epoch: int = 0

    def step(self, loss: float, epoch: int, *, masks_changed: bool) -> tuple[bool, bool]:
        """Take one epoch's validation loss: (is it the best so far, anneal now)."""
        if masks_changed:
            self.reference = self.best = math.inf
        is_best = loss < self.best
        if is_best:
            self.best, self.best_epoch = loss, epoch
        if loss < self.reference * (1.0 - _THRESHOLD):
            self.reference, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        anneal = self.bad_epochs > self.patience
        if anneal:
            self.bad_epochs = 0
        return is_best, anneal

    def state(self) -> dict[str, Any]:
        """JSON-able; infinity becomes None."""
        return {k: None if v == math.inf else v for k, v in asdict(self).items()}

    @staticmethod
    def state_values(state: dict[str, Any]) -> dict[str, Any]:
        """The fields from what `state` gave."""
        return {k: math.inf if v is None else v for k, v in state.items()}
