"""Learning rate schedulers of the original that torch has not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lmbench.distiller.errors import DistillerError


class PolynomialLR(LRScheduler):
    """``lr = base_lr * (1 - epoch / T_max) ** power``, and 0 from ``T_max`` on."""

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # noqa: N803 - the argument's name in schedules
        power: float,
        last_epoch: int = -1,
    ) -> None:
        if T_max < 1:
            raise DistillerError(f"PolynomialLR: T_max {T_max} must be at least 1")
        if power < 0:
            raise DistillerError(f"PolynomialLR: power {power} must not be negative")
        self.T_max = T_max
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        left = max(0.0, 1.0 - self.last_epoch / self.T_max)
        return [base_lr * left**self.power for base_lr in self.base_lrs]


class MultiStepMultiGammaLR(LRScheduler):
    """Multiply the learning rate by ``gammas[i]`` when epoch ``milestones[i]`` begins."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gammas: Sequence[float],
        last_epoch: int = -1,
    ) -> None:
        if len(milestones) != len(gammas):
            raise DistillerError(
                f"MultiStepMultiGammaLR: {len(milestones)} milestones but {len(gammas)} gammas; "
                "give one gamma for each milestone"
            )
        if list(milestones) != sorted(set(milestones)):
            raise DistillerError("MultiStepMultiGammaLR: milestones must rise")
        self.milestones = list(milestones)
        self.gammas = list(gammas)
        self.multiplicative_gammas = list(accumulate([1.0, *gammas], mul))
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        factor = self.multiplicative_gammas[bisect_right(self.milestones, self.last_epoch)]
        return [base_lr * factor for base_lr in self.base_lrs]
